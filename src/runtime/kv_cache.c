#include "runtime/kv_cache.h"

#include <string.h>

#include "base/alloc.h"
#include "runtime/kv_tree.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t spey_kv_books_blocks(const spey_kv_limits *limits, int64_t n_tokens)
{
    return (n_tokens + limits->block_tokens - 1) / limits->block_tokens;
}

/* Blocks that `kept` tokens before a sequence's end touch at most, with those of a step that are begun. A step of n tokens
 * touches less than (kept + n) / block_tokens + 2: the whole ones of n are counted apart, for all sequences together. */
static int64_t window_blocks(const spey_kv_limits *limits, int64_t kept)
{
    return spey_kv_books_blocks(limits, kept) + 2;
}

int64_t spey_kv_window_blocks(const spey_kv_limits *limits, int64_t window, int64_t n_sequences)
{
    return n_sequences * window_blocks(limits, window + limits->rollback_tokens) +
           spey_kv_books_blocks(limits, limits->step_tokens_max);
}

/* ---- life ---- */

/* Take `n` items from *offset on, aligned for any of the arrays. False on overflow. */
static bool take(size_t *offset, int64_t n, size_t item_bytes, size_t *at)
{
    size_t bytes, end;
    if (!spey_mul_size((size_t)n, item_bytes, &bytes) || !spey_add_size(*offset, bytes, &end) ||
        !spey_add_size(end, 63, &end))
        return false;
    *at = *offset;
    *offset = end & ~(size_t)63;
    return true;
}

static kv_group new_group(const spey_kv_limits *limits, int g)
{
    const spey_kv_group_limits *of = &limits->groups[g];
    kv_group group = { .kind = of->kind, .n_blocks = of->n_blocks, .n_free = of->n_blocks };
    switch (of->kind) {
    case SPEY_KV_STATE: group.blocks_max = 1; break;
    case SPEY_KV_CROSS:
        group.blocks_max = spey_kv_books_blocks(limits, limits->cross_tokens_max);
        break;
    case SPEY_KV_TOKENS:
        group.blocks_max = spey_kv_books_blocks(limits, limits->sequence_tokens_max);
        group.window = of->window;
        if (of->window) group.kept = of->window + limits->rollback_tokens;
        break;
    }
    return group;
}

/* One node for each block of a group without a window. When there is none, nodes whose blocks have gone lead to others:
 * enough for all sequences, as long as that is not many times what the pools hold. */
static int32_t nodes_max(const spey_kv_limits *limits)
{
    int64_t whole = 0, windows = 0;
    for (int g = 0; g < limits->n_groups; g++) {
        const spey_kv_group_limits *group = &limits->groups[g];
        if (group->kind != SPEY_KV_TOKENS) return 0;
        if (group->window)
            windows = max64(windows, group->n_blocks);
        else
            whole = max64(whole, group->n_blocks);
    }
    int64_t all = limits->sequences_max * spey_kv_books_blocks(limits, limits->sequence_tokens_max);
    if (!limits->reuse) return 0;
    return (int32_t)min64((whole ? whole : min64(all, 4 * windows)) + limits->host_blocks,
                          INT32_MAX / 2);
}

static int32_t n_buckets(int32_t n_nodes)
{
    int32_t n = 1;
    while (n < n_nodes)
        n *= 2;
    return n;
}

/* What a group needs for reuse. */
static bool lay_out_cached(kv_group *group, int32_t n_nodes, size_t *offset, uint8_t *memory)
{
    size_t nodes_at, blocks_at, links_at, lists_at;
    if (!n_nodes) return true;
    if (!take(offset, group->n_blocks, sizeof(int32_t), &nodes_at) ||
        !take(offset, n_nodes, sizeof(int32_t), &blocks_at) ||
        !take(offset, n_nodes, sizeof(struct kv_link), &links_at) ||
        !take(offset, KV_PRIORITIES, sizeof(struct kv_list), &lists_at))
        return false;
    if (!memory) return true;
    group->nodes_of_blocks = (int32_t *)(void *)(memory + nodes_at);
    group->blocks_of_nodes = (int32_t *)(void *)(memory + blocks_at);
    group->links = (struct kv_link *)(void *)(memory + links_at);
    group->lists = (struct kv_list *)(void *)(memory + lists_at);
    for (int32_t b = 0; b < group->n_blocks; b++)
        group->nodes_of_blocks[b] = KV_NONE;
    for (int32_t i = 0; i < n_nodes; i++)
        group->blocks_of_nodes[i] = KV_NONE;
    for (int p = 0; p < KV_PRIORITIES; p++)
        group->lists[p] = (struct kv_list){ KV_NONE, KV_NONE };
    return true;
}

