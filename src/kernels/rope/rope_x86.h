/* Rotation of heads and conversion of rows for x86, shared by rope and rope_append: include vec512.h or vec256.h
 * first.
 *
 *   HALF         two vectors, half a rotation apart, are rotated at once.
 *   INTERLEAVED  out = x · (c0 c0 c1 c1 …) + swapped x · (-s0 s0 -s1 s1 …), with x swapped inside its pairs.
 *
 * Bound by memory; a row is read and written once. */
#ifndef SPEY_KERNELS_ROPE_ROPE_X86_H
#define SPEY_KERNELS_ROPE_ROPE_X86_H

#include "kernels/rope/rope.h"
#include "kernels/x86/math.h"

static inline int64_t rope_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline void *rope_at(const void *array, spey_dtype dtype, int64_t i)
{
    return (char *)(uintptr_t)array + i * (int64_t)(dtype == SPEY_F32 ? 4 : 2);
}

/* x with the elements of each pair swapped; the lower half of x with each element twice. */
#ifdef __AVX512F__
static inline vec rope_swap(vec x)
{
    return _mm512_permute_ps(x, 0xb1);
}

static inline vec rope_twice(vec x)
{
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                 x);
}
#else
static inline vec rope_swap(vec x)
{
    return _mm256_permute_ps(x, 0xb1);
}

static inline vec rope_twice(vec x)
{
    return _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}
#endif

static inline void rope_copy(const void *x, spey_dtype dtype, void *out, spey_dtype out_dtype,
                             int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i += VEC_LANES) {
        int64_t n = rope_least(end - i, VEC_LANES);
        vec_store_n(out, out_dtype, i, vec_load_n(x, dtype, i, n), n);
    }
}

static inline void rope_rotate_half(const void *x, spey_dtype dtype, int64_t half,
                                    const float *table, void *out, spey_dtype out_dtype)
{
    for (int64_t i = 0; i < half; i += VEC_LANES) {
        int64_t n = rope_least(half - i, VEC_LANES);
        vec a = vec_load_n(x, dtype, i, n), b = vec_load_n(x, dtype, half + i, n);
        vec cosine = vec_load_f32_n(table + i, n), sine = vec_load_f32_n(table + half + i, n);
        vec_store_n(out, out_dtype, i, vec_fnma(b, sine, vec_mul(a, cosine)), n);
        vec_store_n(out, out_dtype, half + i, vec_fma(a, sine, vec_mul(b, cosine)), n);
    }
}

static inline void rope_rotate_pairs(const void *x, spey_dtype dtype, int64_t half,
                                     const float *table, void *out, spey_dtype out_dtype)
{
    static const float signs[16] = { -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1 };
    const vec sign = vec_load_f32(signs);
    for (int64_t i = 0; i < half; i += VEC_LANES / 2) {
        int64_t n = rope_least(half - i, VEC_LANES / 2);
        vec v = vec_load_n(x, dtype, 2 * i, 2 * n);
        vec cosine = rope_twice(vec_load_f32_n(table + i, n));
        vec sine = vec_mul(sign, rope_twice(vec_load_f32_n(table + half + i, n)));
        vec_store_n(out, out_dtype, 2 * i, vec_fma(rope_swap(v), sine, vec_mul(v, cosine)), 2 * n);
    }
}

/* One head: rotate the first rotary_dim elements, convert the others. out may be x. */
static inline void rope_head(const void *x, spey_dtype dtype, int64_t head_dim, int64_t rotary_dim,
                             spey_rope_pairing pairing, const float *table, void *out,
                             spey_dtype out_dtype)
{
    if (pairing == SPEY_ROPE_HALF)
        rope_rotate_half(x, dtype, rotary_dim / 2, table, out, out_dtype);
    else
        rope_rotate_pairs(x, dtype, rotary_dim / 2, table, out, out_dtype);
    rope_copy(x, dtype, out, out_dtype, rotary_dim, head_dim);
}

static inline bool rope_is_float(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

#endif
