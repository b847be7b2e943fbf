/* The paged KV cache: one pool of equal blocks per cache group, fixed at load; each sequence owns a list of blocks in
 * every group. In a state group a sequence owns one block from its first token on, which holds all that it carries.
 *
 *   group 0  blocks 0 1 2 3 4 5 …      sequence 0: 0 3 4     sequence 2: 1
 *   group 1  blocks 0 1 2 3 …          sequence 0: 2 0 1     sequence 2: 3
 *
 * This module keeps the books; the memory that block numbers stand for is the runner's (layout.h).
 *
 * Invariants: every block is free or owned exactly once; a sequence of t tokens owns ceil(t / block_tokens) blocks of
 * every group (of a state group at most one), or as many as were reserved; nothing allocates after new. Engine thread only. */
#ifndef SPEY_RUNTIME_KV_CACHE_H
#define SPEY_RUNTIME_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"

typedef struct spey_kv_cache spey_kv_cache;
typedef int32_t spey_seq_id; /* slot, 0 … sequences_max - 1 */

typedef struct spey_kv_limits {
    int32_t sequences_max;
    int64_t sequence_tokens_max;
    int32_t block_tokens;
    int n_groups; /* 0: a model without caches; sequences still have a length */
    int32_t n_blocks[SPEY_CACHE_GROUPS_MAX]; /* of a state group at least sequences_max */
    bool is_state[SPEY_CACHE_GROUPS_MAX];
} spey_kv_limits;

spey_status spey_kv_cache_new(const spey_kv_limits *limits, spey_kv_cache **out);
void spey_kv_cache_free(spey_kv_cache *kv);
/* Bytes that new will allocate for the books. */
size_t spey_kv_cache_bytes(const spey_kv_limits *limits);

/* Take a free slot with no tokens. SPEY_LIMIT: all slots are taken. */
spey_status spey_kv_open(spey_kv_cache *kv, spey_seq_id *out);
/* Give the slot and its blocks back. */
void spey_kv_close(spey_kv_cache *kv, spey_seq_id seq);
/* False for a closed slot and for any number that is no slot. */
bool spey_kv_is_open(const spey_kv_cache *kv, spey_seq_id seq);
/* Own blocks for n_tokens in all. SPEY_LIMIT: the pool is too small (says how many blocks are missing) or the sequence
 * grows beyond sequence_tokens_max; nothing was changed. */
spey_status spey_kv_reserve(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Blocks that reserve would have to take; 0 when there are enough already. */
int64_t spey_kv_missing_blocks(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Count n more tokens as stored; they must be reserved. */
void spey_kv_advance(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Forget tokens behind the first n_tokens; their blocks go back, and so do reserved ones that hold none.
 * SPEY_UNSUPPORTED, and nothing was changed: a state has taken the tokens in, and forgets all of them or none. */
spey_status spey_kv_truncate(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);

int64_t spey_kv_length(const spey_kv_cache *kv, spey_seq_id seq);
/* How many blocks of a group n_tokens lie in. */
int64_t spey_kv_blocks_for(const spey_kv_cache *kv, int group, int64_t n_tokens);
/* The sequence's blocks in a group, in token order; *n their number. Valid until the sequence changes. */
const int32_t *spey_kv_blocks(const spey_kv_cache *kv, int group, spey_seq_id seq, int64_t *n);
/* Blocks that sequences may still take: of the group that has the fewest. State groups have one for each sequence. */
int32_t spey_kv_free_blocks(const spey_kv_cache *kv);
int32_t spey_kv_block_tokens(const spey_kv_cache *kv);
/* Every invariant above; for tests. */
spey_status spey_kv_check(const spey_kv_cache *kv);

#endif