static bool lay_out_host(const spey_kv_limits *limits, kv_group *group, int32_t n_nodes,
                         size_t *offset, uint8_t *memory)
{
    size_t free_at, nodes_at, links_at, list_at, uses_at, lists_at;
    if (!n_nodes || !limits->host_blocks) return true;
    if (!take(offset, limits->host_blocks, sizeof(int32_t), &free_at) ||
        !take(offset, n_nodes, sizeof(int32_t), &nodes_at) ||
        !take(offset, n_nodes, sizeof(struct kv_link), &links_at) ||
        !take(offset, 1, sizeof(struct kv_list), &list_at) ||
        !take(offset, limits->host_blocks, sizeof(uint8_t), &uses_at) ||
        !take(offset, limits->host_blocks, sizeof(uint64_t), &lists_at))
        return false;
    if (!memory) return true;
    group->n_host = group->n_host_free = limits->host_blocks;
    group->host_free = (int32_t *)(void *)(memory + free_at);
    group->host_of_nodes = (int32_t *)(void *)(memory + nodes_at);
    group->host_links = (struct kv_link *)(void *)(memory + links_at);
    group->host_list = (struct kv_list *)(void *)(memory + list_at);
    group->host_uses = memory + uses_at;
    group->host_lists = (uint64_t *)(void *)(memory + lists_at);
    *group->host_list = (struct kv_list){ KV_NONE, KV_NONE };
    for (int32_t b = 0; b < group->n_host; b++)
        group->host_free[b] = group->n_host - 1 - b;
    for (int32_t i = 0; i < n_nodes; i++)
        group->host_of_nodes[i] = KV_NONE;
    return true;
}

static bool lay_out_events(const spey_kv_limits *limits, spey_kv_cache *kv, size_t *offset,
                           uint8_t *memory)
{
    size_t events_at, ids_at;
    if (!take(offset, limits->events_max, sizeof(spey_kv_event), &events_at) ||
        !take(offset, (int64_t)limits->events_max * limits->block_tokens, sizeof(int32_t), &ids_at))
        return false;
    if (!memory) return true;
    kv->events = (spey_kv_event *)(void *)(memory + events_at);
    kv->event_ids = (int32_t *)(void *)(memory + ids_at);
    return true;
}

static bool lay_out_tree(const spey_kv_limits *limits, spey_kv_cache *kv, size_t *offset,
                         uint8_t *memory)
{
    int32_t n = nodes_max(limits), buckets = n_buckets(n);
    size_t nodes_at, ids_at, tails_at, buckets_at, heap_at, ids = 0;
    if (!n) return true;
    if (!spey_mul_size((size_t)n, (size_t)limits->block_tokens, &ids) ||
        !take(offset, n, sizeof(struct kv_node), &nodes_at) ||
        !take(offset, (int64_t)ids, sizeof(int32_t), &ids_at) ||
        !take(offset, (int64_t)limits->sequences_max * limits->block_tokens, sizeof(int32_t),
              &tails_at) ||
        !take(offset, buckets, sizeof(int32_t), &buckets_at) ||
        !take(offset, n, sizeof(int32_t), &heap_at))
        return false;
    if (!memory) return true;
    kv->nodes_max = n;
    kv->n_buckets = buckets;
    kv->nodes = (struct kv_node *)(void *)(memory + nodes_at);
    kv->node_ids = (int32_t *)(void *)(memory + ids_at);
    kv->tails = (int32_t *)(void *)(memory + tails_at);
    kv->buckets = (int32_t *)(void *)(memory + buckets_at);
    kv->heap = (int32_t *)(void *)(memory + heap_at);
    for (int32_t i = 0; i < buckets; i++)
        kv->buckets[i] = KV_NONE;
    for (int32_t i = 0; i < n; i++)
        kv->nodes[i].next_in_bucket = i + 1 < n ? i + 1 : KV_NONE;
    kv->first_root = kv->leader = KV_NONE;
    for (int g = limits->n_groups - 1; g >= 0; g--)
        if (!limits->groups[g].window) kv->leader = g;
    return true;
}

