/* How attention's work is cut: items, the splits that a token sees, and the workspace of shared items. Part of
 * attention_x86.h, which draws the picture. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_WORK_X86_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_WORK_X86_H

#include "base/status.h"
#include "device/pool.h"
#include "kernels/attention/attention_softmax_x86.h"

enum {
    SPLIT = 512,
    ROWS_MAX = 48,
    SHARED_ROWS_MAX = 16, /* an item with more rows is done by one lane: there are many of those */
    SLOTS = 32,           /* shared items */
    DYNAMIC_ITEMS = 8     /* this many items a lane: no need to cut any */
};

typedef struct item {
    int64_t seq, kv_head;
    int64_t token, n_tokens; /* of the batch */
    int64_t head, n_heads;   /* query heads */
    int64_t begin, end;      /* cache indices that some row sees */
} item;

static inline int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static inline int64_t padded(int64_t n)
{
    return (n + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
}

/* ---- shape of the work ---- */

typedef struct shape {
    const spey_attention_args *a;
    int64_t group;       /* query heads of a KV head */
    int64_t chunk;       /* of which an item takes so many */
    int64_t n_chunks;    /* in a group */
    int64_t item_tokens; /* tokens of an item */
    int64_t v_padded;
    int64_t n_items;
} shape;

static shape shape_of(const spey_attention_args *a)
{
    shape w = { .a = a, .group = a->n_heads / a->n_kv_heads };
    w.n_chunks = (w.group + ROWS_MAX - 1) / ROWS_MAX;
    w.chunk = (w.group + w.n_chunks - 1) / w.n_chunks;
    w.item_tokens = ROWS_MAX / w.chunk;
    w.v_padded = padded(a->v_dim);
    return w;
}

static int64_t items_of(const shape *w, int64_t seq)
{
    const int32_t *start = w->a->batch->seq_start;
    int64_t tiles = (start[seq + 1] - start[seq] + w->item_tokens - 1) / w->item_tokens;
    return tiles * w->a->n_kv_heads * w->n_chunks;
}

/* What token `token` of the batch, in sequence seq, sees. */
static void visible(const spey_attention_args *a, int64_t seq, int64_t token, int64_t *index,
                    int64_t *begin, int64_t *end)
{
    *index = a->batch->kv_len[seq] - a->batch->seq_start[seq + 1] + token;
    *end = a->causal ? *index + 1 : spey_attention_length(a, seq);
    *begin = a->window > 0 ? most(0, *index - a->window + 1) : 0;
}

/* Items come in order; the cursor remembers the sequence of the last one. */
typedef struct cursor {
    int64_t seq, before; /* items of the sequences before seq */
} cursor;

static item item_at(const shape *w, cursor *at, int64_t index)
{
    const spey_attention_args *a = w->a;
    while (index >= at->before + items_of(w, at->seq))
        at->before += items_of(w, at->seq++);
    int64_t inside = index - at->before, chunk = inside % w->n_chunks;
    int64_t kv_head = inside / w->n_chunks % a->n_kv_heads;
    int64_t tile = inside / w->n_chunks / a->n_kv_heads;
    item it = { .seq = at->seq, .kv_head = kv_head };
    it.token = a->batch->seq_start[at->seq] + tile * w->item_tokens;
    it.n_tokens = least(w->item_tokens, a->batch->seq_start[at->seq + 1] - it.token);
    it.head = kv_head * w->group + chunk * w->chunk;
    it.n_heads = least(w->chunk, w->group - chunk * w->chunk);
    int64_t index_unused, end_unused, begin_unused;
    visible(a, it.seq, it.token, &index_unused, &it.begin, &end_unused);
    visible(a, it.seq, it.token + it.n_tokens - 1, &index_unused, &begin_unused, &it.end);
    return it;
}

static int64_t first_split(const item *it)
{
    return it->begin / SPLIT;
}

static int64_t split_count(const item *it)
{
    return (it->end + SPLIT - 1) / SPLIT - it->begin / SPLIT;
}

/* ---- workspace: slots, each with the splits of one shared item ---- */

static int64_t shared_rows(const spey_attention_args *a)
{
    return most(SHARED_ROWS_MAX, shape_of(a).chunk);
}

/* Floats of one row of a split: the accumulator, max and sum. */
static int64_t partial_floats(const spey_attention_args *a)
{
    return padded(a->v_dim) + VEC_LANES;
}

static int64_t slot_floats(const spey_attention_args *a)
{
    return (a->kv_len_max + SPLIT - 1) / SPLIT * shared_rows(a) * partial_floats(a);
}

static size_t workspace(const void *args)
{
    return (size_t)(SLOTS * slot_floats(args)) * sizeof(float);
}

#endif
