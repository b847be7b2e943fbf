/* The body of attention for x86: include vec512.h or vec256.h first. Products are of FP32, or of BF16 in a file whose
 * suffix says so. FlashAttention (Dao et al., 2022) on the paged
 * cache, with Flash-Decoding's splits (Dao et al., 2023).
 *
 *   item   one KV head and up to ROWS_MAX rows of one sequence that read it: the query heads of its group, of as many
 *          tokens as fit. Each K and V element is loaded and widened once for all of them.
 *   tile   64 tokens, split 512 tokens, both at multiples of 64 and 512 of the cache index. Per tile: K is transposed
 *          (attention_pack_x86.h), then scores, online softmax and weighted sum (the tile's header). A split begins
 *          with an empty softmax; its result (max, sum, accumulator) is merged into the row's total, in order.
 *
 *          cache index  0        512       1024      1536
 *          row's total  ---------+---------+---------+---      each split from nothing, then merged left to right
 *
 * So the bits of a row depend on its query, its range and the cache alone: not on the item that it was in, nor on which
 * lane did a split. That is what makes both batch invariance and sharing of one long sequence possible:
 *
 *   many items  lanes take items from a counter.
 *   few items   the work is cut into equal pieces, one a lane, at borders of splits. An item that is cut is `shared`:
 *               its splits go to the workspace, and after a barrier the lanes merge them. A shared item needs a slot
 *               there; when all are taken, pieces end at borders of items.
 *
 * Decode is bound by memory: every K and V byte once. Blocks lie anywhere, in pieces of a few kB (one head of one
 * block), which is too short for hardware prefetchers, so the next tile is asked for in software. Prefill is bound by
 * FMA: 2 (k_dim + v_dim) flops a score; packing a tile costs about as much as two rows, of ROWS_MAX.
 *
 * Tried (Zen 5, one core, decode of 16k tokens, 8 KV heads of 128, BF16, blocks of 16): no prefetch 12.1 ms; the next
 * tile in eight bursts 9.7 ms, because they wait for miss buffers; a few lines at a time, spread over the tile's work,
 * 3.3 ms, which is 90 % of what a loop that only reads such pieces achieves. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_X86_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_X86_H

#ifdef __AVX512BF16__
#include "kernels/attention/attention_tile_x86_bf16.h"
#else
#include "kernels/attention/attention_tile_x86.h"
#endif
#include "kernels/attention/attention_work_x86.h"

static bool supports(const void *args)
{
    const spey_attention_args *a = args;
    return a->dtype == SPEY_F32 && (a->out_dtype == SPEY_F32 || a->out_dtype == SPEY_BF16) &&
           tile_supports(a) && a->k_dim <= SPEY_HEAD_DIM_MAX && a->v_dim <= SPEY_HEAD_DIM_MAX;
}

/* ---- one item ---- */

/* A lane's scratch, laid out by what the item needs, so that small heads stay in the caches. */
typedef struct scratch {
    row_state rows[ROWS_MAX];
    float total_max[ROWS_MAX], total_sum[ROWS_MAX];
    float *q, *k, *v, *s, *acc, *total;
    uint16_t *wide;   /* rows of 8-bit caches, widened */
    kv_tile tiles[2]; /* the current one and the next */
    int current;
    prefetcher ahead;
    relative_table relative;
} scratch;

enum {
    SCRATCH_FLOATS = (3 * ROWS_MAX + 3 * TILE) * (SPEY_HEAD_DIM_MAX + VEC_LANES) + ROWS_MAX * TILE
};

static void scratch_lay_out(scratch *x, const shape *w, float *floats)
{
    int64_t k_dim = padded(w->a->k_dim);
    x->q = floats;
    x->s = x->q + ROWS_MAX * k_dim;
    x->acc = x->s + ROWS_MAX * TILE;
    x->total = x->acc + ROWS_MAX * w->v_padded;
    x->k = x->total + ROWS_MAX * w->v_padded;
    x->v = x->k + TILE * k_dim;
    x->wide = (uint16_t *)(void *)(x->v + TILE * w->v_padded);
}

/* Queries times scale (E4M3: and that of K), and what each row sees. Row order: token, then head. */
static void load_rows(const shape *w, const item *it, scratch *x)
{
    const spey_attention_args *a = w->a;
    const bool heads_scaled = a->kv.dtype == SPEY_E4M3 && a->kv.k_scale;
    const float scale = heads_scaled ? a->scale * a->kv.k_scale[it->kv_head] : a->scale;
    int64_t r = 0;
    x->tiles[0].end = x->tiles[1].end = 0;
    for (int64_t t = it->token; t < it->token + it->n_tokens; t++) {
        for (int64_t h = it->head; h < it->head + it->n_heads; h++, r++) {
            row_state *row = &x->rows[r];
            visible(a, it->seq, t, &row->index, &row->begin, &row->end);
            row->slope = a->alibi_slopes ? a->alibi_slopes[h] : 0;
            row->head = h;
            const float *q = (const float *)a->q + t * a->q_pitch + h * a->k_dim;
            keep_query(q, scale, a->k_dim, x->q + r * query_words(a->k_dim));
        }
    }
}

