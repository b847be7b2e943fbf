/* Every invariant of the KV cache's books, counted anew. */
#include <string.h>

#include "runtime/kv_tree.h"

static spey_status mark(const kv_group *group, int g, int32_t block)
{
    if (block < 0 || block >= group->n_blocks)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d has no block %d", g, block);
    group->marks[block]++;
    return SPEY_OK;
}

/* A row: as many blocks as the tokens need, those that are shared hold some. */
static spey_status check_span(const spey_kv_cache *kv, int g, spey_seq_id seq)
{
    const kv_group *group = &kv->groups[g];
    const kv_sequence *s = &kv->sequences[seq];
    const kv_span span = group->spans[seq];
    bool cross = group->kind == SPEY_KV_CROSS;
    int64_t tokens = cross ? s->cross_length : s->length;
    int64_t least = spey_kv_blocks_for(kv, g, tokens), seen = 0;
    if (group->window && tokens >= group->window)
        seen = (tokens - group->window + 1) / kv->limits.block_tokens;
    bool sound = span.first >= 0 && span.first <= seen && span.end >= least &&
                 span.first <= span.end && span.end <= group->blocks_max;
    if (!s->open) sound = span.first == 0 && span.end == 0 && s->length == 0;
    if (!sound)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d: sequence %d has %lld tokens in blocks [%d, %d)",
                         g, seq, (long long)tokens, span.first, span.end);
    for (int64_t i = span.first; i < span.end; i++) {
        int32_t block = kv_row(group, seq)[i];
        SPEY_TRY(mark(group, g, block));
        if (group->refs[block] > 1 && i >= least)
            return SPEY_FAIL(SPEY_INTERNAL, "group %d: block %d is shared and has no tokens", g,
                             block);
    }
    return SPEY_OK;
}

/* Blocks that nodes have, and the lists of those that no sequence has. */
static spey_status check_cached(const spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    int32_t cached = 0, listed = 0;
    for (int32_t node = 0; node < kv->nodes_max; node++) {
        int32_t block = group->blocks_of_nodes[node];
        if (block == KV_NONE) continue;
        SPEY_TRY(mark(group, g, block));
        cached += group->refs[block] == 1;
        if (!kv->nodes[node].used || group->nodes_of_blocks[block] != node)
            return SPEY_FAIL(SPEY_INTERNAL, "group %d: node %d has block %d, which has node %d", g,
                             node, block, group->nodes_of_blocks[block]);
    }
    for (int p = 0; p < KV_PRIORITIES; p++) {
        const struct kv_list *list = &group->lists[p];
        int32_t previous = KV_NONE;
        for (int32_t node = list->first; node != KV_NONE; node = group->links[node].next) {
            if (kv->nodes[node].priority != p || group->links[node].previous != previous ||
                group->refs[group->blocks_of_nodes[node]] != 1 || ++listed > cached)
                return SPEY_FAIL(SPEY_INTERNAL, "group %d: node %d is in list %d", g, node, p);
            previous = node;
        }
        bool filled = group->lists_filled[p / 64] >> (p % 64) & 1;
        if (list->last != previous || filled != (previous != KV_NONE))
            return SPEY_FAIL(SPEY_INTERNAL, "group %d: list %d does not end", g, p);
    }
    if (listed != cached || cached != group->n_cached)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d: %d blocks are cached, %d listed, %d counted", g,
                         cached, listed, group->n_cached);
    return SPEY_OK;
}

