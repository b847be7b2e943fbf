/* unary: out = softcap(activation(x * scale)), softcap(v) = c · tanh(v / c) when c > 0.
 * add:   out = a + scale * b.
 *
 * All operands [rows, cols], pitches in elements; out may be x, a or b, if it has its dtype. Those of unary have one dtype,
 * those of add may mix F32 with one of 16 bits. */
#ifndef SPEY_KERNELS_ELEMENTWISE_ELEMENTWISE_H
#define SPEY_KERNELS_ELEMENTWISE_ELEMENTWISE_H

#include <stdint.h>

#include "kernels/activation.h"
#include "tensor/dtype.h"

typedef struct spey_unary_args {
    int64_t rows;
    int64_t cols;
    spey_activation activation;
    float scale;
    float softcap; /* 0: off */
    spey_dtype dtype;
    const void *x;
    int64_t x_pitch;
    void *out;
    int64_t out_pitch;
} spey_unary_args;

typedef struct spey_add_args {
    int64_t rows;
    int64_t cols;
    float scale; /* of b */
    spey_dtype a_dtype, b_dtype, out_dtype;
    const void *a;
    int64_t a_pitch;
    const void *b;
    int64_t b_pitch;
    void *out;
    int64_t out_pitch;
} spey_add_args;

#endif
