/* glu: out = activation(gate) * up, element by element (SwiGLU, GeGLU; Shazeer, "GLU Variants Improve Transformer", 2020).
 *
 *   limit > 0: gate is min(gate, limit) and up is cut to [-limit, limit] first; then up_offset is added to up (gpt-oss)
 *
 *   out of E4M3: out = E4M3(value / scale), as tensor/quant.h says. By token, each row's scale is written to out_scale
 *   [rows]; static, it is *out_scale.
 *
 *   gate, up, out  [rows, cols], pitches in elements; gate and up may be two column ranges of one matrix; out may be gate or up. */
#ifndef SPEY_KERNELS_GLU_GLU_H
#define SPEY_KERNELS_GLU_GLU_H

#include <stdint.h>

#include "kernels/activation.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

typedef struct spey_glu_args {
    int64_t rows;
    int64_t cols;
    spey_activation activation;
    float limit; /* 0: none */
    float up_offset;
    spey_dtype dtype;     /* of gate and up */
    spey_dtype out_dtype; /* dtype; or apart, and BF16 (CPU) or E4M3 (devices) */
    const void *gate;
    int64_t gate_pitch;
    const void *up;
    int64_t up_pitch;
    void *out;
    int64_t out_pitch;
    spey_input_quant out_quant; /* of E4M3 */
    float *out_scale;
} spey_glu_args;

#endif
