#include "kernels/kv_append/kv_append.h"
#include "kernels/kv_bytes.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_kv_append_args *a = args;
    return spey_is_float16_or_32(a->dtype) && spey_kv_is_known(a->kv.dtype) &&
           a->k_dim <= SPEY_HEAD_DIM_MAX && a->v_dim <= SPEY_HEAD_DIM_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_kv_append_args *a = args;
    for (int64_t r = lane->index; r < a->rows; r += lane->count) {
        int64_t s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
        for (int64_t h = 0; h < a->n_heads; h++) {
            float x[SPEY_HEAD_DIM_MAX];
            for (int64_t d = 0; d < a->k_dim; d++)
                x[d] = (float)spey_load(a->k, a->dtype, r * a->k_pitch + h * a->k_dim + d);
            spey_kv_store_k_ref(&a->kv, a->batch, s, h, i, x, a->k_dim);
            for (int64_t d = 0; d < a->v_dim; d++)
                x[d] = (float)spey_load(a->v, a->dtype, r * a->v_pitch + h * a->v_dim + d);
            spey_kv_store_v_ref(&a->kv, a->batch, s, h, i, x, a->v_dim);
        }
    }
}

const spey_kernel spey_kv_append_ref = { .name = "kv_append/ref",
                                         .supports = supports,
                                         .run = run };
