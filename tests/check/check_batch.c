/* Ragged batches and paged caches for check files. */
#include <string.h>

#include "check_impl.h"

/* ---- steps ---- */

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

bool check_step_init(check_step *step, const check *c, const check_seq *seqs, int n_seqs)
{
    *step = (check_step){ .seqs = seqs, .n_seqs = n_seqs, .seq = -1 };
    int part = check_part(c);
    if (part == 0) return true;
    if (part <= n_seqs) {
        step->seq = part - 1;
        step->to = seqs[step->seq].n_tokens;
        return true;
    }
    /* The longest step of the batch, cut. */
    step->seq = 0;
    for (int s = 1; s < n_seqs; s++)
        if (seqs[s].n_tokens > seqs[step->seq].n_tokens) step->seq = s;
    int32_t n = n_seqs ? seqs[step->seq].n_tokens : 0;
    if (n < 2) return false;
    int32_t chunks = (n + 4) / 5, cut = part - n_seqs - 1;
    if (cut < least(chunks, 40)) {
        step->from = 5 * cut;
        step->to = least(n, 5 * cut + 5);
        return true;
    }
    const int32_t single[] = { 0, 1, n / 2, n - 1 };
    int k = cut - least(chunks, 40);
    if (k > 3) return false;
    step->from = single[k];
    step->to = step->from + 1;
    return true;
}

int64_t check_step_tokens(const check_step *step)
{
    int64_t n = 0;
    for (int s = 0; s < step->n_seqs; s++)
        n += step->seqs[s].n_tokens;
    return step->seq < 0 ? n : step->to - step->from;
}

int64_t check_step_first(const check_step *step)
{
    int64_t n = 0;
    for (int s = 0; s < step->seq; s++)
        n += step->seqs[s].n_tokens;
    return n + step->from;
}

/* The step as a list of sequences: the batch's. */
static int step_seqs(const check_step *step, const check_seq **out, check_seq *one)
{
    *out = step->seqs;
    if (step->seq < 0) return step->n_seqs;
    const check_seq *whole = &step->seqs[step->seq];
    one->n_tokens = step->to - step->from;
    one->kv_len = whole->kv_len - whole->n_tokens + step->to;
    *out = one;
    return 1;
}

/* ---- batch ---- */

spey_ragged *check_batch(check *c, void *args_batch, const check_step *step, int vocab)
{
    const check_seq *seqs;
    check_seq one;
    int n_seqs = step_seqs(step, &seqs, &one);
    int64_t n = check_step_tokens(step);
    spey_ragged *batch = check_keep(c, sizeof *batch);
    batch->n_tokens = (int32_t)n;
    batch->n_seqs = n_seqs;
    check_buffer *ids = check_buffer_new(c, "ids", SPEY_I32, n);
    check_buffer *positions = check_buffer_new(c, "positions", SPEY_I32, n);
    check_buffer *token_seq = check_buffer_new(c, "token_seq", SPEY_I32, n);
    check_buffer *seq_start = check_buffer_new(c, "seq_start", SPEY_I32, n_seqs + 1);
    check_buffer *kv_len = check_buffer_new(c, "kv_len", SPEY_I32, n_seqs);
    int32_t r = 0;
    for (int s = 0; s < n_seqs; s++) {
        int whole = step->seq < 0 ? s : step->seq;
        check_set(seq_start, s, r);
        check_set(kv_len, s, seqs[s].kv_len);
        for (int32_t i = seqs[s].kv_len - seqs[s].n_tokens; i < seqs[s].kv_len; i++, r++) {
            check_set(token_seq, r, s);
            check_set(positions, r, i + 3);
            /* Not from check_rng: a part must find it where the whole does. */
            uint32_t mixed = (uint32_t)(i + 1) * 2654435761u ^ (uint32_t)whole * 977u;
            check_set(ids, r, (double)(mixed % (uint32_t)vocab));
        }
    }
    check_set(seq_start, n_seqs, r);
    memcpy(args_batch, &batch, sizeof batch);
    check_bind(c, &batch->ids, ids, 0);
    check_bind(c, &batch->positions, positions, 0);
    check_bind(c, &batch->token_seq, token_seq, 0);
    check_bind(c, &batch->seq_start, seq_start, 0);
    check_bind(c, &batch->kv_len, kv_len, 0);
    return batch;
}

