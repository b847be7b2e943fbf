/* The ragged batch of one step: tokens of several sequences, prefill and decode mixed, packed without padding.
 *
 *   tokens     | seq 0: a b c | seq 1: d | seq 2: e f |        n_tokens = 6, n_seqs = 3
 *   seq_start    0              3          4           6
 *   kv_len       3 (prefill)    17         9                   cache length after this step
 *
 * Token i of sequence s sits at cache index kv_len[s] - (seq_start[s+1] - seq_start[s]) + i. A step of an encoder has its
 * tokens in place of the decoder's; the decoder's attention reads what it left behind, source_len[s] tokens. All arrays
 * live on the device that runs the step and are fixed at load; only their contents change. */
#ifndef SPEY_KERNELS_RAGGED_H
#define SPEY_KERNELS_RAGGED_H

#include <stdint.h>

#include "base/limits.h"
#include "tensor/dtype.h"

/* Block ids of the sequences in one cache group: blocks[s * pitch + j] holds tokens [j·block_tokens, …). */
typedef struct spey_block_table {
    const int32_t *blocks;
    int64_t pitch;
} spey_block_table;

typedef struct spey_ragged {
    int32_t n_tokens;
    int32_t n_seqs;
    int32_t n_outputs;
    const int32_t *ids;         /* [n_tokens] */
    const int32_t *positions;   /* [n_tokens] for RoPE and learned positions */
    const int32_t *token_seq;   /* [n_tokens] sequence of each token */
    const int32_t *seq_start;   /* [n_seqs + 1] */
    const int32_t *kv_len;      /* [n_seqs] */
    const int32_t *output_rows; /* [n_outputs] token indices whose logits are wanted, ascending */
    const int32_t *source_len;  /* [n_seqs] tokens of the encoder's input; NULL: no encoder */
    spey_block_table groups[SPEY_CACHE_GROUPS_MAX];
} spey_ragged;

/* One layer's part of a paged KV pool. Block b of the pool begins at base + b * block_bytes; inside it this layer's K
 * of head h, token t (of the block) begins at k_offset + h * k_head_bytes + t * k_token_bytes, V likewise.
 *
 * Elements of 8 bits are numbers divided by a scale (kernels/kv_bytes.h says how they are rounded):
 *   E4M3  one scale of each KV head, k_scale[h] and v_scale[h]; NULL: 1
 *   I8    one scale of each token and KV head, FP32, written with it: block b's lie at token_scales + b * scale_block, in
 *         floats, K's of head h, token t at k_scales + h * block_tokens + t from there, V's likewise */
#define SPEY_KV_I8_SMALLEST 0x1p-100f /* a head without a larger number is all zeros */

typedef struct spey_kv_view {
    uint8_t *base;
    spey_dtype dtype; /* F32, F16, BF16, E4M3, I8 */
    int32_t group;    /* index into spey_ragged.groups */
    int32_t block_tokens;
    int64_t block_bytes;
    int64_t k_offset, v_offset;
    int64_t k_head_bytes, v_head_bytes;
    int64_t k_token_bytes, v_token_bytes;
    const float *k_scale, *v_scale;
    float *token_scales;
    int64_t scale_block, k_scales, v_scales;
} spey_kv_view;

/* One layer's part of a pool of states: of sequence s, F32 numbers at base + block * block_bytes + offset, where block is
 * the first of the sequence's. They mean nothing before the sequence's first token: kernels take zeros instead. */
typedef struct spey_state_view {
    uint8_t *base;
    int32_t group; /* index into spey_ragged.groups */
    int64_t block_bytes;
    int64_t offset;
} spey_state_view;

#endif