/* Where a group's arrays lie; fills its pointers when there is memory. */
static bool lay_out_group(const spey_kv_limits *limits, kv_group *group, size_t *offset,
                          uint8_t *memory)
{
    size_t free_at, refs_at, marks_at, table_at, spans_at;
    if (!take(offset, group->n_blocks, sizeof(int32_t), &free_at) ||
        !take(offset, group->n_blocks, sizeof(int32_t), &refs_at) ||
        !take(offset, group->n_blocks, sizeof(int32_t), &marks_at) ||
        !take(offset, limits->sequences_max * group->blocks_max, sizeof(int32_t), &table_at) ||
        !take(offset, limits->sequences_max, sizeof(kv_span), &spans_at))
        return false;
    if (!memory) return true;
    group->free_blocks = (int32_t *)(void *)(memory + free_at);
    group->refs = (int32_t *)(void *)(memory + refs_at);
    group->marks = (int32_t *)(void *)(memory + marks_at);
    group->table = (int32_t *)(void *)(memory + table_at);
    group->spans = (kv_span *)(void *)(memory + spans_at);
    for (int32_t b = 0; b < group->n_blocks; b++)
        group->free_blocks[b] = group->n_blocks - 1 - b;
    return true;
}

/* Enough for a copy of every block, and for as many that move to host memory (kv_host.c). */
int64_t spey_kv_copies_max(const spey_kv_limits *limits)
{
    int64_t n = 0;
    for (int g = 0; g < limits->n_groups; g++)
        n += 2 * (int64_t)limits->groups[g].n_blocks;
    return n;
}

/* Where every array lies in one allocation; fills kv's pointers when there is memory. SIZE_MAX on overflow. */
static size_t lay_out(const spey_kv_limits *limits, spey_kv_cache *kv, uint8_t *memory)
{
    size_t offset = 0, sequences_at, slots_at, copies_at;
    if (!take(&offset, limits->sequences_max, sizeof(kv_sequence), &sequences_at) ||
        !take(&offset, limits->sequences_max, sizeof(spey_seq_id), &slots_at) ||
        !take(&offset, spey_kv_copies_max(limits), sizeof(spey_kv_copy), &copies_at))
        return SIZE_MAX;
    for (int g = 0; g < limits->n_groups; g++) {
        kv_group group = new_group(limits, g);
        if (!lay_out_group(limits, &group, &offset, memory) ||
            !lay_out_cached(&group, nodes_max(limits), &offset, memory) ||
            !lay_out_host(limits, &group, nodes_max(limits), &offset, memory))
            return SIZE_MAX;
        if (memory) kv->groups[g] = group;
    }
    if (!lay_out_tree(limits, kv, &offset, memory) || !lay_out_events(limits, kv, &offset, memory))
        return SIZE_MAX;
    if (!memory) return offset;
    kv->sequences = (kv_sequence *)(void *)(memory + sequences_at);
    kv->free_slots = (spey_seq_id *)(void *)(memory + slots_at);
    kv->copies = (spey_kv_copy *)(void *)(memory + copies_at);
    kv->copies_max = spey_kv_copies_max(limits);
    kv->n_free_slots = limits->sequences_max;
    for (spey_seq_id i = 0; i < limits->sequences_max; i++)
        kv->free_slots[i] = limits->sequences_max - 1 - i;
    return offset;
}

size_t spey_kv_cache_bytes(const spey_kv_limits *limits)
{
    return lay_out(limits, NULL, NULL);
}

spey_status spey_kv_cache_new(const spey_kv_limits *limits, spey_kv_cache **out)
{
    *out = NULL;
    SPEY_ASSERT(limits->sequences_max > 0);
    SPEY_ASSERT(limits->sequence_tokens_max > 0);
    SPEY_ASSERT(limits->block_tokens > 0);
    SPEY_ASSERT(limits->n_groups >= 0 && limits->n_groups <= SPEY_CACHE_GROUPS_MAX);
    spey_kv_cache *kv = spey_new(SPEY_PURPOSE_RUNTIME, spey_kv_cache);
    if (!kv) return SPEY_NOMEM;
    kv->limits = *limits;
    kv->memory = spey_alloc(SPEY_PURPOSE_RUNTIME, lay_out(limits, NULL, NULL));
    if (!kv->memory) {
        spey_free(kv);
        return SPEY_NOMEM;
    }
    lay_out(limits, kv, kv->memory);
    spey_kv_report_created(kv);
    *out = kv;
    return SPEY_OK;
}

