/* The dot products for gemm_x86.h in FP32 math, with weights widened in registers. Define GEMM_ROWS first. */
#ifndef SPEY_KERNELS_GEMM_GEMM_X86_F32_DOT_H
#define SPEY_KERNELS_GEMM_GEMM_X86_F32_DOT_H

#include <stdint.h>

#include "kernels/x86/vec.h"
#include "tensor/dtype.h"

typedef float gemm_x;
enum { GEMM_K_BLOCK = 1024 };               /* six rows of x: 24 KiB, half of an L1 */
static const float gemm_e4m3_unit = 256.0f; /* see vec_load_e4m3 */

#define GEMM_DOT_INLINE static inline __attribute__((always_inline))

/* Elements in 64 bytes of weights: a cache line is prefetched a step. */
GEMM_DOT_INLINE int gemm_step(const spey_dtype dtype)
{
    return dtype == SPEY_F32 ? 16 : dtype == SPEY_E4M3 ? 64 : 32;
}

GEMM_DOT_INLINE vec gemm_w(const spey_dtype dtype, const uint8_t *w, int64_t at)
{
    if (dtype == SPEY_E4M3) return vec_load_e4m3(w + at);
    if (dtype == SPEY_F32) return vec_load_f32((const float *)(const void *)w + at);
    if (dtype == SPEY_BF16) return vec_load_bf16((const uint16_t *)(const void *)w + at);
    return vec_load_f16((const uint16_t *)(const void *)w + at);
}

GEMM_DOT_INLINE vec gemm_w_n(const spey_dtype dtype, const uint8_t *w, int64_t at, int64_t n)
{
    if (dtype == SPEY_E4M3) return vec_load_e4m3_n(w + at, n);
    if (dtype == SPEY_F32) return vec_load_f32_n((const float *)(const void *)w + at, n);
    if (dtype == SPEY_BF16) return vec_load_bf16_n((const uint16_t *)(const void *)w + at, n);
    return vec_load_f16_n((const uint16_t *)(const void *)w + at, n);
}

GEMM_DOT_INLINE void gemm_dot(const int mr, const spey_dtype dtype, const float *x, int64_t x_pitch,
                              const uint8_t *const w[4], int64_t at, vec acc[GEMM_ROWS][4])
{
    for (int i = 0; i < gemm_step(dtype); i += VEC_LANES) {
        vec xs[GEMM_ROWS];
        for (int r = 0; r < mr; r++)
            xs[r] = vec_load_f32(x + r * x_pitch + at + i);
        for (int c = 0; c < 4; c++) {
            vec wc = gemm_w(dtype, w[c], at + i);
            for (int r = 0; r < mr; r++)
                acc[r][c] = vec_fma(xs[r], wc, acc[r][c]);
        }
    }
}

GEMM_DOT_INLINE void gemm_dot_tail(const int mr, const spey_dtype dtype, const float *x,
                                   int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                                   int64_t end, vec acc[GEMM_ROWS][4])
{
    for (; at < end; at += VEC_LANES) {
        int64_t n = end - at < VEC_LANES ? end - at : VEC_LANES;
        vec xs[GEMM_ROWS];
        for (int r = 0; r < mr; r++)
            xs[r] = vec_load_f32_n(x + r * x_pitch + at, n);
        for (int c = 0; c < 4; c++) {
            vec wc = gemm_w_n(dtype, w[c], at, n);
            for (int r = 0; r < mr; r++)
                acc[r][c] = vec_fma(xs[r], wc, acc[r][c]);
        }
    }
}

#include "kernels/gemm/gemm_x86.h"

GEMM_PANEL(gemm_panel_f32, SPEY_F32)
GEMM_PANEL(gemm_panel_f16, SPEY_F16)
GEMM_PANEL(gemm_panel_bf16, SPEY_BF16)
GEMM_PANEL(gemm_panel_e4m3, SPEY_E4M3)

static inline gemm_panel_fn *gemm_f32_panel(spey_dtype w)
{
    switch (w) {
    case SPEY_F32: return gemm_panel_f32;
    case SPEY_F16: return gemm_panel_f16;
    case SPEY_BF16: return gemm_panel_bf16;
    default: return gemm_panel_e4m3;
    }
}

static inline bool gemm_f32_takes(spey_dtype w, spey_input_quant x_quant)
{
    return w == SPEY_F32 || w == SPEY_F16 || w == SPEY_BF16 ||
           (w == SPEY_E4M3 && x_quant == SPEY_INPUT_AS_IS);
}

#endif