/* Softmax and weighted sum of rows [r, r + n) over one tile, whose scores are in s; with `packed_k`, scores first. */
static void block_over_tile(const shape *w, scratch *x, const kv_tile *tile, bool packed_k,
                            bool packed_v, int64_t r, int64_t n)
{
    const spey_attention_args *a = w->a;
    int64_t first = tile->begin / TILE * TILE;
    float *s = x->s + r * TILE;
    if (packed_k) scores(n, x->q + r * query_words(a->k_dim), a->k_dim, x->k, &x->ahead, s);
    for (int64_t k = 0; k < n; k++) {
        row_state *row = &x->rows[r + k];
        if (row->begin < first + TILE && row->end > first)
            softmax_row(a, &x->relative, row, tile, s + k * TILE);
    }
    weigh_ranges(a, n, packed_v, s, tile->rows + TILE, first, x->rows + r, &x->ahead,
                 x->acc + r * w->v_padded);
}

/* What to prefetch while n_rows rows work on a tile, spread over all calls of prefetch_some. */
static prefetcher prefetch_plan(const shape *w, const kv_tile *next, int64_t n_rows)
{
    const spey_attention_args *a = w->a;
    int64_t size = (int64_t)spey_dtype_bytes(a->kv.dtype);
    prefetcher f = { .tile = next, .end = 2 * TILE, .bytes = { a->k_dim * size, a->v_dim * size } };
    int64_t blocks = (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS,
            step = VEC_LANES * word_dims(a->kv.dtype);
    int64_t calls = 2 * TILE_VECS * ((a->k_dim + step - 1) / step);
    if (n_rows > DIRECT_ROWS) calls += blocks * TILE_VECS / BLOCK_VECS * (a->k_dim + 3) / 4;
    calls += blocks * TILE / 2 * ((w->v_padded + column_step(n_rows) - 1) / column_step(n_rows));
    int64_t lines = TILE * ((f.bytes[0] + 63) / 64 + (f.bytes[1] + 63) / 64);
    f.lines = (lines + calls - 1) / calls;
    return f;
}

/* The tile that begins at cache index i becomes the current one, the one after it the one to prefetch. */
static kv_tile *advance_tile(const shape *w, const item *it, scratch *x, int64_t i)
{
    int64_t end = least(it->end, i / TILE * TILE + TILE);
    x->current ^= 1;
    kv_tile *tile = &x->tiles[x->current], *next = &x->tiles[x->current ^ 1];
    if (tile->begin != i || tile->end != end)
        kv_tile_find(w->a, it->seq, it->kv_head, i, end, tile);
    x->ahead = (prefetcher){ 0 };
    if (end < it->end) {
        kv_tile_find(w->a, it->seq, it->kv_head, end, least(it->end, end + TILE), next);
        x->ahead = prefetch_plan(w, next, it->n_tokens * it->n_heads);
    }
    return tile;
}

/* All rows of the item over one split; the result is in rows[].max, .sum and acc. */
static void do_split(const shape *w, const item *it, scratch *x, int64_t split)
{
    const spey_attention_args *a = w->a;
    int64_t n_rows = it->n_tokens * it->n_heads;
    for (int64_t r = 0; r < n_rows; r++) {
        x->rows[r].max = -INFINITY;
        x->rows[r].sum = 0;
    }
    memset(x->acc, 0, (size_t)(n_rows * w->v_padded) * sizeof(float));
    int64_t end = least(it->end, (split + 1) * SPLIT);
    /* With few rows, K and V are used where they lie; else they are packed for the many who read them. */
    bool direct = n_rows <= DIRECT_ROWS;
    bool in_place = v_in_place(a, direct);
    int64_t n_blocks = (n_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    for (int64_t i = most(it->begin, split * SPLIT); i < end;) {
        kv_tile *tile = advance_tile(w, it, x, i);
        kv_tile_find_scales(a, it->seq, it->kv_head, tile);
        if (spey_kv_in_bytes(a->kv.dtype)) kv_tile_widen(a, tile, x->wide);
        if (direct)
            scores_direct(n_rows, tile_dtype(a), x->q, a->k_dim, tile, &x->ahead, x->s);
        else
            pack_k(tile, tile_dtype(a), a->k_dim, &x->ahead, x->k);
        if (!in_place) pack_v(tile, tile_dtype(a), a->v_dim, w->v_padded, x->v);
        for (int64_t b = 0, r = 0; b < n_blocks; b++) {
            int64_t n = (n_rows - r + n_blocks - b - 1) / (n_blocks - b);
            block_over_tile(w, x, tile, !direct, !in_place, r, n);
            r += n;
        }
        i = tile->end;
    }
}

/* total = total ⊕ partial, both (max, sum, accumulator). A split that the row does not see changes nothing. */
static void merge(int64_t v_padded, float max, float sum, const float *acc, float *total_max,
                  float *total_sum, float *total)
{
    if (max == -INFINITY && sum == 0) return;
    float top = max > *total_max ? max : *total_max;
    float old_weight = scalar_exp(*total_max - top), new_weight = scalar_exp(max - top);
    vec p = vec_set1(old_weight), n = vec_set1(new_weight);
    for (int64_t i = 0; i < v_padded; i += VEC_LANES)
        vec_store_f32(total + i,
                      vec_fma(vec_load_f32(acc + i), n, vec_mul(vec_load_f32(total + i), p)));
    *total_sum = *total_sum * old_weight + sum * new_weight;
    *total_max = top;
}

/* The row's result, with the sink in its denominator. */
static void finish_row(const shape *w, int64_t token, int64_t head, float max, float sum,
                       const float *total)
{
    const spey_attention_args *a = w->a;
    float weight = 1;
    if (a->sinks) {
        float top = max > a->sinks[head] ? max : a->sinks[head];
        weight = scalar_exp(max - top);
        sum = sum * weight + scalar_exp(a->sinks[head] - top);
    }
    const int64_t out = token * a->out_pitch + head * a->v_dim;
    weight /= sum;
    if (a->kv.dtype == SPEY_E4M3 && a->kv.v_scale)
        weight *= a->kv.v_scale[head / (a->n_heads / a->n_kv_heads)];
    const vec factor = vec_set1(weight);
    for (int64_t i = 0; i < a->v_dim; i += VEC_LANES)
        vec_store_n(a->out, a->out_dtype, out + i, vec_mul(vec_load_f32(total + i), factor),
                    least(VEC_LANES, a->v_dim - i));
}

static void do_item(const shape *w, const item *it, scratch *x)
{
    int64_t n_rows = it->n_tokens * it->n_heads;
    load_rows(w, it, x);
    for (int64_t r = 0; r < n_rows; r++) {
        x->total_max[r] = -INFINITY;
        x->total_sum[r] = 0;
    }
    memset(x->total, 0, (size_t)(n_rows * w->v_padded) * sizeof(float));
    for (int64_t k = 0; k < split_count(it); k++) {
        do_split(w, it, x, first_split(it) + k);
        for (int64_t r = 0; r < n_rows; r++)
            merge(w->v_padded, x->rows[r].max, x->rows[r].sum, x->acc + r * w->v_padded,
                  &x->total_max[r], &x->total_sum[r], x->total + r * w->v_padded);
    }
    for (int64_t r = 0; r < n_rows; r++)
        finish_row(w, it->token + r / it->n_heads, it->head + r % it->n_heads, x->total_max[r],
                   x->total_sum[r], x->total + r * w->v_padded);
}

/* ---- few items: equal pieces ---- */

/* Where a lane's piece begins: split `split` of item `index`. Inside of an item: the item's slot. */
typedef struct border {
    int64_t index, split;
    int slot;
} border;

/* Work of one split of an item, in rows; packing counts as two. */
static int64_t split_cost(const item *it)
{
    return it->n_tokens * it->n_heads + 2;
}

static bool can_share(const shape *w, const item *it)
{
    return it->n_tokens * it->n_heads <= shared_rows(w->a) && split_count(it) > 1;
}

/* borders[l] begins lane l's piece, borders[count] is the end. Every lane computes the same. */
static void cut(const shape *w, int count, border *borders)
{
    int64_t total = 0, before = 0;
    cursor at = { 0 };
    for (int64_t i = 0; i < w->n_items; i++) {
        item it = item_at(w, &at, i);
        total += split_cost(&it) * split_count(&it);
    }
    at = (cursor){ 0 };
    int l = 1, slots = 0;
    borders[0] = (border){ 0, 0, -1 };
    for (int64_t i = 0; i < w->n_items; i++) {
        item it = item_at(w, &at, i);
        int64_t n = split_count(&it), cost = split_cost(&it);
        int slot = slots < SLOTS && can_share(w, &it) ? slots : -1;
        for (; l < count && total * l / count < before + n * cost; l++) {
            int64_t split = (total * l / count - before + cost / 2) / cost;
            if (slot < 0) split = 2 * split < n ? 0 : n;
            if (split == 0)
                borders[l] = (border){ i, 0, -1 };
            else if (split == n)
                borders[l] = (border){ i + 1, 0, -1 };
            else
                borders[l] = (border){ i, split, slot };
            if (borders[l].slot >= 0) slots = slot + 1;
        }
        before += n * cost;
    }
    for (; l <= count; l++)
        borders[l] = (border){ w->n_items, 0, -1 };
}

/* The slot of item i when it is shared, else -1. */
static int slot_of(const border *borders, int count, int64_t i)
{
    for (int l = 1; l < count; l++)
        if (borders[l].index == i && borders[l].slot >= 0) return borders[l].slot;
    return -1;
}

static float *partial_at(const spey_attention_args *a, int slot, int64_t split, int64_t row)
{
    return (float *)a->workspace + slot * slot_floats(a) +
           (split * shared_rows(a) + row) * partial_floats(a);
}

static void do_splits(const shape *w, const item *it, scratch *x, int slot, int64_t begin,
                      int64_t end)
{
    int64_t n_rows = it->n_tokens * it->n_heads;
    SPEY_ASSERT(n_rows <= shared_rows(w->a));
    SPEY_ASSERT(it->end <= w->a->kv_len_max);
    load_rows(w, it, x);
    for (int64_t k = begin; k < end; k++) {
        do_split(w, it, x, first_split(it) + k);
        for (int64_t r = 0; r < n_rows; r++) {
            float *p = partial_at(w->a, slot, k, r);
            memcpy(p, x->acc + r * w->v_padded, (size_t)w->v_padded * sizeof(float));
            p[w->v_padded] = x->rows[r].max;
            p[w->v_padded + 1] = x->rows[r].sum;
        }
    }
}

/* Merge row r of a shared item. */
static void combine_row(const shape *w, const item *it, scratch *x, int slot, int64_t r)
{
    float max = -INFINITY, sum = 0;
    memset(x->total, 0, (size_t)w->v_padded * sizeof(float));
    for (int64_t k = 0; k < split_count(it); k++) {
        const float *p = partial_at(w->a, slot, k, r);
        merge(w->v_padded, p[w->v_padded], p[w->v_padded + 1], p, &max, &sum, x->total);
    }
    finish_row(w, it->token + r / it->n_heads, it->head + r % it->n_heads, max, sum, x->total);
}

static void run_pieces(const shape *w, const spey_lane *lane, scratch *x)
{
    border borders[SPEY_THREADS_MAX + 1];
    cut(w, lane->count, borders);
    border from = borders[lane->index], to = borders[lane->index + 1];
    cursor at = { 0 };
    for (int64_t i = from.index; i < w->n_items && i <= to.index; i++) {
        item it = item_at(w, &at, i);
        int slot = slot_of(borders, lane->count, i);
        int64_t begin = i == from.index ? from.split : 0;
        int64_t end = i == to.index ? to.split : split_count(&it);
        if (begin >= end) continue;
        if (slot < 0)
            do_item(w, &it, x);
        else
            do_splits(w, &it, x, slot, begin, end);
    }
    spey_lane_barrier(lane);
    at = (cursor){ 0 };
    int64_t turn = 0;
    for (int l = 1, last = -1; l < lane->count; l++) {
        int slot = borders[l].slot;
        if (slot <= last) continue; /* none, or an item that three lanes share */
        last = slot;
        item it = item_at(w, &at, borders[l].index);
        for (int64_t r = 0; r < it.n_tokens * it.n_heads; r++)
            if (turn++ % lane->count == lane->index) combine_row(w, &it, x, slot, r);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = args;
    shape w = shape_of(a);
    for (int64_t s = 0; s < a->batch->n_seqs; s++)
        w.n_items += items_of(&w, s);
    if (a->rows == 0 || w.n_items == 0) return;
    scratch x = { .current = 0 };
    relative_table_init(a, &x.relative);
    float floats[SCRATCH_FLOATS] __attribute__((aligned(64)));
    scratch_lay_out(&x, &w, floats);
    if (lane->count > 1 && w.n_items < (int64_t)DYNAMIC_ITEMS * lane->count) {
        run_pieces(&w, lane, &x);
        return;
    }
    cursor at = { 0 };
    int64_t begin, end;
    while (spey_lane_chunk(lane, w.n_items, 1, &begin, &end)) {
        item it = item_at(&w, &at, begin);
        do_item(&w, &it, &x);
    }
}

#endif