void spey_kv_cache_free(spey_kv_cache *kv)
{
    if (!kv) return;
    spey_free(kv->memory);
    spey_free(kv);
}

/* ---- blocks ---- */

int32_t spey_kv_books_take(spey_kv_cache *kv, int g)
{
    kv_group *group = &kv->groups[g];
    if (!group->n_free) {
        spey_kv_tree_evict(kv, g);
        kv->n_evicted++;
    }
    SPEY_ASSERT(group->n_free > 0);
    int32_t block = group->free_blocks[--group->n_free];
    SPEY_ASSERT(group->refs[block] == 0);
    group->refs[block] = 1;
    kv->n_taken += group->kind == SPEY_KV_TOKENS;
    return block;
}

/* The node that has the block; KV_NONE. */
static int32_t node_of(const kv_group *group, int32_t block)
{
    return group->nodes_of_blocks ? group->nodes_of_blocks[block] : KV_NONE;
}

void spey_kv_books_share(spey_kv_cache *kv, int g, int32_t block)
{
    kv_group *group = &kv->groups[g];
    SPEY_ASSERT(group->refs[block] > 0);
    if (group->refs[block]++ == 1 && node_of(group, block) != KV_NONE)
        spey_kv_tree_uncache(kv, g, node_of(group, block));
}

void spey_kv_books_release(spey_kv_cache *kv, int g, int32_t block)
{
    kv_group *group = &kv->groups[g];
    SPEY_ASSERT(group->refs[block] > 0);
    if (--group->refs[block] == 0)
        group->free_blocks[group->n_free++] = block;
    else if (group->refs[block] == 1 && node_of(group, block) != KV_NONE)
        spey_kv_tree_cache(kv, g, node_of(group, block));
}

void spey_kv_books_copy(spey_kv_cache *kv, const spey_kv_copy *copy)
{
    const kv_group *group = &kv->groups[copy->group];
    SPEY_ASSERT(kv->n_copies < kv->copies_max);
    if (copy->kind == SPEY_KV_COPY_TO_HOST) group->host_lists[copy->dst] = kv->n_lists + 1;
    if (copy->kind == SPEY_KV_COPY_FROM_HOST) group->host_lists[copy->src] = kv->n_lists + 1;
    kv->copies[kv->n_copies++] = *copy;
}

/* Keep a sequence's blocks below index n. */
static void keep_blocks(spey_kv_cache *kv, int g, spey_seq_id seq, int64_t n)
{
    kv_group *group = &kv->groups[g];
    kv_span *span = &group->spans[seq];
    const int32_t *row = kv_row(group, seq);
    /* Last block first: a sequence that grows again gets the same blocks in the same order. */
    while (span->end > n && span->end > span->first)
        spey_kv_books_release(kv, g, row[--span->end]);
    if (n == 0) *span = (kv_span){ 0 };
}

void spey_kv_books_give_back(spey_kv_cache *kv, spey_seq_id seq)
{
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind != SPEY_KV_CROSS) keep_blocks(kv, g, seq, 0);
}

/* Give back a sequence's blocks below index n. */
static void drop_blocks(spey_kv_cache *kv, int g, spey_seq_id seq, int64_t n)
{
    kv_group *group = &kv->groups[g];
    kv_span *span = &group->spans[seq];
    const int32_t *row = kv_row(group, seq);
    while (span->first < n && span->first < span->end)
        spey_kv_books_release(kv, g, row[span->first++]);
}

/* The block into which the next token goes is there already, and others have it too. */
static bool next_is_shared(const spey_kv_cache *kv, int g, spey_seq_id seq)
{
    const kv_group *group = &kv->groups[g];
    int64_t length = kv->sequences[seq].length, i = length / kv->limits.block_tokens;
    if (group->kind != SPEY_KV_TOKENS || length % kv->limits.block_tokens == 0) return false;
    SPEY_ASSERT(i < group->spans[seq].end);
    return i >= group->spans[seq].first && group->refs[kv_row(group, seq)[i]] > 1;
}

