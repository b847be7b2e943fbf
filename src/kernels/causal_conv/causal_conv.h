/* causal_conv: a convolution along the tokens of each sequence, every column with a filter of its own.
 *
 *   out[t, c] = bias[c] + Σ_k weight[c, k] * x[t - (width - 1) + k, c]        k = 0 … width - 1
 *
 * The rows before the step's first token of a sequence are its state: [width - 1, cols] F32, oldest first; zeros when the
 * sequence begins. Afterwards the state is the last width - 1 rows.
 *
 *   x, out [rows, cols] of `dtype` (F32; devices: also BF16/F16), pitches in elements; out must not overlap x
 *   weight [cols, width] F32 dense, bias [cols] F32 or NULL
 * 2 <= width <= SPEY_CONV_WIDTH_MAX. Sums in FP32, bias first, then k ascending. Sequences without tokens keep their
 * state. */
#ifndef SPEY_KERNELS_CAUSAL_CONV_CAUSAL_CONV_H
#define SPEY_KERNELS_CAUSAL_CONV_CAUSAL_CONV_H

#include "kernels/ragged.h"

typedef struct spey_causal_conv_args {
    int64_t rows; /* tokens */
    int64_t cols;
    int64_t width;
    const spey_ragged *batch;
    const void *x;
    int64_t x_pitch;
    const float *weight;
    const float *bias;
    void *out;
    int64_t out_pitch;
    spey_dtype dtype;
    spey_state_view state;
} spey_causal_conv_args;

#endif
