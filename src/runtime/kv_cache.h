/* The paged KV cache: one pool of equal blocks per cache group, fixed at load. Sequences own references to blocks; a block
 * that several share is copied before one of them writes it.
 *
 *   group 0             blocks 0 1 2 3 4 5 …   sequence 0: 0 3 4     sequence 2: 0 3 1      (a common beginning)
 *   group 1  window                            sequence 0: - - 2     blocks behind the window are given back
 *   group 2  state                             sequence 0: 7         one block from its first token on
 *   group 3  cross                             sequence 0: 1 2       K and V of the encoder's tokens
 *
 * This module keeps the books; the memory that block numbers stand for is the runner's (layout.h), which carries out the
 * queued copies before a step.
 *
 * Blocks of ended sequences stay behind for sequences that begin alike, as long as nobody needs their room (kv_tree.h).
 *
 * Invariants: a block is free, or has as many references as sequences have it in their tables, and one if it is kept for
 * reuse; a sequence of t tokens has blocks for tokens 0 … t - 1 (in a window group: for those that its next token sees), or
 * for as many as were reserved; a block that more than one sequence has holds tokens of all of them; nothing allocates
 * after new. Engine thread only. */
#ifndef SPEY_RUNTIME_KV_CACHE_H
#define SPEY_RUNTIME_KV_CACHE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"

typedef struct spey_kv_cache spey_kv_cache;
typedef int32_t spey_seq_id; /* slot, 0 … sequences_max - 1 */

typedef enum spey_kv_kind {
    SPEY_KV_TOKENS, /* K and V of every token, or of the last `window` */
    SPEY_KV_STATE,  /* all that a sequence carries, in one block */
    SPEY_KV_CROSS,  /* K and V of the encoder's tokens: written once, then read */
} spey_kv_kind;

typedef struct spey_kv_group_limits {
    spey_kv_kind kind;
    int32_t n_blocks; /* STATE: at least sequences_max */
    int64_t window;   /* TOKENS: how many tokens one sees, itself included; 0: all */
} spey_kv_group_limits;

typedef struct spey_kv_limits {
    int32_t sequences_max;
    int64_t sequence_tokens_max;
    int64_t
        step_tokens_max; /* of all sequences between two steps: what window groups hold beyond windows */
    int64_t rollback_tokens;  /* how far truncate can go back in window groups */
    int64_t cross_tokens_max; /* of an encoder's input; 0: no cross groups */
    int32_t block_tokens;
    int n_groups; /* 0: a model without caches; sequences still have a length */
    spey_kv_group_limits groups[SPEY_CACHE_GROUPS_MAX];
    /* Keep blocks of ended sequences. Nothing is kept of a model with states or an encoder. */
    bool reuse;
    int32_t host_blocks; /* of each TOKENS group: where evicted blocks go; 0: they are forgotten */
    int32_t events_max;  /* that wait to be read; 0: none are kept */
} spey_kv_limits;

spey_status spey_kv_cache_new(const spey_kv_limits *limits, spey_kv_cache **out);
void spey_kv_cache_free(spey_kv_cache *kv);
/* Bytes that new will allocate for the books. */
size_t spey_kv_cache_bytes(const spey_kv_limits *limits);
/* Blocks of a group of this window that n sequences hold at most, whatever their length. */
int64_t spey_kv_window_blocks(const spey_kv_limits *limits, int64_t window, int64_t n_sequences);

/* ---- sequences ---- */

/* Take a free slot with no tokens. SPEY_LIMIT: all slots are taken. */
spey_status spey_kv_open(spey_kv_cache *kv, spey_seq_id *out);
/* Give the slot and its blocks back. */
void spey_kv_close(spey_kv_cache *kv, spey_seq_id seq);
/* False for a closed slot and for any number that is no slot. */
bool spey_kv_is_open(const spey_kv_cache *kv, spey_seq_id seq);
/* A new sequence of the parent's tokens: it shares their blocks; a state is copied. What the parent has reserved beyond its
 * tokens stays its own. SPEY_LIMIT: no slot, or more copies wait than there is room for; nothing was changed. */
spey_status spey_kv_fork(spey_kv_cache *kv, spey_seq_id parent, spey_seq_id *child);

/* What a sequence will hold. Equal salts and equal ids: equal blocks. */
typedef struct spey_kv_key {
    uint64_t
        salt; /* tenant, adapter, prompt table: whatever changes the numbers or must not be observable */
    const int32_t *ids; /* borrowed */
    int64_t n;
} spey_kv_key;