/* Blocks in host memory: each is free or has one node, which is in the list and has no block of the pool. */
static spey_status check_host(const spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    int32_t n_used = 0, n_held = 0, listed = 0, previous = KV_NONE;
    if (!group->n_host || !group->blocks_of_nodes) return SPEY_OK;
    for (int32_t node = 0; node < kv->nodes_max; node++) {
        if (!kv_on_host(group, node)) continue;
        int32_t block = group->host_of_nodes[node];
        n_used++;
        bool is_free = group->host_uses[block] == KV_HOST_HELD;
        for (int32_t i = 0; i < group->n_host_free; i++)
            is_free = is_free || group->host_free[i] == block;
        for (int32_t other = 0; other < node; other++)
            is_free = is_free || group->host_of_nodes[other] == block;
        if (is_free || !kv->nodes[node].used || group->blocks_of_nodes[node] != KV_NONE)
            return SPEY_FAIL(SPEY_INTERNAL, "group %d: node %d has block %d in host memory", g,
                             node, block);
    }
    for (int32_t node = group->host_list->first; node != KV_NONE && listed <= n_used;
         previous = node, node = group->host_links[node].next)
        listed += kv_on_host(group, node) && group->host_links[node].previous == previous;
    for (int32_t b = 0; b < group->n_host; b++)
        n_held += group->host_uses[b] == KV_HOST_HELD;
    if (n_used + n_held + group->n_host_free != group->n_host || listed != n_used)
        return SPEY_FAIL(SPEY_INTERNAL,
                         "group %d: of %d blocks in host memory %d are used, %d free, "
                         "%d listed",
                         g, group->n_host, n_used, group->n_host_free, listed);
    return SPEY_OK;
}

static spey_status check_group(const spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    memset(group->marks, 0, (size_t)group->n_blocks * sizeof(*group->marks));
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++)
        SPEY_TRY(check_span(kv, g, seq));
    if (group->blocks_of_nodes) SPEY_TRY(check_cached(kv, g));
    SPEY_TRY(check_host(kv, g));
    int32_t n_free = 0;
    for (int32_t b = 0; b < group->n_blocks; b++) {
        n_free += group->refs[b] == 0;
        if (group->marks[b] != group->refs[b])
            return SPEY_FAIL(SPEY_INTERNAL,
                             "group %d: block %d is there %d times, has %d references", g, b,
                             group->marks[b], group->refs[b]);
    }
    for (int32_t i = 0; i < group->n_free; i++) {
        SPEY_TRY(mark(group, g, group->free_blocks[i]));
        if (group->marks[group->free_blocks[i]] != 1)
            return SPEY_FAIL(SPEY_INTERNAL, "group %d: block %d is free and in use, or free twice",
                             g, group->free_blocks[i]);
    }
    if (n_free != group->n_free)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d: %d blocks are free, %d in the list", g, n_free,
                         group->n_free);
    return SPEY_OK;
}

static spey_status check_slots(const spey_kv_cache *kv)
{
    int32_t n_closed = 0;
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++)
        n_closed += !kv->sequences[seq].open;
    for (int32_t i = 0; i < kv->n_free_slots; i++)
        if (kv->sequences[kv->free_slots[i]].open)
            return SPEY_FAIL(SPEY_INTERNAL, "slot %d is open and free", kv->free_slots[i]);
    if (n_closed != kv->n_free_slots)
        return SPEY_FAIL(SPEY_INTERNAL, "%d slots are closed, %d free", n_closed, kv->n_free_slots);
    return SPEY_OK;
}

