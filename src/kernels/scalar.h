/* Scalar access for reference kernels: elements as double, activations in double. */
#ifndef SPEY_KERNELS_SCALAR_H
#define SPEY_KERNELS_SCALAR_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "kernels/activation.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

static inline bool spey_is_float16_or_32(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

/* What the weights of a linear layer may be. */
static inline bool spey_is_weight_dtype(spey_dtype dtype)
{
    return spey_is_float16_or_32(dtype) || dtype == SPEY_E4M3;
}

/* Element i of an array of F32, F16, BF16 or E4M3. */
static inline double spey_load(const void *array, spey_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SPEY_F32: return (double)((const float *)array)[i];
    case SPEY_F16: return (double)spey_f16_to_f32(((const uint16_t *)array)[i]);
    case SPEY_E4M3: return (double)spey_e4m3_to_f32(((const uint8_t *)array)[i]);
    default:
        SPEY_ASSERT(dtype == SPEY_BF16);
        return (double)spey_bf16_to_f32(((const uint16_t *)array)[i]);
    }
}

/* Rounded to F32, then to the dtype. */
static inline void spey_store(void *array, spey_dtype dtype, int64_t i, double value)
{
    switch (dtype) {
    case SPEY_F32: ((float *)array)[i] = (float)value; break;
    case SPEY_F16: ((uint16_t *)array)[i] = spey_f32_to_f16((float)value); break;
    default:
        SPEY_ASSERT(dtype == SPEY_BF16);
        ((uint16_t *)array)[i] = spey_f32_to_bf16((float)value);
    }
}

/* How n elements of x are rounded before a product with E4M3 weights; all zero when they are not. */
static inline spey_e4m3_scale spey_input_scale(spey_input_quant quant, const float *x_scale,
                                               const void *x, spey_dtype dtype, int64_t first,
                                               int64_t n)
{
    if (quant == SPEY_INPUT_AS_IS) return (spey_e4m3_scale){ 0 };
    if (dtype == SPEY_E4M3) return (spey_e4m3_scale){ *x_scale, 1 }; /* it has been rounded */
    if (quant == SPEY_INPUT_STATIC) return (spey_e4m3_scale){ *x_scale, 1 / *x_scale };
    float largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf((float)spey_load(x, dtype, first + i)));
    return spey_e4m3_scale_of(largest);
}

static inline double spey_load_input(const void *x, spey_dtype dtype, int64_t i,
                                     spey_e4m3_scale scale)
{
    double value = spey_load(x, dtype, i);
    if (scale.scale == 0) return value;
    uint8_t rounded = spey_f32_to_e4m3((float)value * scale.inverse);
    return (double)spey_e4m3_to_f32(rounded) * (double)scale.scale;
}

/* How a row is rounded on its way out: by its largest magnitude, which leaves its scale in *out_scale, or by *out_scale. */
static inline spey_e4m3_scale spey_output_scale(spey_input_quant quant, float *out_scale,
                                                double largest)
{
    if (quant == SPEY_INPUT_STATIC) return (spey_e4m3_scale){ *out_scale, 1 / *out_scale };
    SPEY_ASSERT(quant == SPEY_INPUT_TOKEN);
    const spey_e4m3_scale scale = spey_e4m3_scale_of((float)largest);
    *out_scale = scale.scale;
    return scale;
}

static inline void spey_store_e4m3(void *array, int64_t i, double value, spey_e4m3_scale scale)
{
    ((uint8_t *)array)[i] = spey_f32_to_e4m3((float)value * scale.inverse);
}

static inline double spey_activate(spey_activation activation, double x)
{
    const double sqrt_half = 0.70710678118654752440, sqrt_2_over_pi = 0.79788456080286535588;
    switch (activation) {
    case SPEY_ACT_SILU: return x / (1 + exp(-x));
    case SPEY_ACT_GELU: return 0.5 * x * erfc(-x * sqrt_half);
    case SPEY_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
    case SPEY_ACT_RELU: return x < 0 ? 0 : x; /* NaN stays */
    case SPEY_ACT_RELU2: return x < 0 ? 0 : x * x;
    case SPEY_ACT_SIGMOID: return 1 / (1 + exp(-x));
    case SPEY_ACT_TANH: return tanh(x);
    case SPEY_ACT_QUICK_GELU: return x / (1 + exp(-1.702 * x));
    default: SPEY_ASSERT(activation == SPEY_ACT_NONE); return x;
    }
}

#endif
