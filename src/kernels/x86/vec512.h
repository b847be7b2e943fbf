/* Sixteen floats: the vector type of the generic kernel bodies, in AVX-512. vec256.h has the same names in AVX2. */
#ifndef SPEY_KERNELS_X86_VEC512_H
#define SPEY_KERNELS_X86_VEC512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 vec;
typedef __mmask16 vec_mask; /* one bit per lane; results of comparisons */
enum { VEC_LANES = 16 };

/* The first n lanes, 0 <= n <= 16. */
static inline __mmask16 vec512_first(int64_t n)
{
    return (__mmask16)((1u << n) - 1u);
}

/* The first n lanes of a, 0 in the others. */
static inline vec vec_first(vec a, int64_t n)
{
    return _mm512_maskz_mov_ps(vec512_first(n), a);
}

static inline vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vec vec_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vec vec_load_f32(const float *p)
{
    return _mm512_loadu_ps(p);
}

/* Reads n elements (0 <= n <= lanes); the other lanes are 0. */
static inline vec vec_load_f32_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(vec512_first(n), p);
}

static inline vec vec512_widen_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static inline vec vec_load_bf16(const uint16_t *p)
{
    return vec512_widen_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vec vec_load_bf16_n(const uint16_t *p, int64_t n)
{
    return vec512_widen_bf16(_mm256_maskz_loadu_epi16(vec512_first(n), p));
}

static inline vec vec_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static inline vec vec_load_f16_n(const uint16_t *p, int64_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec512_first(n), p));
}

/* E4M3 divided by 256, exactly: its bits, moved to the top of an F16's exponent and mantissa, are that number in F16,
 * subnormals included. NaN is not told from 480. */
static inline vec vec512_widen_e4m3(__m128i bytes)
{
    __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(h, _mm256_set1_epi16((short)0xbf80)));
}

static inline vec vec_load_e4m3(const uint8_t *p)
{
    return vec512_widen_e4m3(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vec vec_load_e4m3_n(const uint8_t *p, int64_t n)
{
    return vec512_widen_e4m3(_mm_maskz_loadu_epi8(vec512_first(n), p));
}

static inline void vec_store_f32(float *p, vec a)
{
    _mm512_storeu_ps(p, a);
}

/* Writes n elements. */
static inline void vec_store_f32_n(float *p, vec a, int64_t n)
{
    _mm512_mask_storeu_ps(p, vec512_first(n), a);
}

/* Round to nearest even, NaN stays NaN, subnormals are kept: as spey_f32_to_bf16. */
static inline __m256i vec512_to_bf16(vec a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

static inline void vec_store_bf16_n(uint16_t *p, vec a, int64_t n)
{
    _mm256_mask_storeu_epi16(p, vec512_first(n), vec512_to_bf16(a));
}

static inline void vec_store_f16_n(uint16_t *p, vec a, int64_t n)
{
    __m256i h = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(p, vec512_first(n), h);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c */
static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a * b */
static inline vec vec_fnma(vec a, vec b, vec c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

/* The second operand when either is NaN. */
static inline vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

static inline vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

static inline vec vec_abs(vec a)
{
    return _mm512_abs_ps(a);
}

/* |a| with the sign of b. */
static inline vec vec_copysign(vec a, vec b)
{
    return _mm512_or_ps(_mm512_abs_ps(a), _mm512_and_ps(b, _mm512_set1_ps(-0.0f)));
}

/* To the nearest integer, ties to even. */
static inline vec vec_round(vec a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* a * 2^n for integral n; exact, over- and underflow as IEEE says. */
static inline vec vec_ldexp(vec a, vec n)
{
    return _mm512_scalef_ps(a, n);
}

static inline vec_mask vec_less(vec a, vec b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

/* a where the mask is set, else b. */
static inline vec vec_select(vec_mask mask, vec a, vec b)
{
    return _mm512_mask_blend_ps(mask, b, a);
}

/* Sum and maximum of the lanes, halves first. */
static inline float vec_sum(vec a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vec_max_lane(vec a)
{
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

/* The sums of the lanes of four vectors, each in the same order. */
static inline __m128 vec_sum4(vec a, vec b, vec c, vec d)
{
    vec ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    vec cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    vec abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

#endif
