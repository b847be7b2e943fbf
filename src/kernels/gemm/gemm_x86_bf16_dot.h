/* The dot products for gemm_x86.h with BF16 or E4M3 weights and x rounded to BF16, in AVX512_BF16: VDPBF16PS multiplies 32
 * pairs and adds them to 16 FP32 sums. Tiles of 6 × 4 outputs. The instruction takes subnormal inputs for 0 and flushes
 * subnormal results; E4M3 weights are widened to BF16, where none is subnormal. */
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
static const float gemm_e4m3_unit = 1.0f;

#define GEMM_DOT_INLINE static inline __attribute__((always_inline))

/* Elements in 64 bytes of weights: a cache line is prefetched a step. */
GEMM_DOT_INLINE int gemm_step(const spey_dtype dtype)
{
    return dtype == SPEY_E4M3 ? 2 * GEMM_STEP : GEMM_STEP;
}

/* Normal numbers: the bits move up by four and the exponent's bias changes by 120. The eight magnitudes below have a
 * table. */
GEMM_DOT_INLINE __m512i gemm_widen_e4m3(__m256i bytes)
{
    const __m512i small = _mm512_castsi128_si512(_mm_setr_epi16(
        0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60)); /* 0 … 7 times 2^-9 */
    __m512i word = _mm512_cvtepi8_epi16(bytes);
    __m512i magnitude = _mm512_and_si512(word, _mm512_set1_epi16(0x7f));
    __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    __mmask32 is_small = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
    __m512i value = _mm512_mask_permutexvar_epi16(normal, is_small, magnitude, small);
    __m512i sign = _mm512_and_si512(word, _mm512_set1_epi16((short)0x8000));
    return _mm512_or_si512(value, sign);
}

/* A mask of all: gcc 12 does not turn a masked load under it into a plain one, and the tile then runs at half speed. */
static const __mmask32 gemm_all = (__mmask32)-1;

GEMM_DOT_INLINE __m512bh gemm_load(const uint16_t *from, __mmask32 mask)
{
    return (__m512bh)(mask == gemm_all ? _mm512_loadu_si512(from)
                                       : _mm512_maskz_loadu_epi16(mask, from));
}

/* The weights from element `at` on, those that `mask` has. */
GEMM_DOT_INLINE __m512bh gemm_w(const spey_dtype dtype, const uint8_t *w, int64_t at,
                                __mmask32 mask)
{
    if (dtype == SPEY_E4M3) return (__m512bh)gemm_widen_e4m3(_mm256_maskz_loadu_epi8(mask, w + at));
    return gemm_load((const uint16_t *)(const void *)(w + 2 * at), mask);
}

GEMM_DOT_INLINE void gemm_dot_32(const int mr, const spey_dtype dtype, const uint16_t *x,
                                 int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                                 __mmask32 mask, vec acc[GEMM_ROWS][4])
{
    __m512bh xs[GEMM_ROWS];
    for (int r = 0; r < mr; r++)
        xs[r] = gemm_load(x + r * x_pitch + at, mask);
    for (int c = 0; c < 4; c++) {
        __m512bh wc = gemm_w(dtype, w[c], at, mask);
        for (int r = 0; r < mr; r++)
            acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xs[r], wc);
    }
}

GEMM_DOT_INLINE void gemm_dot(const int mr, const spey_dtype dtype, const uint16_t *x,
                              int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                              vec acc[GEMM_ROWS][4])
{
    for (int i = 0; i < gemm_step(dtype); i += GEMM_STEP)
        gemm_dot_32(mr, dtype, x, x_pitch, w, at + i, gemm_all, acc);
}

GEMM_DOT_INLINE void gemm_dot_tail(const int mr, const spey_dtype dtype, const uint16_t *x,
                                   int64_t x_pitch, const uint8_t *const w[4], int64_t at,
                                   int64_t end, vec acc[GEMM_ROWS][4])
{
    for (; at < end; at += GEMM_STEP) {
        const int64_t n = end - at < GEMM_STEP ? end - at : GEMM_STEP;
        gemm_dot_32(mr, dtype, x, x_pitch, w, at, (__mmask32)((1ull << n) - 1), acc);
    }
}

#include "kernels/gemm/gemm_x86.h"

GEMM_PANEL(gemm_panel_bf16, SPEY_BF16)
GEMM_PANEL(gemm_panel_e4m3, SPEY_E4M3)

static inline gemm_panel_fn *gemm_bf16_panel(spey_dtype w)
{
    return w == SPEY_E4M3 ? gemm_panel_e4m3 : gemm_panel_bf16;
}

static inline bool gemm_bf16_takes(spey_dtype w, spey_input_quant x_quant)
{
    return w == SPEY_BF16 || (w == SPEY_E4M3 && x_quant == SPEY_INPUT_AS_IS);
}

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
