/* The books behind kv_cache.h, for the files that keep them. */
#ifndef SPEY_RUNTIME_KV_BOOKS_H
#define SPEY_RUNTIME_KV_BOOKS_H

#include "runtime/kv_cache.h"

/* Which entries of a sequence's row in a group's table are its blocks: [first, end). */
typedef struct kv_span {
    int32_t first;
    int32_t end;
} kv_span;

/* What the file tier does with a block of host memory. */
typedef enum kv_host_use {
    KV_HOST_IDLE,
    KV_HOST_WRITTEN, /* it goes to the file; a node may have it */
    KV_HOST_HELD, /* nobody has it, and it is not free: it is being filled, or was given up while it was written */
} kv_host_use;

typedef struct kv_group {
    spey_kv_kind kind;
    int32_t n_blocks, n_free;
    int64_t kept;       /* TOKENS with a window: it and what truncate may go back; else 0 */
    int64_t window;     /* 0: none */
    int64_t blocks_max; /* of one sequence: how long rows of `table` are */
    int32_t
        *free_blocks; /* [n_blocks], the first n_free are valid, the last of them is taken next */
    int32_t *refs;    /* [n_blocks] */
    int32_t *marks;   /* [n_blocks], for spey_kv_check */
    int32_t *table;   /* [sequences_max][blocks_max] */
    kv_span *spans;   /* [sequences_max] */
    /* TOKENS, for reuse (kv_tree.h): */
    int32_t *nodes_of_blocks; /* [n_blocks] KV_NONE: the tree does not have it */
    int32_t *blocks_of_nodes; /* [nodes_max] */
    struct kv_link *links;    /* [nodes_max] in its list */
    struct kv_list *lists;    /* [KV_PRIORITIES] cached nodes: the tree alone has their blocks */
    uint64_t lists_filled[2]; /* bit p: list p is not empty */
    int32_t n_cached;
    /* TOKENS, in host memory: */
    int32_t n_host, n_host_free;
    int32_t *host_free;     /* [n_host], the first n_host_free are valid */
    int32_t *host_of_nodes; /* [nodes_max]; never beside a block of the pool */
    struct kv_link *host_links;
    struct kv_list *host_list; /* one: nodes in the order in which they came */
    uint8_t *host_uses;        /* [n_host] of the file tier (kv_file.h), a kv_host_use */
    uint64_t *host_lists;      /* [n_host] the last list of copies that touches it */
} kv_group;

typedef struct kv_sequence {
    bool open;
    int64_t length;
    int64_t cross_length;
    bool attached; /* its blocks are stored under `salt` when they are full */
    uint8_t priority;
    int32_t cursor; /* node of its last full block; KV_NONE */
    uint64_t salt;
    uint64_t until_ns;
    const spey_kv_retention *ranges; /* [n_ranges] in place of priority and until_ns */
    int n_ranges;
} kv_sequence;

struct spey_kv_cache {
    spey_kv_limits limits;
    kv_group groups[SPEY_CACHE_GROUPS_MAX];
    kv_sequence *sequences;
    spey_seq_id *free_slots; /* [sequences_max], the first n_free_slots are valid */
    int32_t n_free_slots;
    spey_kv_copy *copies; /* [copies_max] */
    int64_t n_copies, copies_max;
    uint64_t n_lists;      /* of copies, that were carried out so far */
    struct kv_node *nodes; /* [nodes_max] */
    int32_t *node_ids;     /* [nodes_max][block_tokens] */
    int32_t *tails;        /* [sequences_max][block_tokens] ids behind the last full block */
    int32_t *buckets;      /* [n_buckets], a power of two: first node of a hash */
    int32_t *heap;         /* [nodes_max] nodes whose priority ends */
    int32_t nodes_max;     /* 0: nothing is kept for reuse */
    int32_t n_buckets, n_heap, first_root, first_free_node;
    uint64_t now_ns;           /* what time it was last said to be */
    int32_t leader;            /* the first TOKENS group without a window; KV_NONE */
    spey_kv_event *events;     /* [events_max], a ring */
    int32_t *event_ids;        /* [events_max][block_tokens] */
    uint64_t n_events, n_read; /* ever */
    int64_t n_taken, n_shared, n_evicted, n_offloaded, n_restored; /* blocks of TOKENS groups */
    int64_t n_reused, n_missed, n_reused_tokens;
    struct spey_kv_file *file; /* NULL: blocks that leave memory are forgotten */
    void *memory;              /* of all arrays */
};

int64_t spey_kv_books_blocks(const spey_kv_limits *limits, int64_t n_tokens);
/* The sequence, which is open. */
kv_sequence *spey_kv_books_sequence(const spey_kv_cache *kv, spey_seq_id seq);
static inline int32_t *kv_row(const kv_group *group, spey_seq_id seq)
{
    return group->table + seq * group->blocks_max;
}
/* A free block with one reference; there is one. */
int32_t spey_kv_books_take(spey_kv_cache *kv, int g);
/* One more reference. */
void spey_kv_books_share(spey_kv_cache *kv, int g, int32_t block);
/* Give one reference up. */
void spey_kv_books_release(spey_kv_cache *kv, int g, int32_t block);
/* Queue a copy; there is room. */
void spey_kv_books_copy(spey_kv_cache *kv, const spey_kv_copy *copy);
/* Give all blocks of tokens and states back. */
void spey_kv_books_give_back(spey_kv_cache *kv, spey_seq_id seq);
/* The first block that the token behind the first n_tokens sees, `kept` tokens back, itself included; 0: all. */
int64_t spey_kv_books_first_seen(const spey_kv_cache *kv, int64_t kept, int64_t n_tokens);

/* ---- kv_match.c ---- */

static inline int32_t *kv_tail(const spey_kv_cache *kv, spey_seq_id seq)
{
    return kv->tails + (int64_t)seq * kv->limits.block_tokens;
}
/* How much of a key is in memory, in whole blocks, and the hash up to there. */
int64_t spey_kv_books_known(const spey_kv_cache *kv, const spey_kv_key *key, uint64_t *hash);
/* Get the first n_blocks of a key back from host memory, in groups without a window. False, and nothing was changed: there is
 * no room, or some are not there. */
bool spey_kv_books_restore(spey_kv_cache *kv, const spey_kv_key *key, int64_t n_blocks);
/* Its blocks are, or are no longer, stored from `node` on. */
void spey_kv_books_attach(spey_kv_cache *kv, spey_seq_id seq, uint64_t salt, int32_t node);
void spey_kv_books_detach(spey_kv_cache *kv, spey_seq_id seq);
/* n more tokens are in its blocks, whose length has not changed yet: store those that became full. */
void spey_kv_books_store(spey_kv_cache *kv, spey_seq_id seq, const int32_t *ids, int64_t n);
/* It ends: store its last block too, as far as it is filled. */
void spey_kv_books_store_part(spey_kv_cache *kv, spey_seq_id seq);
/* It will go back to n_tokens. */
void spey_kv_books_go_back(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens);

#endif
