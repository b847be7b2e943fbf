#include <math.h>

#include "kernels/attention/attention.h"
#include "kernels/kv_bytes.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_attention_args *a = args;
    const bool writes = spey_is_float16_or_32(a->out_dtype) || a->out_dtype == SPEY_E4M3;
    return spey_is_float16_or_32(a->dtype) && writes && spey_kv_is_known(a->kv.dtype) &&
           a->v_dim <= SPEY_HEAD_DIM_MAX;
}

/* For a key `ahead` tokens after the query. */
static double bias(const spey_attention_args *a, int64_t h, int64_t ahead)
{
    const spey_relative *r = &a->relative;
    int64_t bucket = spey_relative_bucket(r, a->causal, ahead < 0 ? -ahead : ahead);
    if (ahead > 0) bucket += spey_relative_side(r, a->causal);
    return (double)r->bias[bucket * a->n_heads + h];
}

/* Score of query head h of token r, at cache index i, for cache index j. */
static double score(const spey_attention_args *a, int64_t r, int64_t h, int64_t i, int64_t j)
{
    int64_t s = a->batch->token_seq[r];
    int64_t kv_head = h / (a->n_heads / a->n_kv_heads);
    const void *k = spey_kv_k(&a->kv, a->batch, s, kv_head, j);
    double dot = 0;
    for (int64_t d = 0; d < a->k_dim; d++)
        dot += spey_load(a->q, a->dtype, r * a->q_pitch + h * a->k_dim + d) *
               spey_kv_element(k, a->kv.dtype, d);
    dot *= (double)a->scale * spey_kv_k_factor(&a->kv, a->batch, s, kv_head, j);
    if (a->softcap > 0) dot = (double)a->softcap * tanh(dot / (double)a->softcap);
    if (a->alibi_slopes) dot += (double)a->alibi_slopes[h] * (double)(j - i);
    if (a->relative.bias) dot += bias(a, h, j - i);
    return dot;
}

static void attend(const spey_attention_args *a, int64_t r, int64_t h)
{
    int64_t s = a->batch->token_seq[r], i = spey_ragged_index(a->batch, r);
    int64_t end = a->causal ? i + 1 : spey_attention_length(a, s);
    int64_t begin = a->window > 0 && i - a->window >= 0 ? i - a->window + 1 : 0;
    double max = a->sinks ? (double)a->sinks[h] : -(double)INFINITY;
    for (int64_t j = begin; j < end; j++)
        max = fmax(max, score(a, r, h, i, j));
    double sum = a->sinks ? exp((double)a->sinks[h] - max) : 0, out[SPEY_HEAD_DIM_MAX] = { 0 };
    for (int64_t j = begin; j < end; j++) {
        int64_t kv_head = h / (a->n_heads / a->n_kv_heads);
        const void *v = spey_kv_v(&a->kv, a->batch, s, kv_head, j);
        double p = exp(score(a, r, h, i, j) - max);
        double factor = spey_kv_v_factor(&a->kv, a->batch, s, kv_head, j);
        sum += p;
        for (int64_t d = 0; d < a->v_dim; d++)
            out[d] += p * factor * spey_kv_element(v, a->kv.dtype, d);
    }
    spey_e4m3_scale scale = { 1, 1 };
    if (a->out_dtype == SPEY_E4M3) scale = (spey_e4m3_scale){ *a->out_scale, 1 / *a->out_scale };
    for (int64_t d = 0; d < a->v_dim; d++) {
        const int64_t at = r * a->out_pitch + h * a->v_dim + d;
        if (a->out_dtype == SPEY_E4M3)
            spey_store_e4m3(a->out, at, out[d] / sum, scale);
        else
            spey_store(a->out, a->out_dtype, at, out[d] / sum);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = args;
    for (int64_t item = lane->index; item < a->rows * a->n_heads; item += lane->count)
        attend(a, item / a->n_heads, item % a->n_heads);
}

const spey_kernel spey_attention_ref = { .name = "attention/ref",
                                         .supports = supports,
                                         .run = run };
