/* Eight floats: the vector type of the generic kernel bodies, in AVX2 with FMA and F16C. Names as in vec512.h. */
#ifndef SPEY_KERNELS_X86_VEC256_H
#define SPEY_KERNELS_X86_VEC256_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m256 vec;
typedef __m256 vec_mask; /* all bits of a lane; results of comparisons */
enum { VEC_LANES = 8 };

/* The first n lanes, 0 <= n <= 8. */
static inline __m256i vec256_first(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_first(vec a, int64_t n)
{
    return _mm256_and_ps(a, _mm256_castsi256_ps(vec256_first(n)));
}

static inline vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vec vec_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline vec vec_load_f32(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline vec vec_load_f32_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, vec256_first(n));
}

/* AVX2 has no masked access to 16-bit elements: through the stack. */
static inline __m128i vec256_load_16_n(const uint16_t *p, int64_t n)
{
    uint16_t all[8] = { 0 };
    memcpy(all, p, (size_t)n * sizeof(*p));
    return _mm_loadu_si128((const __m128i *)(const void *)all);
}

static inline void vec256_store_16_n(uint16_t *p, __m128i h, int64_t n)
{
    if (n == 8) {
        _mm_storeu_si128((__m128i *)(void *)p, h);
        return;
    }
    uint16_t all[8];
    _mm_storeu_si128((__m128i *)(void *)all, h);
    memcpy(p, all, (size_t)n * sizeof(*p));
}

static inline vec vec256_widen_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline vec vec_load_bf16(const uint16_t *p)
{
    return vec256_widen_bf16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vec vec_load_bf16_n(const uint16_t *p, int64_t n)
{
    return vec256_widen_bf16(vec256_load_16_n(p, n));
}

static inline vec vec_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline vec vec_load_f16_n(const uint16_t *p, int64_t n)
{
    return _mm256_cvtph_ps(vec256_load_16_n(p, n));
}

/* E4M3 divided by 256, exactly: its bits, moved to the top of an F16's exponent and mantissa, are that number in F16,
 * subnormals included. NaN is not told from 480. */
static inline vec vec256_widen_e4m3(__m128i bytes)
{
    __m128i h = _mm_slli_epi16(_mm_cvtepi8_epi16(bytes), 7);
    return _mm256_cvtph_ps(_mm_and_si128(h, _mm_set1_epi16((short)0xbf80)));
}

static inline vec vec_load_e4m3(const uint8_t *p)
{
    return vec256_widen_e4m3(_mm_loadl_epi64((const __m128i *)(const void *)p));
}

static inline vec vec_load_e4m3_n(const uint8_t *p, int64_t n)
{
    uint8_t all[8] = { 0 };
    memcpy(all, p, (size_t)n);
    return vec_load_e4m3(all);
}

static inline void vec_store_f32(float *p, vec a)
{
    _mm256_storeu_ps(p, a);
}

static inline void vec_store_f32_n(float *p, vec a, int64_t n)
{
    _mm256_maskstore_ps(p, vec256_first(n), a);
}

static inline __m128i vec256_to_bf16(vec a)
{
    __m256i u = _mm256_castps_si256(a);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    rounded = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    rounded = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    return _mm256_castsi256_si128(rounded);
}

static inline void vec_store_bf16_n(uint16_t *p, vec a, int64_t n)
{
    vec256_store_16_n(p, vec256_to_bf16(a), n);
}

static inline void vec_store_f16_n(uint16_t *p, vec a, int64_t n)
{
    vec256_store_16_n(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), n);
}

static inline vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec vec_fnma(vec a, vec b, vec c)
{
    return _mm256_fnmadd_ps(a, b, c);
}

static inline vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

static inline vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

static inline vec vec_abs(vec a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static inline vec vec_copysign(vec a, vec b)
{
    return _mm256_or_ps(vec_abs(a), _mm256_and_ps(b, _mm256_set1_ps(-0.0f)));
}

static inline vec vec_round(vec a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* In two halves, so that a subnormal result or 2^128 needs no exponent that does not exist; |n| <= 252. */
static inline vec vec_ldexp(vec a, vec n)
{
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1), rest = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    vec p = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vec q = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, p), q);
}

static inline vec_mask vec_less(vec a, vec b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

static inline vec vec_select(vec_mask mask, vec a, vec b)
{
    return _mm256_blendv_ps(b, a, mask);
}

static inline float vec_sum(vec a)
{
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float vec_max_lane(vec a)
{
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

static inline __m128 vec_sum4(vec a, vec b, vec c, vec d)
{
    vec ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    vec cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    vec abcd = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

#endif