/* ---- cache ---- */

/* Block ids of all sequences of the whole, one after the other. */
struct check_layout {
    const check_seq *seqs;
    int n_seqs;
    int32_t block_tokens;
    int32_t *ids;
};

static int64_t blocks_of(const check_layout *layout, int seq)
{
    return (layout->seqs[seq].kv_len + layout->block_tokens - 1) / layout->block_tokens;
}

static int64_t block_id(const check_layout *layout, int seq, int64_t j)
{
    int64_t at = j;
    for (int s = 0; s < seq; s++)
        at += blocks_of(layout, s);
    return layout->ids[at];
}

/* Bytes of one layer, and the strides in it: heads of K, then heads of V. */
static int64_t layer_bytes(const check_cache *cache, spey_kv_view *view)
{
    int64_t size = (int64_t)spey_dtype_bytes(cache->dtype), hole = cache->pad ? 3 * size : 0;
    view->dtype = cache->dtype;
    view->group = cache->group;
    view->block_tokens = cache->block_tokens;
    view->k_token_bytes = cache->k_dim * size + hole;
    view->v_token_bytes = cache->v_dim * size + 2 * hole;
    view->k_head_bytes = view->k_token_bytes * cache->block_tokens + hole;
    view->v_head_bytes = view->v_token_bytes * cache->block_tokens + 3 * hole;
    view->k_offset = hole;
    view->v_offset = view->k_offset + view->k_head_bytes * cache->n_heads;
    return view->v_offset + view->v_head_bytes * cache->n_heads + hole;
}

/* Scales of `blocks` blocks. */
static void scales_new(check *c, const check_cache *cache, int64_t blocks, spey_kv_view *view)
{
    if (cache->dtype == SPEY_E4M3 && cache->scaled) {
        int64_t n = cache->n_heads;
        check_bind(c, &view->k_scale, check_matrix(c, "k_scale", SPEY_F32, 1, n, n, 0.5, 0.1), 0);
        check_bind(c, &view->v_scale, check_matrix(c, "v_scale", SPEY_F32, 1, n, n, 0.7, 0.1), 0);
    }
    if (cache->dtype != SPEY_I8) return;
    int64_t one = cache->n_heads * cache->block_tokens; /* of K or V of a layer */
    view->k_scales = 2 * one + 1;
    view->v_scales = view->k_scales + one + (cache->pad ? 2 : 0);
    view->scale_block = view->v_scales + one;
    check_bind(c, &view->token_scales,
               check_buffer_new(c, "scales", SPEY_F32, blocks * view->scale_block), 0);
}

check_buffer *check_cache_new(check *c, const check_cache *cache, const check_step *step,
                              spey_ragged *batch, spey_kv_view *view)
{
    int64_t total = 0, longest = 1;
    check_layout *layout = check_keep(c, sizeof *layout);
    *layout = (check_layout){ step->seqs, step->n_seqs, cache->block_tokens, NULL };
    c->cache_layout = layout;
    for (int s = 0; s < step->n_seqs; s++) {
        int64_t n = blocks_of(layout, s);
        total += n;
        if (n > longest) longest = n;
    }
    /* Shuffled ids, some of which stay unused. */
    int64_t pool = total + 3;
    layout->ids = check_keep(c, (size_t)pool * sizeof(int32_t));
    for (int64_t i = 0; i < pool; i++) {
        int64_t j = (int64_t)spey_rng_below(check_rng(c), (uint64_t)i + 1);
        layout->ids[i] = layout->ids[j];
        layout->ids[j] = (int32_t)i;
    }
    int64_t layer = layer_bytes(cache, view), size = (int64_t)spey_dtype_bytes(cache->dtype);
    view->k_offset += layer; /* the second of two layers */
    view->v_offset += layer;
    view->block_bytes = 2 * layer;
    /* The pool ends with its last block. */
    check_buffer *b = check_buffer_new(c, "cache", cache->dtype, pool * view->block_bytes / size);
    check_bind(c, &view->base, b, 0);
    scales_new(c, cache, pool, view);

    const check_seq *seqs;
    check_seq one;
    int n_seqs = step_seqs(step, &seqs, &one);
    int64_t pitch = longest + 2;
    check_buffer *table = check_buffer_new(c, "block table", SPEY_I32, n_seqs * pitch);
    int32_t *entries = check_host(table);
    for (int s = 0; s < n_seqs; s++) {
        int64_t seen = seqs[s].kv_len - seqs[s].n_tokens + 1 - cache->window;
        int64_t begin = cache->window > 0 && seen > 0 ? seen / cache->block_tokens : 0;
        int64_t end = (seqs[s].kv_len + cache->block_tokens - 1) / cache->block_tokens;
        for (int64_t j = 0; j < pitch; j++)
            entries[s * pitch + j] =
                j < begin || j >= end ? INT32_MAX - 7
                                      : (int32_t)block_id(layout, step->seq < 0 ? s : step->seq, j);
    }
    batch->groups[cache->group].pitch = pitch;
    check_bind(c, &batch->groups[cache->group].blocks, table, 0);
    return b;
}

