/* The paged KV cache: one pool of equal blocks per cache group, fixed at load; each sequence owns a list of blocks.
 *
 * Invariants: every block is free or owned exactly once; a sequence of t tokens owns ceil(t / block_tokens) blocks;
 * nothing allocates after new. Engine thread only. */
#ifndef SPEY_RUNTIME_KV_CACHE_H
#define SPEY_RUNTIME_KV_CACHE_H

#include <stdint.h>

#include "base/status.h"

typedef struct spey_kv_cache spey_kv_cache;
typedef int32_t spey_seq_id; /* slot, 0 … sequences_max - 1 */

spey_status spey_kv_cache_new(int32_t sequences_max, int64_t sequence_tokens_max,
                              int32_t block_tokens, int32_t n_blocks, spey_kv_cache **out);
void spey_kv_cache_free(spey_kv_cache *kv);

/* Take a free slot with no tokens. SPEY_LIMIT: all slots are taken. */
spey_status spey_kv_open(spey_kv_cache *kv, spey_seq_id *out);
/* Give the slot and its blocks back. */
void spey_kv_close(spey_kv_cache *kv, spey_seq_id seq);
/* Own blocks for n_tokens in all. SPEY_LIMIT: the pool is too small (says how many blocks are missing) or the sequence
 * grows beyond sequence_tokens_max; nothing was changed. */
spey_status spey_kv_reserve(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Count n more tokens as stored; they must be reserved. */
void spey_kv_advance(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Forget tokens behind the first n_tokens; their blocks go back. */
void spey_kv_truncate(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);

int64_t spey_kv_length(const spey_kv_cache *kv, spey_seq_id seq);
const int32_t *spey_kv_blocks(const spey_kv_cache *kv, spey_seq_id seq, int64_t *n);
int32_t spey_kv_free_blocks(const spey_kv_cache *kv);
/* Every invariant above; for tests. */
spey_status spey_kv_check(const spey_kv_cache *kv);

#endif
