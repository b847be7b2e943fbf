/* Elements of 8 bits in the KV cache, and the scalar code that says what is right.
 *
 *   E4M3  element = x · (1 / scale) in FP32, to nearest even, at most 448; NaN stays NaN. The head's scale is given.
 *   I8    with m = max |x| over the head: scale = m / 127, element = x · (127 / m) in FP32, to the nearest integer, ties to
 *         even. m below 2^-100: all are 0. An infinity or a NaN among x: the scale is NaN, elements are 0. */
#ifndef SPEY_KERNELS_KV_BYTES_H
#define SPEY_KERNELS_KV_BYTES_H

#include <math.h>

#include "kernels/paged.h"
#include "kernels/scalar.h"

static inline bool spey_kv_in_bytes(spey_dtype dtype)
{
    return dtype == SPEY_E4M3 || dtype == SPEY_I8;
}

static inline bool spey_kv_is_known(spey_dtype dtype)
{
    return spey_is_float16_or_32(dtype) || spey_kv_in_bytes(dtype);
}

/* What elements of K (or V) of head h at cache index i of sequence s are to be multiplied with. */
static inline double spey_kv_k_factor(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                      int64_t h, int64_t i)
{
    if (kv->dtype == SPEY_I8) return (double)*spey_kv_k_scale(kv, batch, s, h, i);
    return kv->dtype == SPEY_E4M3 && kv->k_scale ? (double)kv->k_scale[h] : 1;
}

static inline double spey_kv_v_factor(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                      int64_t h, int64_t i)
{
    if (kv->dtype == SPEY_I8) return (double)*spey_kv_v_scale(kv, batch, s, h, i);
    return kv->dtype == SPEY_E4M3 && kv->v_scale ? (double)kv->v_scale[h] : 1;
}

static inline double spey_kv_element(const void *slot, spey_dtype dtype, int64_t i)
{
    return dtype == SPEY_I8 ? (double)((const int8_t *)slot)[i] : spey_load(slot, dtype, i);
}

/* n numbers of one head to `slot`; their scale to *scale. */
static inline void spey_kv_store_i8(const float *x, int64_t n, void *slot, float *scale)
{
    double m = 0, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        m = fmax(m, fabs((double)x[i]));
        sum += 0 * (double)x[i];
    }
    float inverse = m < (double)SPEY_KV_I8_SMALLEST || sum != 0 ? 0 : (float)(127 / m);
    *scale = sum != 0 ? NAN : inverse == 0 ? 0 : (float)(m / 127);
    for (int64_t i = 0; i < n; i++)
        ((int8_t *)slot)[i] =
            inverse == 0 ? 0 : (int8_t)rint((double)(float)((double)x[i] * (double)inverse));
}

/* n numbers of one head of K (or V, by its slot and scales) in the cache's dtype. token_scale: I8; head_scale: E4M3. */
static inline void spey_kv_store_ref(spey_dtype dtype, const float *x, int64_t n, void *slot,
                                     float *token_scale, const float *head_scale)
{
    if (dtype == SPEY_I8) {
        spey_kv_store_i8(x, n, slot, token_scale);
        return;
    }
    float inverse = head_scale ? 1 / *head_scale : 1;
    for (int64_t i = 0; i < n; i++) {
        if (dtype == SPEY_E4M3)
            ((uint8_t *)slot)[i] = spey_f32_to_e4m3(x[i] * inverse);
        else
            spey_store(slot, dtype, i, (double)x[i]);
    }
}

/* K of head h at cache index i of sequence s; then V. */
static inline void spey_kv_store_k_ref(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                       int64_t h, int64_t i, const float *x, int64_t n)
{
    spey_kv_store_ref(kv->dtype, x, n, spey_kv_k(kv, batch, s, h, i),
                      kv->dtype == SPEY_I8 ? spey_kv_k_scale(kv, batch, s, h, i) : NULL,
                      kv->k_scale ? kv->k_scale + h : NULL);
}

static inline void spey_kv_store_v_ref(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                       int64_t h, int64_t i, const float *x, int64_t n)
{
    spey_kv_store_ref(kv->dtype, x, n, spey_kv_v(kv, batch, s, h, i),
                      kv->dtype == SPEY_I8 ? spey_kv_v_scale(kv, batch, s, h, i) : NULL,
                      kv->v_scale ? kv->v_scale + h : NULL);
}

#endif
