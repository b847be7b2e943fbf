/* norm: RMSNorm or LayerNorm of each row, with an optional residual sum before it.
 *
 *   s = x + residual                     (residual == NULL: s = x)
 *   RMS    out = s / sqrt(mean(s²) + eps) * (weight + weight_offset)
 *   LAYER  out = (s - mean(s)) / sqrt(var(s) + eps) * (weight + weight_offset) + bias
 *
 *   x, residual, sum, out  [rows, groups * cols], pitch in elements; each of the `groups` pieces of a row is normalised
 *                          alone with the same weight[cols] (QK-norm); groups == 1 is the usual norm
 *   sum                    s is written here when not NULL; may be x or residual itself
 *   out                    may be x itself (then sum must not be)
 *   weight, bias           F32 [cols]; NULL: ones / zeros
 * out of E4M3 (groups == 1): out = E4M3(value / scale), as tensor/quant.h says. By token, each row's scale is written to
 * out_scale [rows]; static, it is *out_scale.
 *
 * Operands that share memory have one dtype. out is computed from s as it is before it is rounded to sum_dtype. Sums are kept in FP32 or wider; var is the biased
 * variance. rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_NORM_NORM_H
#define SPEY_KERNELS_NORM_NORM_H

#include <stdint.h>

#include "tensor/dtype.h"
#include "tensor/quant.h"

typedef enum spey_norm_kind { SPEY_NORM_RMS, SPEY_NORM_LAYER } spey_norm_kind;

typedef struct spey_norm_args {
    int64_t rows;
    int64_t cols;
    int64_t groups;
    spey_norm_kind kind;
    /* F32, out also BF16 (devices: all BF16/F16, and mixed: a residual stream in F32 between narrow operands; out E4M3) */
    spey_dtype x_dtype, residual_dtype, sum_dtype, out_dtype;
    const void *x;
    int64_t x_pitch;
    const void *residual;
    int64_t residual_pitch;
    void *sum;
    int64_t sum_pitch;
    const float *weight;
    const float *bias;
    float weight_offset;
    float eps;
    void *out;
    int64_t out_pitch;
    spey_input_quant out_quant; /* of E4M3 */
    float *out_scale;
} spey_norm_args;

#endif