/* Blocks of a group that reserve takes: new ones, and one for a copy. */
static int64_t missing(const spey_kv_cache *kv, int g, spey_seq_id seq, int64_t n_tokens)
{
    const kv_group *group = &kv->groups[g];
    if (group->kind == SPEY_KV_CROSS) return 0;
    int64_t more = max64(0, spey_kv_blocks_for(kv, g, n_tokens) - group->spans[seq].end);
    return more + (n_tokens > kv->sequences[seq].length && next_is_shared(kv, g, seq));
}

static void append_blocks(spey_kv_cache *kv, int g, spey_seq_id seq, int64_t end)
{
    kv_group *group = &kv->groups[g];
    kv_span *span = &group->spans[seq];
    int32_t *row = kv_row(group, seq);
    while (span->end < end)
        row[span->end++] = spey_kv_books_take(kv, g);
}

/* ---- sequences ---- */

bool spey_kv_is_open(const spey_kv_cache *kv, spey_seq_id seq)
{
    return seq >= 0 && seq < kv->limits.sequences_max && kv->sequences[seq].open;
}

kv_sequence *spey_kv_books_sequence(const spey_kv_cache *kv, spey_seq_id seq)
{
    SPEY_ASSERT(spey_kv_is_open(kv, seq));
    return &kv->sequences[seq];
}

spey_status spey_kv_open(spey_kv_cache *kv, spey_seq_id *out)
{
    if (!kv->n_free_slots)
        return SPEY_FAIL(SPEY_LIMIT, "all %d sequences are in use", kv->limits.sequences_max);
    *out = kv->free_slots[--kv->n_free_slots];
    kv->sequences[*out] =
        (kv_sequence){ .open = true, .cursor = KV_NONE, .priority = KV_PRIORITY_DEFAULT };
    return SPEY_OK;
}

void spey_kv_close(spey_kv_cache *kv, spey_seq_id seq)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    spey_kv_books_store_part(kv, seq);
    for (int g = 0; g < kv->limits.n_groups; g++)
        keep_blocks(kv, g, seq, 0);
    spey_kv_books_detach(kv, seq);
    *s = (kv_sequence){ .open = false };
    kv->free_slots[kv->n_free_slots++] = seq;
}

static spey_status check_copies(const spey_kv_cache *kv, int64_t n)
{
    if (kv->n_copies + n <= kv->copies_max) return SPEY_OK;
    return SPEY_FAIL(SPEY_LIMIT, "%lld copies of KV blocks wait for a step, no more can",
                     (long long)kv->n_copies);
}

/* The child has what holds the parent's tokens. */
static void share_blocks(spey_kv_cache *kv, int g, spey_seq_id parent, spey_seq_id child)
{
    kv_group *group = &kv->groups[g];
    const kv_span from = group->spans[parent];
    const kv_sequence *s = &kv->sequences[parent];
    int64_t tokens = group->kind == SPEY_KV_CROSS ? s->cross_length : s->length;
    kv_span *span = &group->spans[child];
    *span = (kv_span){ from.first, (int32_t)spey_kv_blocks_for(kv, g, tokens) };
    const int32_t *row = kv_row(group, parent);
    int32_t *copy = kv_row(group, child);
    if (group->kind == SPEY_KV_STATE) {
        if (!span->end) return;
        *copy = spey_kv_books_take(kv, g);
        spey_kv_books_copy(kv, &(spey_kv_copy){ SPEY_KV_COPY_DEVICE, g, *row, *copy });
        return;
    }
    for (int32_t i = span->first; i < span->end; i++) {
        copy[i] = row[i];
        spey_kv_books_share(kv, g, row[i]);
    }
}

spey_status spey_kv_fork(spey_kv_cache *kv, spey_seq_id parent, spey_seq_id *child)
{
    const kv_sequence *s = spey_kv_books_sequence(kv, parent);
    SPEY_TRY(check_copies(kv, kv->limits.n_groups));
    SPEY_TRY(spey_kv_open(kv, child));
    kv_sequence *c = &kv->sequences[*child];
    c->length = s->length;
    c->cross_length = s->cross_length;
    c->priority = s->priority;
    c->ranges = s->ranges;
    c->n_ranges = s->n_ranges;
    c->until_ns = s->until_ns;
    if (s->attached) {
        spey_kv_books_attach(kv, *child, s->salt, s->cursor);
        memcpy(kv_tail(kv, *child), kv_tail(kv, parent),
               (size_t)(s->length % kv->limits.block_tokens) * sizeof(int32_t));
    }
    for (int g = 0; g < kv->limits.n_groups; g++)
        share_blocks(kv, g, parent, *child);
    return SPEY_OK;
}

