/* gemm: y = activation(x · (w · w_scale)ᵀ + bias)   (a linear layer), and glu of y's halves, if wanted
 *
 *   x     [rows, k] F32 (devices: also BF16/F16, E4M3), pitch in elements
 *   w     [n, k] F32, F16, BF16 or E4M3, pitch in elements; row j holds the weights of output j, as checkpoints store
 *         it; no NaN in E4M3
 *   w_scale  F32, of E4M3 weights alone: [n], one for each output (w_scale_step 1), or one for all (w_scale_step 0)
 *   bias  F32 [n] or NULL
 *   y     [rows, n] F32 (devices: also BF16/F16), pitch in elements; does not overlap x or w
 *
 * precision F32: x enters the products as it is, w is widened exactly, sums in FP32: the result differs from the exact
 * one by FP32 rounding only. precision 16: a row may round x to w's 16-bit type first, to BF16 when w is E4M3 (sums stay
 * FP32).
 *
 * x_quant, with E4M3 weights: x becomes scale · E4M3(x / scale) first, as tensor/quant.h says, by each row's own scale or
 * by *x_scale. A row of this op does as it is told or does not support it. x of E4M3 has been rounded so by who made it:
 * by token, x_scale has the scales [rows].
 *
 * glu.out not NULL: what is wanted is glu of the columns [0, n / 2) and [n / 2, n) of y: glu.gate and glu.up lie there, its
 * rows are those here, activation is none. y is undefined afterwards: a row may do without it, and without its rounding.
 *
 * Batch invariance: on one row of this op, y[r, j] has the same bits whatever `rows` is and wherever r lies.
 * rows == 0 touches nothing; k == 0 gives activation(bias). */
#ifndef SPEY_KERNELS_GEMM_GEMM_H
#define SPEY_KERNELS_GEMM_GEMM_H

#include <stdint.h>

#include "kernels/activation.h"
#include "kernels/glu/glu.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

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
    const float *w_scale;
    int64_t w_scale_step;
    spey_input_quant x_quant;
    const float *x_scale; /* SPEY_INPUT_STATIC, or x of E4M3 */
    const float *bias;
    spey_activation activation;
    spey_precision precision;
    void *y;
    spey_dtype y_dtype;
    int64_t y_pitch;
    spey_glu_args glu;
    void *workspace; /* as many bytes as the row asks for, 64-byte aligned */
} spey_gemm_args;

/* Where the scale of row r of x is that has been rounded. */
static inline const float *spey_gemm_row_scale(const spey_gemm_args *args, int64_t r)
{
    return args->x_dtype == SPEY_E4M3 && args->x_quant == SPEY_INPUT_TOKEN ? args->x_scale + r
                                                                           : args->x_scale;
}

#endif
