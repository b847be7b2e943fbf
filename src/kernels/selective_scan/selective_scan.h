/* selective_scan: the recurrence of a selective state space (Gu, Dao, "Mamba", 2023, algorithm 2). Of every column c:
 *
 *   delta = softplus(dt[t, c])                                             log(1 + e^dt)
 *   h[n]  = exp(delta * -exp(a_log[c, n])) * h[n] + delta * x[t, c] * b[t, n]
 *   out[t, c] = Σ_n c[t, n] * h[n] + d[c] * x[t, c]
 *
 * token by token in the order of each sequence. h is the sequence's state: [cols, states] F32; zeros when the sequence
 * begins. Between tokens h is rounded to FP32, in every row: a chunk more or less changes nothing.
 *
 *   x, dt, out [rows, cols], b, c [rows, states] of `dtype` (F32; devices: also BF16/F16), pitches in elements; out must
 *   not overlap an input
 *   a_log [cols, states] F32 dense, d [cols] F32
 * 1 <= states <= SPEY_SCAN_STATES_MAX. Sums in FP32. Sequences without tokens keep their state. */
#ifndef SPEY_KERNELS_SELECTIVE_SCAN_SELECTIVE_SCAN_H
#define SPEY_KERNELS_SELECTIVE_SCAN_SELECTIVE_SCAN_H

#include "kernels/ragged.h"

typedef struct spey_selective_scan_args {
    int64_t rows; /* tokens */
    int64_t cols;
    int64_t states;
    const spey_ragged *batch;
    const void *x;
    int64_t x_pitch;
    const void *dt;
    int64_t dt_pitch;
    const void *b, *c;
    int64_t b_pitch, c_pitch;
    const float *a_log, *d;
    void *out;
    int64_t out_pitch;
    spey_dtype dtype;
    spey_state_view state;
} spey_selective_scan_args;

#endif
