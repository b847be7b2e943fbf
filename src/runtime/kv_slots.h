/* The file below the KV cache's memory: slots of one size, each a block of every TOKENS group with what it is.
 *
 *   header  magic, identity, bytes of a slot, checksum
 *   slot 0  checksum, magic, …, hash of the tokens and all before them, a checksum for each block │ ids │ blocks
 *   slot 1  …
 *
 * The file is its own index: open reads the slots' headers. A slot is written from behind: first its old header is wiped,
 * then come the blocks, then the new header. So whenever a process is killed, a header that is there stands before what it
 * says; after a loss of power the checksums tell. Nothing in the file is believed.
 *
 * Of slots in use, the one that was written or touched least recently is the next to be replaced. Nothing allocates after
 * open. Two threads at most: one for the index, one that writes and reads. */
#ifndef SPEY_RUNTIME_KV_SLOTS_H
#define SPEY_RUNTIME_KV_SLOTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"

typedef struct spey_kv_slots spey_kv_slots;

typedef struct spey_kv_slots_limits {
    const char *path;
    uint64_t bytes;    /* of the file at most */
    uint64_t identity; /* of everything that the numbers in a block depend on */
    int32_t block_tokens;
    int n_groups;
    uint32_t whole; /* bit g: a slot has a block of group g in any case */
    size_t block_bytes[SPEY_CACHE_GROUPS_MAX];
} spey_kv_slots_limits;

/* What a slot holds. */
typedef struct spey_kv_slot {
    uint64_t salt;
    uint64_t hash;        /* as spey_kv_tree_hash */
    uint64_t parent_hash; /* of the block before it, or of the salt alone */
    uint64_t number;      /* of its writing: later ones are higher */
    uint32_t groups;      /* bit g: group g has a block */
} spey_kv_slot;

/* Make the file, or take it over with what is in it; it is private, and locked until close. SPEY_INVALID: it is in use, is
 * another's (engine, version, device, layout), is no such file, or others may read it; it was left alone. SPEY_LIMIT: not one
 * slot fits. SPEY_IO: the system refuses. */
spey_status spey_kv_slots_open(const spey_kv_slots_limits *limits, spey_kv_slots **out);
void spey_kv_slots_close(spey_kv_slots *slots);

/* Bytes that open will allocate for the index of a file of `bytes` with blocks of block_bytes in all groups together. */
uint64_t spey_kv_slots_memory(uint64_t bytes, uint64_t block_bytes);

/* ---- the index ---- */

/* The slot of these tokens; -1: none. The hash may be that of others: compare the ids that read gives. */
int32_t spey_kv_slots_find(const spey_kv_slots *slots, uint64_t salt, uint64_t hash);
const spey_kv_slot *spey_kv_slots_get(const spey_kv_slots *slots, int32_t slot);
/* A slot for this, which the index does not have, and its number. What was there is forgotten; it is to be written. */
int32_t spey_kv_slots_put(spey_kv_slots *slots, spey_kv_slot *what);
/* It was used just now. */
void spey_kv_slots_touch(spey_kv_slots *slots, int32_t slot);
/* Forget a slot. */
void spey_kv_slots_drop(spey_kv_slots *slots, int32_t slot);
/* Forget all, here and in the file; nobody writes or reads. */
spey_status spey_kv_slots_clear(spey_kv_slots *slots);

typedef struct spey_kv_slots_counts {
    int32_t n_slots, n_used;
    int64_t n_discarded; /* by open */
} spey_kv_slots_counts;
spey_kv_slots_counts spey_kv_slots_count(const spey_kv_slots *slots);

/* ---- the file: one thread, which may be another ---- */

/* Write a slot: ids [block_tokens], blocks [n_groups], those of `what`. */
spey_status spey_kv_slots_write(spey_kv_slots *slots, int32_t slot, const spey_kv_slot *what,
                                const int32_t *ids, const void *const *blocks);
/* Read it: the ids, and the blocks of groups whose pointer is not NULL. SPEY_FORMAT: it is not what it was, or not `what`; it
 * has been wiped in the file. */
spey_status spey_kv_slots_read(spey_kv_slots *slots, int32_t slot, const spey_kv_slot *what,
                               int32_t *ids, void *const *blocks);

#endif