/* ---- growing and shrinking ---- */

void spey_kv_add_missing(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens,
                         int64_t *of_groups)
{
    spey_kv_books_sequence(kv, seq);
    for (int g = 0; g < kv->limits.n_groups; g++)
        of_groups[g] += missing(kv, g, seq, n_tokens);
}

int64_t spey_kv_missing_blocks(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    spey_kv_books_sequence(kv, seq);
    int64_t most = 0;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind == SPEY_KV_TOKENS) most = max64(most, missing(kv, g, seq, n_tokens));
    return most;
}

static spey_status full(const spey_kv_cache *kv, int g, int64_t wanted)
{
    const kv_group *group = &kv->groups[g];
    int32_t n_free = spey_kv_group_free_blocks(kv, g);
    return SPEY_FAIL(SPEY_LIMIT,
                     "the KV cache is full: %lld blocks of %d tokens wanted, %d of %d are "
                     "free, %lld are missing",
                     (long long)wanted, kv->limits.block_tokens, n_free, group->n_blocks,
                     (long long)wanted - n_free);
}

static spey_status check_reserve(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    if (n_tokens > kv->limits.sequence_tokens_max)
        return SPEY_FAIL(SPEY_LIMIT, "a sequence of %lld tokens wanted, %lld is the most",
                         (long long)n_tokens, (long long)kv->limits.sequence_tokens_max);
    SPEY_TRY(check_copies(kv, kv->limits.n_groups));
    for (int g = 0; g < kv->limits.n_groups; g++) {
        int64_t wanted = missing(kv, g, seq, n_tokens);
        if (wanted > spey_kv_group_free_blocks(kv, g)) return full(kv, g, wanted);
    }
    return SPEY_OK;
}

/* Put a copy in the place of the block into which the next token goes. */
static void unshare_next(spey_kv_cache *kv, int g, spey_seq_id seq)
{
    int64_t i = kv->sequences[seq].length / kv->limits.block_tokens;
    int32_t *entry = &kv_row(&kv->groups[g], seq)[i];
    int32_t block = spey_kv_books_take(kv, g);
    spey_kv_books_copy(kv, &(spey_kv_copy){ SPEY_KV_COPY_DEVICE, g, *entry, block });
    spey_kv_books_release(kv, g, *entry);
    *entry = block;
}

spey_status spey_kv_reserve(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    const kv_sequence *s = spey_kv_books_sequence(kv, seq);
    SPEY_TRY(check_reserve(kv, seq, n_tokens));
    for (int g = 0; g < kv->limits.n_groups; g++) {
        if (kv->groups[g].kind == SPEY_KV_CROSS) continue;
        if (n_tokens > s->length && next_is_shared(kv, g, seq)) unshare_next(kv, g, seq);
        append_blocks(kv, g, seq, spey_kv_blocks_for(kv, g, n_tokens));
    }
    return SPEY_OK;
}

spey_status spey_kv_reserve_cross(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    if (n_tokens > kv->limits.cross_tokens_max)
        return SPEY_FAIL(SPEY_LIMIT, "%lld tokens of an encoder wanted, %lld are the most",
                         (long long)n_tokens, (long long)kv->limits.cross_tokens_max);
    SPEY_ASSERT(n_tokens >= s->cross_length);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        int64_t wanted = spey_kv_blocks_for(kv, g, n_tokens) - group->spans[seq].end;
        if (group->kind == SPEY_KV_CROSS && wanted > group->n_free) return full(kv, g, wanted);
    }
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind == SPEY_KV_CROSS)
            append_blocks(kv, g, seq, spey_kv_blocks_for(kv, g, n_tokens));
    s->cross_length = n_tokens;
    return SPEY_OK;
}

int64_t spey_kv_books_first_seen(const spey_kv_cache *kv, int64_t kept, int64_t n_tokens)
{
    return kept ? max64(0, n_tokens - kept + 1) / kv->limits.block_tokens : 0;
}

