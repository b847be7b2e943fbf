/* kernels/kv_bytes.h for x86: heads of FP32 numbers to elements of 8 bits. */
#ifndef SPEY_KERNELS_X86_KV_BYTES_X86_H
#define SPEY_KERNELS_X86_KV_BYTES_X86_H

#include <math.h>

#include "kernels/kv_bytes.h"
#include "kernels/x86/math.h"

/* The integers nearest to n lanes, |x| <= 127.5. */
static inline void vec_store_i8_n(int8_t *p, vec x, int64_t n)
{
#ifdef __AVX512F__
    _mm_mask_storeu_epi8(p, vec512_first(n), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
#else
    int32_t lanes[VEC_LANES];
    _mm256_storeu_si256((__m256i *)(void *)lanes, _mm256_cvtps_epi32(x));
    for (int64_t i = 0; i < n; i++)
        p[i] = (int8_t)lanes[i];
#endif
}

static inline void kv_store_i8(const float *x, int64_t n, int8_t *slot, float *scale)
{
    vec most = vec_zero(), broken = vec_zero();
    for (int64_t i = 0; i < n; i += VEC_LANES) {
        vec v = vec_load_f32_n(x + i, n - i < VEC_LANES ? n - i : VEC_LANES);
        most = vec_max(vec_abs(v), most);
        broken = vec_fma(v, vec_zero(), broken);
    }
    float m = vec_max_lane(most), inverse = 127.0f / m;
    *scale = m / 127.0f;
    if (!(vec_sum(broken) == 0)) {
        inverse = 0;
        *scale = NAN;
    } else if (m < SPEY_KV_I8_SMALLEST) {
        inverse = *scale = 0;
    }
    for (int64_t i = 0; i < n; i += VEC_LANES) {
        int64_t some = n - i < VEC_LANES ? n - i : VEC_LANES;
        vec v = inverse == 0 ? vec_zero() : vec_mul(vec_load_f32_n(x + i, some), vec_set1(inverse));
        vec_store_i8_n(slot + i, v, some);
    }
}

static inline void kv_store_bytes(spey_dtype dtype, const float *x, int64_t n, void *slot,
                                  float *token_scale, const float *head_scale)
{
    if (dtype == SPEY_I8)
        kv_store_i8(x, n, slot, token_scale);
    else
        spey_e4m3_quantize(slot, x, head_scale ? 1 / *head_scale : 1, (size_t)n);
}

/* K of head h at cache index i of sequence s; then V. */
static inline void kv_store_k_bytes(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                    int64_t h, int64_t i, const float *x, int64_t n)
{
    kv_store_bytes(kv->dtype, x, n, spey_kv_k(kv, batch, s, h, i),
                   kv->dtype == SPEY_I8 ? spey_kv_k_scale(kv, batch, s, h, i) : NULL,
                   kv->k_scale ? kv->k_scale + h : NULL);
}

static inline void kv_store_v_bytes(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                    int64_t h, int64_t i, const float *x, int64_t n)
{
    kv_store_bytes(kv->dtype, x, n, spey_kv_v(kv, batch, s, h, i),
                   kv->dtype == SPEY_I8 ? spey_kv_v_scale(kv, batch, s, h, i) : NULL,
                   kv->v_scale ? kv->v_scale + h : NULL);
}

#endif
