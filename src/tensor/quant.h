/* How numbers are rounded to E4M3: value ≈ scale · element. */
#ifndef SPEY_TENSOR_QUANT_H
#define SPEY_TENSOR_QUANT_H

#include "tensor/dtype.h"

/* What a linear layer with E4M3 weights does to its input before the product. */
typedef enum spey_input_quant {
    SPEY_INPUT_AS_IS,
    SPEY_INPUT_TOKEN,  /* E4M3 with a scale for each token, from its own largest magnitude */
    SPEY_INPUT_STATIC, /* E4M3 with one scale for all, found by calibration */
} spey_input_quant;

/* A scale and what to multiply by instead of dividing. Devices compute both in the same way, so that all round alike. */
typedef struct spey_e4m3_scale {
    float scale, inverse;
} spey_e4m3_scale;

/* So that the largest magnitude becomes 448. The floor keeps both numbers finite and positive. */
static inline spey_e4m3_scale spey_e4m3_scale_of(float largest)
{
    const float floor = 0x1p-60f;
    float top = largest > floor ? largest : floor;
    return (spey_e4m3_scale){ top / SPEY_E4M3_MAX, SPEY_E4M3_MAX / top };
}

#endif
