/* argmax: out[r] = the number of the largest of x[r, :], of equal ones the lowest; -1 when one is NaN or all are -infinity
 * (or cols is 0).
 *
 *   x    F32 [rows, cols], pitch in elements
 *   out  int32 [rows], dense
 * rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_ARGMAX_ARGMAX_H
#define SPEY_KERNELS_ARGMAX_ARGMAX_H

#include <stdint.h>

typedef struct spey_argmax_args {
    int64_t rows;
    int64_t cols;
    const float *x;
    int64_t x_pitch;
    int32_t *out;
} spey_argmax_args;

#endif
