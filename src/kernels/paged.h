/* Where a token lies: its index in its sequence's cache, and its slot in the paged pool. Host code. */
#ifndef SPEY_KERNELS_PAGED_H
#define SPEY_KERNELS_PAGED_H

#include <stdbool.h>

#include "kernels/ragged.h"

/* Cache index of token r of the batch. */
static inline int64_t spey_ragged_index(const spey_ragged *batch, int64_t r)
{
    int32_t s = batch->token_seq[r];
    return batch->kv_len[s] - batch->seq_start[s + 1] + r;
}

/* The block that holds cache index i of sequence s. */
static inline uint8_t *spey_kv_block(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                     int64_t i)
{
    const spey_block_table *table = &batch->groups[kv->group];
    int32_t block = table->blocks[s * table->pitch + i / kv->block_tokens];
    return kv->base + block * kv->block_bytes;
}

/* K of head h at cache index i of sequence s. */
static inline void *spey_kv_k(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                              int64_t h, int64_t i)
{
    return spey_kv_block(kv, batch, s, i) + kv->k_offset + h * kv->k_head_bytes +
           i % kv->block_tokens * kv->k_token_bytes;
}

static inline void *spey_kv_v(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                              int64_t h, int64_t i)
{
    return spey_kv_block(kv, batch, s, i) + kv->v_offset + h * kv->v_head_bytes +
           i % kv->block_tokens * kv->v_token_bytes;
}

/* I8: the scales of those. */
static inline float *spey_kv_token_scales(const spey_kv_view *kv, const spey_ragged *batch,
                                          int64_t s, int64_t h, int64_t i)
{
    const spey_block_table *table = &batch->groups[kv->group];
    int32_t block = table->blocks[s * table->pitch + i / kv->block_tokens];
    return kv->token_scales + block * kv->scale_block + h * kv->block_tokens + i % kv->block_tokens;
}

static inline float *spey_kv_k_scale(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                     int64_t h, int64_t i)
{
    return spey_kv_token_scales(kv, batch, s, h, i) + kv->k_scales;
}

static inline float *spey_kv_v_scale(const spey_kv_view *kv, const spey_ragged *batch, int64_t s,
                                     int64_t h, int64_t i)
{
    return spey_kv_token_scales(kv, batch, s, h, i) + kv->v_scales;
}

/* The state of sequence s. */
static inline float *spey_state_at(const spey_state_view *state, const spey_ragged *batch,
                                   int64_t s)
{
    const spey_block_table *table = &batch->groups[state->group];
    int32_t block = table->blocks[s * table->pitch];
    return (float *)(void *)(state->base + block * state->block_bytes + state->offset);
}

/* Is this the first step of sequence s? */
static inline bool spey_state_begins(const spey_ragged *batch, int64_t s)
{
    return batch->kv_len[s] == batch->seq_start[s + 1] - batch->seq_start[s];
}

#endif
