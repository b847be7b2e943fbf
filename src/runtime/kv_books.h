/* The books behind kv_cache.h, for the files that keep them. */
#ifndef SPEY_RUNTIME_KV_BOOKS_H
#define SPEY_RUNTIME_KV_BOOKS_H

#include "runtime/kv_cache.h"

/* Which entries of a sequence's row in a group's table are its blocks: [first, end). */
typedef struct kv_span {
    int32_t first;
    int32_t end;
} kv_span;

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
    int64_t promised, promised_beyond; /* blocks: within windows, and behind them */
} kv_group;

typedef struct kv_sequence {
    bool open;
    int64_t length;
    int64_t cross_length;
    int64_t promised; /* tokens */
} kv_sequence;

struct spey_kv_cache {
    spey_kv_limits limits;
    kv_group groups[SPEY_CACHE_GROUPS_MAX];
    kv_sequence *sequences;
    spey_seq_id *free_slots; /* [sequences_max], the first n_free_slots are valid */
    int32_t n_free_slots;
    spey_kv_copy *copies; /* [copies_max] */
    int64_t n_copies, copies_max;
    void *memory; /* of all arrays */
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
/* Give one reference up. */
void spey_kv_books_release(spey_kv_cache *kv, int g, int32_t block);
/* Queue a copy; there is room. */
void spey_kv_books_copy(spey_kv_cache *kv, const spey_kv_copy *copy);

#endif
