/* The tier below host memory: a file (kv_slots.h) that a thread writes and reads.
 *
 *   pools ──evicted──► host memory ──written──► file
 *     ▲                    ▲                     │
 *     └────── matched ─────┴────── fetched ──────┘
 *
 * A block that leaves the pools is written as soon as the thread comes to it, so that it can be forgotten in host memory at no
 * cost, and is there after the process has died. What a request begins with and only the file has is fetched into host memory
 * while the request waits, and from there into the pools as far as there is room.
 *
 * Between two steps the engine thread hands a bounded number of jobs over and takes what was done; it waits for the thread
 * only when there is nothing else to do. When the file cannot be written or read any more, a warning says so once, and the
 * cache goes on without it. Nothing allocates after open. */
#ifndef SPEY_RUNTIME_KV_FILE_H
#define SPEY_RUNTIME_KV_FILE_H

#include "runtime/kv_cache.h"
#include "runtime/kv_slots.h"

typedef struct spey_kv_file spey_kv_file;

/* Blocks of host memory that a cache with a file has when none are asked for: where blocks pass through. */
enum { SPEY_KV_FILE_HOST_BLOCKS = 32 };

typedef struct spey_kv_file_setup {
    const char *path;
    uint64_t bytes;    /* of the file at most */
    uint64_t identity; /* of everything that the numbers in a block depend on */
    size_t block_bytes[SPEY_CACHE_GROUPS_MAX];
    uint8_t *host[SPEY_CACHE_GROUPS_MAX]; /* memory of the host tier; stays the caller's */
    bool no_thread;                       /* jobs are done by spey_kv_file_work alone: for tests */
} spey_kv_file_setup;

/* Give the cache, which has a host tier, a file. Errors as spey_kv_slots_open. */
spey_status spey_kv_file_open(spey_kv_cache *kv, const spey_kv_file_setup *setup);
/* What is under way is finished; what was not written is lost. NULL and a cache without a file are fine. */
void spey_kv_file_close(spey_kv_cache *kv);

/* Between two steps: take what was done, hand over what is to be. Of the lists of copies that the cache was told are done, the
 * last n_behind are still being carried out: blocks that they touch wait for another turn. May queue copies. */
void spey_kv_file_turn(spey_kv_cache *kv, int n_behind);
/* Wait until something was done, or nothing is under way. */
void spey_kv_file_wait(spey_kv_cache *kv);
/* Jobs are under way, or wait for the next turn. */
bool spey_kv_file_is_busy(const spey_kv_cache *kv);
/* Without a thread: do one job here. False: there is none. */
bool spey_kv_file_work(spey_kv_cache *kv);
/* Let blocks that no sequence has leave the pools for the file, as many as pass through host memory at once. False: there
 * were none. */
bool spey_kv_file_push_out(spey_kv_cache *kv);
/* Its part of the statistics. */
void spey_kv_file_read_stats(const spey_kv_cache *kv, spey_kv_stats *out);

#endif
