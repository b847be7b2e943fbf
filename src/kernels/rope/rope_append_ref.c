#include "kernels/kv_bytes.h"
#include "kernels/rope/rope_rotate_ref.h"
#include "kernels/rows.h"

static bool supports(const void *args)
{
    const spey_rope_append_args *a = args;
    return spey_is_float16_or_32(a->dtype) && spey_kv_is_known(a->kv.dtype) &&
           a->head_dim <= SPEY_HEAD_DIM_MAX;
}

static void append_token(const spey_rope_append_args *a, int64_t r)
{
    int64_t dim = a->head_dim, s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
    size_t size = spey_dtype_bytes(a->dtype), head_bytes = (size_t)dim * size;
    const float *table = a->table + r * a->rotary_dim;
    const char *q = (const char *)a->qkv + (size_t)(r * a->qkv_pitch) * size;
    const char *k = q + (size_t)a->n_heads * head_bytes;
    const char *v = k + (size_t)a->n_kv_heads * head_bytes;
    char *q_out = (char *)a->q_out + (size_t)(r * a->q_pitch) * size;
    for (int64_t h = 0; h < a->n_heads; h++)
        spey_rope_rotate_ref(q + (size_t)h * head_bytes, a->dtype, dim, a->rotary_dim, a->pairing,
                             table, q_out + (size_t)h * head_bytes, a->dtype);
    for (int64_t h = 0; h < a->n_kv_heads; h++) {
        float x[SPEY_HEAD_DIM_MAX] = { 0 }; /* analyses do not see that all of it is written */
        spey_rope_rotate_ref(k + (size_t)h * head_bytes, a->dtype, dim, a->rotary_dim, a->pairing,
                             table, x, SPEY_F32);
        spey_kv_store_k_ref(&a->kv, a->batch, s, h, i, x, dim);
        spey_rope_rotate_ref(v + (size_t)h * head_bytes, a->dtype, dim, 0, a->pairing, table, x,
                             SPEY_F32);
        spey_kv_store_v_ref(&a->kv, a->batch, s, h, i, x, dim);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_append_args *a = args;
    for (int64_t r = lane->index; r < a->rows; r += lane->count)
        append_token(a, r);
}

const spey_kernel spey_rope_append_ref = { .name = "rope_append/ref",
                                           .supports = supports,
                                           .run = run };
