/* gather: out[i, :] = x[output_rows[i], :]: the rows whose logits are wanted. A copy, bit exact. out may not overlap x. */
#ifndef SPEY_KERNELS_GATHER_GATHER_H
#define SPEY_KERNELS_GATHER_GATHER_H

#include "kernels/ragged.h"

typedef struct spey_gather_args {
    int64_t rows; /* outputs */
    int64_t cols;
    const spey_ragged *batch; /* output_rows */
    const void *x;
    int64_t x_pitch;
    void *out;
    int64_t out_pitch;
    spey_dtype dtype;
} spey_gather_args;

#endif