/* Begin a sequence that has no blocks with the longest beginning of the key that is in the cache, at most n - 1 tokens, so
 * that one is left to compute; its length becomes *n_reused, which is 0 when there is none. Whole blocks are shared, the
 * beginning of one more is copied if there is room. The sequence's own blocks will be found under the key's salt; those of a
 * sequence without a match are not kept. SPEY_INVALID: it has blocks already. */
spey_status spey_kv_match(spey_kv_cache *kv, spey_seq_id seq, const spey_kv_key *key,
                          int64_t *n_reused);
/* What match would reuse now, given room. */
int64_t spey_kv_match_length(const spey_kv_cache *kv, const spey_kv_key *key);
/* How long the sequence's blocks are worth keeping: those of the lowest priority, 0 to 100, are evicted first, among equals
 * those that were used least recently. From until_ns on (0: never) it is 35 again, as without this call. Holds for the blocks
 * that it has and will have; a block keeps the highest priority that one of its sequences gave it. */
void spey_kv_set_retention(spey_kv_cache *kv, spey_seq_id seq, int priority, uint64_t until_ns);
/* The same by parts: a block is kept as the first range says that has its first token; one of no range as without this
 * call. */
typedef struct spey_kv_retention {
    int64_t begin, end; /* tokens */
    int priority;
    uint64_t duration_ns; /* from when the block is filled, or found by a match; 0: for ever */
} spey_kv_retention;
/* Keeps `ranges` until the sequence and its forks are closed. */
void spey_kv_set_retention_ranges(spey_kv_cache *kv, spey_seq_id seq,
                                  const spey_kv_retention *ranges, int n);
/* What time it is, of the clock that until_ns is of; it is asked nowhere else. */
void spey_kv_set_time(spey_kv_cache *kv, uint64_t now_ns);
/* Forget all that is kept: nobody will find what running sequences hold now, or will. */
void spey_kv_flush(spey_kv_cache *kv);

/* Own writable blocks for n_tokens in all: takes blocks, and copies the last one when it is shared and n_tokens are more
 * than are stored. In window groups these are blocks of every token beyond the stored ones: reserve what a step writes.
 * SPEY_LIMIT: the pool is too small (says how many blocks are missing), the sequence grows beyond sequence_tokens_max, or
 * more copies wait than there is room for; nothing was changed. */
