/* The dot products for gemm_x86.h with BF16 weights and x rounded to BF16, in AVX512_BF16: VDPBF16PS multiplies 32 pairs
 * and adds them to 16 FP32 sums. Tiles of 6 × 4 outputs. The instruction takes subnormal inputs for 0 and flushes
 * subnormal results. */
#ifndef SPEY_KERNELS_GEMM_GEMM_X86_BF16_DOT_H
#define SPEY_KERNELS_GEMM_GEMM_X86_BF16_DOT_H

#include "kernels/x86/vec.h"
#include "tensor/dtype.h"

enum {
    GEMM_ROWS = 6,
    GEMM_K_BLOCK = 2048, /* six rows of x: 24 KiB, half of an L1 */
    GEMM_STEP = 32,
};
typedef uint16_t gemm_x;

#define GEMM_DOT_INLINE static inline __attribute__((always_inline))

GEMM_DOT_INLINE int gemm_step(const spey_dtype dtype)
{
    (void)dtype;
    return GEMM_STEP;
}

GEMM_DOT_INLINE void gemm_dot(const int mr, const spey_dtype dtype, const uint16_t *x,
                              int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                              vec acc[GEMM_ROWS][4])
{
    (void)dtype;
    __m512bh xs[GEMM_ROWS];
    for (int r = 0; r < mr; r++)
        xs[r] = (__m512bh)_mm512_loadu_si512(x + r * x_pitch + at);
    for (int c = 0; c < 4; c++) {
        __m512bh wc = (__m512bh)_mm512_loadu_si512(w[c] + 2 * at);
        for (int r = 0; r < mr; r++)
            acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xs[r], wc);
    }
}

GEMM_DOT_INLINE void gemm_dot_tail(const int mr, const spey_dtype dtype, const uint16_t *x,
                                   int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                                   int64_t end, vec acc[GEMM_ROWS][4])
{
    (void)dtype;
    const __mmask32 mask = (__mmask32)((1ull << (end - at)) - 1);
    __m512bh xs[GEMM_ROWS];
    for (int r = 0; r < mr; r++)
        xs[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, x + r * x_pitch + at);
    for (int c = 0; c < 4; c++) {
        __m512bh wc = (__m512bh)_mm512_maskz_loadu_epi16(mask, w[c] + 2 * at);
        for (int r = 0; r < mr; r++)
            acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xs[r], wc);
    }
}

#include "kernels/gemm/gemm_x86.h"

GEMM_PANEL(gemm_panel_bf16, SPEY_BF16)

/* Rows of rounded x begin on a cache line, and not all in the same set of the L1 when k is a power of two. */
static inline int64_t gemm_rounded_pitch(int64_t k)
{
    return gemm_ceil_div(k, GEMM_STEP) * GEMM_STEP + GEMM_STEP;
}

static inline void gemm_round_row(const float *x, int64_t k, uint16_t *out)
{
    for (int64_t i = 0; i < k; i += VEC_LANES) {
        int64_t n = gemm_min(k - i, VEC_LANES);
        __m256bh h = _mm512_cvtneps_pbh(vec_load_f32_n(x + i, n));
        _mm256_mask_storeu_epi16(out + i, vec512_first(n), (__m256i)h);
    }
}

#endif
