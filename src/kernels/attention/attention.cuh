/* What attention's kernels know of a step: the args by value, with the batch's device arrays beside them. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_CUH

#include "kernels/attention/attention.h"

struct attention_problem {
    spey_attention_args a; /* a.batch lies on the host: kernels use what follows */
    const int32_t *token_seq, *seq_start, *kv_len, *blocks;
    const int32_t *cache_len; /* tokens in the cache that a sequence attends to */
    int64_t table_pitch;
    int n_seqs;
    int block_shift; /* log2 of kv.block_tokens; -1: it is no power of two */
};

static inline attention_problem attention_problem_of(const spey_attention_args *a)
{
    const spey_block_table *table = &a->batch->groups[a->kv.group];
    attention_problem p;
    p.a = *a;
    p.token_seq = a->batch->token_seq;
    p.seq_start = a->batch->seq_start;
    p.kv_len = a->batch->kv_len;
    p.cache_len = a->cross ? a->batch->source_len : a->batch->kv_len;
    p.blocks = table->blocks;
    p.table_pitch = table->pitch;
    p.n_seqs = a->batch->n_seqs;
    p.block_shift = -1;
    for (int i = 0; i < 31; i++)
        if (a->kv.block_tokens == 1 << i) p.block_shift = i;
    return p;
}

/* Outputs are as activations are, or of E4M3. */
static inline bool writes_output(const spey_attention_args *a)
{
    return a->out_dtype == a->dtype || a->out_dtype == SPEY_E4M3;
}

/* What an output is divided by on its way out. */
static __device__ __forceinline__ float output_scale(const spey_attention_args &a)
{
    return a.out_dtype == SPEY_E4M3 ? *a.out_scale : 1.0f;
}

/* The tokens that the token at cache index `index` sees: [begin, end). */
static __device__ __forceinline__ int first_visible(const spey_attention_args &a, int index)
{
    return a.window > 0 && index >= a.window ? index - static_cast<int>(a.window) + 1 : 0;
}

static __device__ __forceinline__ int end_visible(const spey_attention_args &a, int index,
                                                  int cache_len)
{
    return a.causal ? index + 1 : cache_len;
}

#endif
