/* gemm: y = activation(x · wᵀ + bias)   (a linear layer)
 *
 *   x     [rows, k] F32 (devices: also BF16/F16), pitch in elements
 *   w     [n, k] F32, F16 or BF16, pitch in elements; row j holds the weights of output j, as checkpoints store it
 *   bias  F32 [n] or NULL
 *   y     [rows, n] F32 (devices: also BF16/F16), pitch in elements; does not overlap x or w
 *
 * precision F32: x enters the products as it is, w is widened exactly, sums in FP32: the result differs from the exact
 * one by FP32 rounding only. precision 16: a row may round x to w's 16-bit type first (sums stay FP32).
 *
 * Batch invariance: on one row of this op, y[r, j] has the same bits whatever `rows` is and wherever r lies.
 * rows == 0 touches nothing; k == 0 gives activation(bias). */
#ifndef SPEY_KERNELS_GEMM_GEMM_H
#define SPEY_KERNELS_GEMM_GEMM_H

#include <stdint.h>

#include "kernels/activation.h"
#include "tensor/dtype.h"

typedef enum spey_precision { SPEY_PRECISION_F32, SPEY_PRECISION_16 } spey_precision;

typedef struct spey_gemm_args {
    int64_t rows;
    int64_t n;
    int64_t k;
    const void *x;
    spey_dtype x_dtype;
    int64_t x_pitch;
    const void *w;
    spey_dtype w_dtype;
    int64_t w_pitch;
    const float *bias;
    spey_activation activation;
    spey_precision precision;
    void *y;
    spey_dtype y_dtype;
    int64_t y_pitch;
    void *workspace; /* as many bytes as the row asks for, 64-byte aligned */
} spey_gemm_args;

#endif
