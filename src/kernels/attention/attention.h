/* attention: softmax(scale · q Kᵀ + mask) V of every token over its sequence's paged cache, K and V of this step
 * included (they were appended before).
 *
 *   q    [rows, n_heads * k_dim] F32 (devices: also BF16/F16), pitch in elements
 *   out  [rows, n_heads * v_dim], pitch in elements; may not overlap q
 * Query head h reads KV head h / (n_heads / n_kv_heads). A token at cache index i sees indices j <= i, and with
 * window > 0 only j > i - window. Scores: s = scale · q·k; softcap > 0: s = softcap · tanh(s / softcap);
 * alibi_slopes != NULL: s += slope[h] · (j - i); relative.bias != NULL: s += bias[bucket(j - i)][h] (relative.h);
 * sinks != NULL: exp(sinks[h] - max) joins the denominator. causal == false: every token sees the whole cache (encoders).
 * cross (then not causal, no window, no term that depends on i): the cache is the encoder's, source_len long.
 *
 * Softmax and sums in FP32. precision 16 allows a row to round scale · q and the softmax's weights to 16 bits before they
 * are multiplied with K and V, when those have 16 bits or fewer. Batch invariance: a token's result has the same bits
 * whatever else is in the batch and however its sequence is cut into steps. Never reads a cache slot beyond kv_len, nor one that
 * lies before the window of all tokens of its sequence in the step, nor a table entry of blocks that hold no other
 * slots: the runtime may have freed them. A sequence with kv_len (cross: source_len) 0 has no tokens. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_H

#include <stdbool.h>

#include "kernels/attention/relative.h"
#include "kernels/gemm/gemm.h"
#include "kernels/ragged.h"

typedef struct spey_attention_args {
    int64_t rows;
    int64_t n_heads;
    int64_t n_kv_heads;
    int64_t k_dim; /* head size of q and K */
    int64_t v_dim; /* head size of V and out */
    float scale;
    float softcap;  /* 0: off */
    int64_t window; /* 0: no limit */
    bool causal;
    bool cross;
    const float *alibi_slopes; /* [n_heads] or NULL */
    const float *sinks;        /* [n_heads] or NULL */
    spey_relative relative;
    const spey_ragged *batch;
    const void *q;
    int64_t q_pitch;
    void *out;
    int64_t out_pitch;
    spey_dtype dtype;       /* of q */
    spey_dtype out_dtype;   /* dtype, or BF16 (CPU) or E4M3 (devices) */
    const float *out_scale; /* of E4M3: out = E4M3(value / *out_scale), as tensor/quant.h says */
    spey_precision precision;
    spey_kv_view kv;
    int64_t seqs_max; /* largest n_seqs and cache length that will come: sizes the workspace */
    int64_t kv_len_max;
    void *workspace;
} spey_attention_args;

/* Tokens in the cache that sequence s attends to. */
static inline int64_t spey_attention_length(const spey_attention_args *a, int64_t s)
{
    return a->cross ? a->batch->source_len[s] : a->batch->kv_len[s];
}

#endif
