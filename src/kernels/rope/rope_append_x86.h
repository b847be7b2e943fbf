/* The body of rope_append for x86. Lanes share tokens; a token's row is read once and leaves as Q and as cache slots,
 * K and V being converted on the way. Bound by memory. See rope_x86.h. */
#ifndef SPEY_KERNELS_ROPE_ROPE_APPEND_X86_H
#define SPEY_KERNELS_ROPE_ROPE_APPEND_X86_H

#include "device/pool.h"
#include "kernels/paged.h"
#include "kernels/rope/rope_x86.h"
#include "kernels/x86/kv_bytes_x86.h"

static bool supports(const void *args)
{
    const spey_rope_append_args *a = args;
    return rope_is_float(a->dtype) &&
           (rope_is_float(a->kv.dtype) || spey_kv_in_bytes(a->kv.dtype)) &&
           a->head_dim <= SPEY_HEAD_DIM_MAX;
}

/* Head h of K and V, which lie at elements k and v of qkv. */
static inline void append_bytes(const spey_rope_append_args *a, int64_t r, int64_t h, int64_t k,
                                int64_t v)
{
    int64_t dim = a->head_dim, s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
    const float *table = a->rotary_dim ? a->table + r * a->rotary_dim : NULL;
    float x[SPEY_HEAD_DIM_MAX];
    rope_head(rope_at(a->qkv, a->dtype, k), a->dtype, dim, a->rotary_dim, a->pairing, table, x,
              SPEY_F32);
    kv_store_k_bytes(&a->kv, a->batch, s, h, i, x, dim);
    rope_copy(rope_at(a->qkv, a->dtype, v), a->dtype, x, SPEY_F32, 0, dim);
    kv_store_v_bytes(&a->kv, a->batch, s, h, i, x, dim);
}

static inline void append_token(const spey_rope_append_args *a, int64_t r)
{
    int64_t dim = a->head_dim, s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
    int64_t q = r * a->qkv_pitch, k = q + a->n_heads * dim, v = k + a->n_kv_heads * dim;
    const float *table = a->rotary_dim ? a->table + r * a->rotary_dim : NULL;
    for (int64_t h = 0; h < a->n_heads; h++)
        rope_head(rope_at(a->qkv, a->dtype, q + h * dim), a->dtype, dim, a->rotary_dim, a->pairing,
                  table, rope_at(a->q_out, a->dtype, r * a->q_pitch + h * dim), a->dtype);
    for (int64_t h = 0; h < a->n_kv_heads; h++) {
        if (spey_kv_in_bytes(a->kv.dtype)) {
            append_bytes(a, r, h, k + h * dim, v + h * dim);
            continue;
        }
        rope_head(rope_at(a->qkv, a->dtype, k + h * dim), a->dtype, dim, a->rotary_dim, a->pairing,
                  table, spey_kv_k(&a->kv, a->batch, s, h, i), a->kv.dtype);
        rope_copy(rope_at(a->qkv, a->dtype, v + h * dim), a->dtype,
                  spey_kv_v(&a->kv, a->batch, s, h, i), a->kv.dtype, 0, dim);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_append_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end))
        for (int64_t r = begin; r < end; r++)
            append_token(a, r);
}

#endif
