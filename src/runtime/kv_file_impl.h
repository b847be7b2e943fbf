/* The file tier's jobs, for its own sources. */
#ifndef SPEY_RUNTIME_KV_FILE_IMPL_H
#define SPEY_RUNTIME_KV_FILE_IMPL_H

#include "runtime/driver.h"
#include "runtime/kv_file.h"
#include "runtime/kv_tree.h"

enum { KV_JOBS_MAX = 32 };

typedef struct kv_job {
    bool writes;
    int32_t slot;
    spey_kv_slot what;
    int32_t blocks[SPEY_CACHE_GROUPS_MAX]; /* of host memory; KV_NONE: not of this group */
    int32_t *ids;                          /* [block_tokens] */
    int64_t place;                         /* reading: the block's number in the key */
    spey_status status;
    char error[160];
} kv_job;

/* The key whose blocks are being fetched: one at a time. */
typedef struct kv_fetch {
    bool active;
    uint64_t salt, hash; /* hash: of all that was asked for */
    int32_t *ids;        /* [sequence_tokens_max] */
    int32_t *chain;      /* [blocks of it] slots, while it begins */
    int64_t n_ids;
    int64_t begin, next,
        end; /* blocks of the key: asked for are [begin, next), to be asked for [next, end) */
    int32_t n_reading; /* jobs */
    int32_t n_waiting; /* blocks of the leading group that have come and are in host memory still */
    int64_t n_here;    /* blocks of the key that are in memory */
    bool stuck;        /* there was no room to read one more */
    int64_t n_last;    /* while jobs are taken: the node of the first n_last blocks is */
    int32_t last;      /* this; -1: it is not known */
} kv_fetch;

struct spey_kv_file {
    spey_kv_slots *slots;
    size_t block_bytes[SPEY_CACHE_GROUPS_MAX];
    uint8_t *host[SPEY_CACHE_GROUPS_MAX];
    int n_groups;
    kv_job jobs[KV_JOBS_MAX]; /* a ring: job i is at i % KV_JOBS_MAX */
    int32_t *job_ids;
    int32_t jobs_max;      /* under way at once */
    uint64_t n_handed;     /* the engine thread's: handed over, */
    uint64_t n_taken;      /* and taken back */
    struct kv_link *links; /* [nodes_max] */
    struct kv_list unwritten;
    kv_fetch fetch;
    uint64_t n_lists;                        /* of copies, that no thread is busy with any more */
    bool off;                                /* it failed */
    int64_t n_stored, n_loaded, n_discarded; /* nodes */

    spey_driver *driver; /* does the jobs; NULL: spey_kv_file_work does, */
    uint64_t n_worked;   /* so many until now */
};

/* A place in the ring for one more job; NULL: enough are under way. */
kv_job *spey_kv_file_new_job(spey_kv_file *file);
void spey_kv_file_post(spey_kv_file *file);
/* Switch the tier off, with one warning. */
void spey_kv_file_fail(spey_kv_cache *kv, const char *why);
/* No copy of a block of host memory is to come or under way. */
bool spey_kv_file_may_use(const spey_kv_cache *kv, int g, int32_t block);
/* A block of host memory goes from the file tier to the free ones. */
void spey_kv_file_release(spey_kv_cache *kv, int g, int32_t block);

/* ---- kv_fetch.c ---- */

/* What a job has read comes into the tree, or is given up. */
void spey_kv_fetch_take(spey_kv_cache *kv, const kv_job *job);
/* Ask for more. */
void spey_kv_fetch_go_on(spey_kv_cache *kv);
/* Bring what has come into the pools, and end when it was all. */
void spey_kv_fetch_settle(spey_kv_cache *kv);

#endif