void spey_kv_advance(spey_kv_cache *kv, spey_seq_id seq, const int32_t *ids, int64_t n)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    SPEY_ASSERT(n >= 0);
    SPEY_ASSERT(s->length + n <= kv->limits.sequence_tokens_max);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        if (group->kind != SPEY_KV_TOKENS || n == 0) continue;
        SPEY_ASSERT(spey_kv_blocks_for(kv, g, s->length + n) <= group->spans[seq].end);
        SPEY_ASSERT(!next_is_shared(kv, g, seq));
    }
    spey_kv_books_store(kv, seq, ids, n);
    s->length += n;
    for (int g = 0; g < kv->limits.n_groups; g++)
        drop_blocks(kv, g, seq, spey_kv_books_first_seen(kv, kv->groups[g].kept, s->length));
}

static spey_status check_truncate(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    const kv_sequence *s = &kv->sequences[seq];
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        if (group->kind == SPEY_KV_STATE && n_tokens < s->length)
            return SPEY_FAIL(SPEY_UNSUPPORTED,
                             "sequence %d has a state, which cannot go back from %lld tokens to "
                             "%lld; it can begin again",
                             seq, (long long)s->length, (long long)n_tokens);
        if (group->spans[seq].first > spey_kv_books_first_seen(kv, group->window, n_tokens))
            return SPEY_FAIL(SPEY_UNSUPPORTED,
                             "sequence %d has given back what a window before token %lld holds, it "
                             "cannot go back there from %lld; it can begin again",
                             seq, (long long)n_tokens, (long long)s->length);
    }
    return SPEY_OK;
}

spey_status spey_kv_truncate(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    SPEY_ASSERT(n_tokens >= 0 && n_tokens <= s->length);
    if (n_tokens > 0) SPEY_TRY(check_truncate(kv, seq, n_tokens));
    spey_kv_books_go_back(kv, seq, n_tokens);
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind != SPEY_KV_CROSS)
            keep_blocks(kv, g, seq, spey_kv_blocks_for(kv, g, n_tokens));
    s->length = n_tokens;
    return SPEY_OK;
}

/* ---- reading ---- */

int64_t spey_kv_length(const spey_kv_cache *kv, spey_seq_id seq)
{
    return spey_kv_books_sequence(kv, seq)->length;
}

int64_t spey_kv_cross_length(const spey_kv_cache *kv, spey_seq_id seq)
{
    return spey_kv_books_sequence(kv, seq)->cross_length;
}

int64_t spey_kv_blocks_for(const spey_kv_cache *kv, int group, int64_t n_tokens)
{
    SPEY_ASSERT(group >= 0 && group < kv->limits.n_groups);
    if (kv->groups[group].kind == SPEY_KV_STATE) return n_tokens > 0;
    return spey_kv_books_blocks(&kv->limits, n_tokens);
}

const int32_t *spey_kv_blocks(const spey_kv_cache *kv, int group, spey_seq_id seq, int64_t *n)
{
    SPEY_ASSERT(group >= 0 && group < kv->limits.n_groups);
    SPEY_ASSERT(spey_kv_is_open(kv, seq));
    *n = kv->groups[group].spans[seq].end;
    return kv_row(&kv->groups[group], seq);
}

int64_t spey_kv_first_block(const spey_kv_cache *kv, int group, spey_seq_id seq)
{
    SPEY_ASSERT(group >= 0 && group < kv->limits.n_groups);
    SPEY_ASSERT(spey_kv_is_open(kv, seq));
    return kv->groups[group].spans[seq].first;
}

int32_t spey_kv_group_free_blocks(const spey_kv_cache *kv, int group)
{
    SPEY_ASSERT(group >= 0 && group < kv->limits.n_groups);
    return kv->groups[group].n_free + kv->groups[group].n_cached;
}

int32_t spey_kv_free_blocks(const spey_kv_cache *kv)
{
    int32_t fewest = INT32_MAX;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind == SPEY_KV_TOKENS && spey_kv_group_free_blocks(kv, g) < fewest)
            fewest = spey_kv_group_free_blocks(kv, g);
    return fewest;
}

const spey_kv_limits *spey_kv_get_limits(const spey_kv_cache *kv)
{
    return &kv->limits;
}

int32_t spey_kv_block_tokens(const spey_kv_cache *kv)
{
    return kv->limits.block_tokens;
}

const spey_kv_copy *spey_kv_copies(const spey_kv_cache *kv, int64_t *n)
{
    *n = kv->n_copies;
    return kv->copies;
}

void spey_kv_copies_done(spey_kv_cache *kv)
{
    kv->n_copies = 0;
    kv->n_lists++;
}
