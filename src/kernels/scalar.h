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

static inline bool spey_is_float16_or_32(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

/* Element i of an array of F32, F16 or BF16. */
static inline double spey_load(const void *array, spey_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SPEY_F32: return (double)((const float *)array)[i];
    case SPEY_F16: return (double)spey_f16_to_f32(((const uint16_t *)array)[i]);
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