spey_status spey_kv_reserve(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Likewise for the encoder's tokens, in cross groups. */
spey_status spey_kv_reserve_cross(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Blocks that reserve would take of the TOKENS group where they are the most, one for a copy included. */
int64_t spey_kv_missing_blocks(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);
/* Add what reserve would take of each group to missing[n_groups]: for several sequences together. */
void spey_kv_add_missing(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens,
                         int64_t *missing);
/* Count n more tokens as stored; they must be reserved. Window groups give back what no later token sees. `ids` are kept
 * for sequences to come that begin alike; NULL: nobody will find these tokens, nor later ones. */
void spey_kv_advance(spey_kv_cache *kv, spey_seq_id seq, const int32_t *ids, int64_t n);
/* Forget tokens behind the first n_tokens; their blocks go back, and so do reserved ones that hold none.
 * SPEY_UNSUPPORTED, and nothing was changed: a state has taken the tokens in and forgets all of them or none, or a window
 * group has given back what the token behind them would see (it keeps rollback_tokens more). */
spey_status spey_kv_truncate(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);

/* ---- reading ---- */

int64_t spey_kv_length(const spey_kv_cache *kv, spey_seq_id seq);
/* Tokens of the encoder that were reserved. */
int64_t spey_kv_cross_length(const spey_kv_cache *kv, spey_seq_id seq);
/* How many blocks of a group n_tokens lie in, windows aside. */
int64_t spey_kv_blocks_for(const spey_kv_cache *kv, int group, int64_t n_tokens);
/* The sequence's blocks in a group, in token order; *n their number, of which those below first_block mean nothing. Valid
 * until the sequence changes. */
const int32_t *spey_kv_blocks(const spey_kv_cache *kv, int group, spey_seq_id seq, int64_t *n);
/* How many blocks at its beginning the sequence has given back: 0 but in window groups. */
int64_t spey_kv_first_block(const spey_kv_cache *kv, int group, spey_seq_id seq);
/* Blocks that sequences may still take, free or kept for reuse: of the TOKENS group that has the fewest. State groups have one for each sequence. */
int32_t spey_kv_free_blocks(const spey_kv_cache *kv);
/* Likewise of one group. */
int32_t spey_kv_group_free_blocks(const spey_kv_cache *kv, int group);
int32_t spey_kv_block_tokens(const spey_kv_cache *kv);
/* As given to new. */
const spey_kv_limits *spey_kv_get_limits(const spey_kv_cache *kv);

/* ---- the tier below host memory (kv_file.h); nothing without one ---- */

bool spey_kv_has_file(const spey_kv_cache *kv);
/* The file has more of a key than memory. */
bool spey_kv_file_has_more(const spey_kv_cache *kv, const spey_kv_key *key);
/* Begin to get it into memory, where match finds it. One key at a time; its ids are copied. False: there is nothing to get. */
bool spey_kv_fetch(spey_kv_cache *kv, const spey_kv_key *key);
/* It is under way still. */
bool spey_kv_is_fetching(const spey_kv_cache *kv);

/* ---- what happens in it ---- */

/* All TOKENS groups together. Names as in TensorRT-LLM's KvCacheStats, where they are there. */
typedef struct spey_kv_stats {
    int64_t max_num_blocks;
    int64_t free_num_blocks;   /* those that are kept for reuse included */
    int64_t used_num_blocks;   /* by sequences */
    int64_t cached_num_blocks; /* kept for reuse, by no sequence */
    int64_t tokens_per_block;
    /* Since new: */
    int64_t alloc_total_blocks; /* given to sequences, new and reused */
    int64_t alloc_new_blocks;   /* of free memory */
    int64_t evicted_blocks;
    int64_t host_max_num_blocks;
    int64_t host_used_num_blocks;
    int64_t offloaded_blocks; /* to host memory */
    int64_t restored_blocks;  /* and back */
    /* In the file, which holds the blocks of all groups as one: */
    int64_t file_max_num_blocks;
    int64_t file_used_num_blocks;
    int64_t file_stored_blocks;    /* written */
    int64_t file_loaded_blocks;    /* read */
    int64_t file_discarded_blocks; /* damaged, or cut off when a process was killed */
    /* Blocks of keys that were matched, in every group one: */
    int64_t reused_blocks;
    int64_t missed_blocks;
    int64_t reused_tokens;
    double cache_hit_rate; /* reused_blocks / (reused_blocks + missed_blocks); 0: no match yet */
} spey_kv_stats;

void spey_kv_read_stats(const spey_kv_cache *kv, spey_kv_stats *out);

typedef enum spey_kv_tier { SPEY_KV_TIER_DEVICE, SPEY_KV_TIER_HOST } spey_kv_tier;

typedef enum spey_kv_event_kind {
    SPEY_KV_EVENT_CREATED, /* the cache: n_blocks of the tier */
    SPEY_KV_EVENT_STORED,  /* a block can be found */
    SPEY_KV_EVENT_UPDATED, /* it has moved to the tier */
    SPEY_KV_EVENT_REMOVED, /* it cannot be found any more */
} spey_kv_event_kind;

/* For routers that send a request to where its beginning is. Of whole blocks. */
typedef struct spey_kv_event {
    uint64_t id; /* 1, 2, … a gap: some were lost because nobody read them */
    spey_kv_event_kind kind;
    spey_kv_tier tier;
    int64_t n_blocks;
    uint64_t salt;
    uint64_t hash;        /* of the salt and all tokens up to the block's last */
    uint64_t parent_hash; /* of the block before it; 0: it is the first */
    const int32_t *ids;   /* STORED: its tokens; valid until the cache changes */
    int32_t n_ids;
} spey_kv_event;

/* The oldest events, at most n of them, which are forgotten here; returns how many. */
int32_t spey_kv_read_events(spey_kv_cache *kv, spey_kv_event *out, int32_t n);

/* ---- copies ---- */

typedef enum spey_kv_copy_kind {
    SPEY_KV_COPY_DEVICE,    /* block src of the group's pool becomes block dst of it */
    SPEY_KV_COPY_TO_HOST,   /* … becomes block dst of its host memory */
    SPEY_KV_COPY_FROM_HOST, /* block src of its host memory becomes block dst of the pool */
} spey_kv_copy_kind;

typedef struct spey_kv_copy {
    spey_kv_copy_kind kind;
    int32_t group;
    int32_t src, dst;
} spey_kv_copy;

/* How many wait at most. */
int64_t spey_kv_copies_max(const spey_kv_limits *limits);
/* What to copy before the next step, in this order. Valid until the cache changes. */
const spey_kv_copy *spey_kv_copies(const spey_kv_cache *kv, int64_t *n);
/* They were handed to who carries them out, in order and before the next step. While a step is under way (runner.h) it may be that
 * the memory does not have yet what they make. */
void spey_kv_copies_done(spey_kv_cache *kv);

/* Every invariant above; for tests. */
spey_status spey_kv_check(const spey_kv_cache *kv);

#endif
