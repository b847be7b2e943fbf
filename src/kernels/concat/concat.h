/* concat: pieces of two matrices side by side: out[h] = a[h] | b[h] for each of n_heads pieces of a row.
 *
 *   a    [rows, n_heads · a_cols], pitch in elements
 *   b    [rows, n_heads · b_cols], or [rows, b_cols] when all pieces share it
 *   out  [rows, n_heads · (a_cols + b_cols)]; overlaps neither
 *
 * A copy, bit exact. */
#ifndef SPEY_KERNELS_CONCAT_CONCAT_H
#define SPEY_KERNELS_CONCAT_CONCAT_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

typedef struct spey_concat_args {
    int64_t rows;
    int64_t n_heads;
    int64_t a_cols, b_cols;
    bool b_shared;
    spey_dtype dtype;
    const void *a;
    int64_t a_pitch;
    const void *b;
    int64_t b_pitch;
    void *out;
    int64_t out_pitch;
} spey_concat_args;

#endif