/* A node: where it hangs, how it is found, and that those above have what it has. */
static spey_status check_node(const spey_kv_cache *kv, int32_t i)
{
    const struct kv_node *node = &kv->nodes[i], *parent = NULL;
    const int32_t *ids = kv_node_ids(kv, i);
    uint64_t above = spey_kv_tree_root(node->salt);
    if (node->parent != KV_NONE) {
        parent = &kv->nodes[node->parent];
        above = parent->hash;
    }
    int32_t child = parent ? parent->first_child : kv->first_root, n = 0;
    while (child != KV_NONE && child != i && n++ < kv->nodes_max)
        child = kv->nodes[child].next_sibling;
    bool whole = node->n_ids == kv->limits.block_tokens;
    bool sound =
        child == i && node->n_ids > 0 && node->n_ids <= kv->limits.block_tokens &&
        node->hash == spey_kv_tree_hash(above, ids, node->n_ids) &&
        (whole || (node->first_child == KV_NONE && !node->n_cursors)) &&
        (!whole || spey_kv_tree_find(kv, node->parent, node->salt, node->hash, ids) == i) &&
        (!parent || (parent->used && parent->salt == node->salt &&
                     parent->n_ids == kv->limits.block_tokens)) &&
        (node->heap_at == KV_NONE || kv->heap[node->heap_at] == i) &&
        (node->heap_at != KV_NONE) == (node->until_ns != 0);
    bool holds = node->n_cursors || node->first_child != KV_NONE;
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        int32_t block = group->blocks_of_nodes[i];
        holds = holds || block != KV_NONE || kv_on_host(group, i);
        if (!group->window && block == KV_NONE && !kv_on_host(group, i)) sound = false;
        if (!group->window && block != KV_NONE && parent) {
            int32_t above_it = group->blocks_of_nodes[node->parent];
            sound = sound && above_it != KV_NONE && group->refs[block] <= group->refs[above_it];
        }
    }
    int32_t n_on_device = 0;
    for (child = node->first_child; child != KV_NONE && kv->leader != KV_NONE;
         child = kv->nodes[child].next_sibling)
        n_on_device += kv->groups[kv->leader].blocks_of_nodes[child] != KV_NONE;
    sound = sound && n_on_device == node->n_on_device;
    if (sound && holds) return SPEY_OK;
    return SPEY_FAIL(SPEY_INTERNAL, "node %d below %d is not sound", i, node->parent);
}

/* A sequence's nodes have its blocks. */
static spey_status check_path(const spey_kv_cache *kv, spey_seq_id seq)
{
    const kv_sequence *s = &kv->sequences[seq];
    int64_t i = s->length / kv->limits.block_tokens;
    if (!s->open || !s->attached) return SPEY_OK;
    for (int32_t node = s->cursor; node != KV_NONE; node = kv->nodes[node].parent) {
        i--;
        for (int g = 0; i >= 0 && g < kv->limits.n_groups; g++) {
            const kv_group *group = &kv->groups[g];
            if (!group->window && kv_row(group, seq)[i] != group->blocks_of_nodes[node]) i = -1;
        }
        if (i < 0 || !kv->nodes[node].used || kv->nodes[node].salt != s->salt)
            return SPEY_FAIL(SPEY_INTERNAL, "sequence %d has other blocks than node %d", seq, node);
    }
    if (i != 0)
        return SPEY_FAIL(SPEY_INTERNAL, "sequence %d: %lld full blocks have no nodes", seq,
                         (long long)i);
    return SPEY_OK;
}

static spey_status check_tree(const spey_kv_cache *kv)
{
    int64_t n_unused = 0, n_cursors = 0;
    for (int32_t i = 0; i < kv->nodes_max; i++) {
        if (kv->nodes[i].used) SPEY_TRY(check_node(kv, i));
        n_unused += !kv->nodes[i].used;
        n_cursors += kv->nodes[i].n_cursors;
    }
    for (int32_t i = kv->first_free_node; i != KV_NONE; i = kv->nodes[i].next_in_bucket)
        if (kv->nodes[i].used || --n_unused < 0)
            return SPEY_FAIL(SPEY_INTERNAL, "node %d is used and free, or free twice", i);
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++) {
        SPEY_TRY(check_path(kv, seq));
        n_cursors -= kv->sequences[seq].attached && kv->sequences[seq].cursor != KV_NONE;
    }
    if (n_unused || n_cursors)
        return SPEY_FAIL(SPEY_INTERNAL, "%lld nodes are not free, %lld cursors nobody's",
                         (long long)n_unused, (long long)n_cursors);
    return SPEY_OK;
}

spey_status spey_kv_check(const spey_kv_cache *kv)
{
    SPEY_TRY(check_slots(kv));
    for (int g = 0; g < kv->limits.n_groups; g++)
        SPEY_TRY(check_group(kv, g));
    return kv->nodes_max ? check_tree(kv) : SPEY_OK;
}
