/* The body of kv_append for x86: lanes share tokens, each row is read once and converted into its slots. Bound by
 * memory. Include vec512.h or vec256.h first. */
#ifndef SPEY_KERNELS_KV_APPEND_KV_APPEND_X86_H
#define SPEY_KERNELS_KV_APPEND_KV_APPEND_X86_H

#include "device/pool.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/paged.h"
#include "kernels/x86/kv_bytes_x86.h"
#include "kernels/x86/math.h"

static inline bool is_float(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

static bool supports(const void *args)
{
    const spey_kv_append_args *a = args;
    return is_float(a->dtype) && (is_float(a->kv.dtype) || spey_kv_in_bytes(a->kv.dtype)) &&
           a->k_dim <= SPEY_HEAD_DIM_MAX && a->v_dim <= SPEY_HEAD_DIM_MAX;
}

static inline void convert(const void *src, spey_dtype dtype, int64_t first, void *dst,
                           spey_dtype dst_dtype, int64_t n)
{
    for (int64_t i = 0; i < n; i += VEC_LANES) {
        int64_t some = n - i < VEC_LANES ? n - i : VEC_LANES;
        vec_store_n(dst, dst_dtype, i, vec_load_n(src, dtype, first + i, some), some);
    }
}

static inline void append_bytes(const spey_kv_append_args *a, int64_t r, int64_t h)
{
    int64_t s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
    float x[SPEY_HEAD_DIM_MAX];
    convert(a->k, a->dtype, r * a->k_pitch + h * a->k_dim, x, SPEY_F32, a->k_dim);
    kv_store_k_bytes(&a->kv, a->batch, s, h, i, x, a->k_dim);
    convert(a->v, a->dtype, r * a->v_pitch + h * a->v_dim, x, SPEY_F32, a->v_dim);
    kv_store_v_bytes(&a->kv, a->batch, s, h, i, x, a->v_dim);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_kv_append_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            int64_t s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
            for (int64_t h = 0; h < a->n_heads; h++) {
                if (spey_kv_in_bytes(a->kv.dtype)) {
                    append_bytes(a, r, h);
                    continue;
                }
                convert(a->k, a->dtype, r * a->k_pitch + h * a->k_dim,
                        spey_kv_k(&a->kv, a->batch, s, h, i), a->kv.dtype, a->k_dim);
                convert(a->v, a->dtype, r * a->v_pitch + h * a->v_dim,
                        spey_kv_v(&a->kv, a->batch, s, h, i), a->kv.dtype, a->v_dim);
            }
        }
    }
}

#endif