/* Element index of byte `offset` of the block that holds cache index i, token and head strides added. */
static int64_t slot(const check *c, const spey_kv_view *view, int seq, int64_t i, int64_t bytes)
{
    const check_layout *layout = c->cache_layout;
    int64_t block = block_id(layout, seq, i / layout->block_tokens);
    return (block * view->block_bytes + bytes) / (int64_t)spey_dtype_bytes(view->dtype);
}

int64_t check_cache_k(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i)
{
    return slot(c, view, seq, i,
                view->k_offset + h * view->k_head_bytes +
                    i % view->block_tokens * view->k_token_bytes);
}

int64_t check_cache_v(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i)
{
    return slot(c, view, seq, i,
                view->v_offset + h * view->v_head_bytes +
                    i % view->block_tokens * view->v_token_bytes);
}

static int64_t scale_at(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i)
{
    const check_layout *layout = c->cache_layout;
    return block_id(layout, seq, i / layout->block_tokens) * view->scale_block +
           h * layout->block_tokens + i % layout->block_tokens;
}

int64_t check_cache_k_scale(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i)
{
    return scale_at(c, view, seq, h, i) + view->k_scales;
}

int64_t check_cache_v_scale(const check *c, const spey_kv_view *view, int seq, int64_t h, int64_t i)
{
    return scale_at(c, view, seq, h, i) + view->v_scales;
}

/* ---- states ---- */

enum { STATE_HOLE = 3 }; /* elements between layers and blocks */

check_buffer *check_states_new(check *c, int32_t group, int64_t elements, const check_step *step,
                               spey_ragged *batch, spey_state_view *view)
{
    const int64_t layer = elements + STATE_HOLE, block = 2 * layer + STATE_HOLE;
    const int64_t pitch = 2, pool = (step->n_seqs + 2) | 1;
    const int64_t size = (int64_t)sizeof(float);
    *view =
        (spey_state_view){ .group = group, .block_bytes = block * size, .offset = layer * size };
    check_buffer *b = check_buffer_new(c, "states", SPEY_F32, pool * block);
    check_bind(c, &view->base, b, 0);
    check_buffer *table = check_buffer_new(c, "state table", SPEY_I32, batch->n_seqs * pitch);
    int32_t *entries = check_host(table);
    for (int64_t i = 0; i < batch->n_seqs * pitch; i++)
        entries[i] = INT32_MAX - 7;
    for (int s = 0; s < step->n_seqs; s++) {
        const check_seq *seq = &step->seqs[s];
        int64_t id = (s * 2 + 1) % pool; /* once each: pool is odd */
        int64_t first = id * block + layer;
        if (seq->kv_len > seq->n_tokens) check_fill(c, b, first, 1, elements, elements, 0, 1);
        if (step->seq >= 0 && step->seq != s) continue;
        entries[(step->seq < 0 ? s : 0) * pitch] = (int32_t)id;
        if (seq->n_tokens > 0) check_output(c, b, first, 1, elements, elements);
    }
    batch->groups[group].pitch = pitch;
    check_bind(c, &batch->groups[group].blocks, table, 0);
    return b;
}
