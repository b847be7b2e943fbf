#include "runtime/kv_tree.h"

#include <string.h>

#include "base/hash.h"

/* Of the nodes below one, how many are looked at for a common beginning: those that were added last. */
enum { PARTS_LOOKED_AT = 64 };

/* ---- hashes ---- */

uint64_t spey_kv_tree_root(uint64_t salt)
{
    return spey_xxh3(&salt, sizeof(salt));
}

uint64_t spey_kv_tree_hash(uint64_t parent_hash, const int32_t *ids, int32_t n)
{
    const uint64_t both[] = { parent_hash, spey_xxh3(ids, (size_t)n * sizeof(*ids)) };
    return spey_xxh3(both, sizeof(both));
}

static int32_t *bucket(const spey_kv_cache *kv, uint64_t hash)
{
    return &kv->buckets[hash & (uint64_t)(kv->n_buckets - 1)];
}

int32_t spey_kv_tree_find(const spey_kv_cache *kv, int32_t parent, uint64_t salt, uint64_t hash,
                          const int32_t *ids)
{
    size_t bytes = (size_t)kv->limits.block_tokens * sizeof(*ids);
    int32_t i = *bucket(kv, hash);
    for (; i != KV_NONE; i = kv->nodes[i].next_in_bucket) {
        const struct kv_node *node = &kv->nodes[i];
        if (node->hash == hash && node->parent == parent && node->salt == salt &&
            memcmp(kv_node_ids(kv, i), ids, bytes) == 0)
            break;
    }
    return i;
}

int32_t spey_kv_tree_find_part(const spey_kv_cache *kv, int32_t parent, uint64_t salt,
                               const int32_t *ids, int64_t n, int32_t *common)
{
    int32_t best = KV_NONE, looked_at = 0;
    int32_t i = parent == KV_NONE ? kv->first_root : kv->nodes[parent].first_child;
    *common = 0;
    for (; i != KV_NONE && looked_at++ < PARTS_LOOKED_AT; i = kv->nodes[i].next_sibling) {
        const int32_t *of_node = kv_node_ids(kv, i);
        int32_t same = 0, most = kv->nodes[i].n_ids;
        if (kv->nodes[i].salt != salt) continue;
        while (same < most && same < n && of_node[same] == ids[same])
            same++;
        if (same <= *common) continue;
        *common = same;
        best = i;
    }
    return best;
}

/* ---- lists of cached nodes ---- */

static void mark_list(kv_group *group, int priority, bool filled)
{
    uint64_t bit = (uint64_t)1 << (priority % 64);
    if (filled)
        group->lists_filled[priority / 64] |= bit;
    else
        group->lists_filled[priority / 64] &= ~bit;
}

void spey_kv_list_append(struct kv_list *list, struct kv_link *links, int32_t node)
{
    links[node] = (struct kv_link){ KV_NONE, list->last };
    if (list->last == KV_NONE)
        list->first = node;
    else
        links[list->last].next = node;
    list->last = node;
}

void spey_kv_list_remove(struct kv_list *list, struct kv_link *links, int32_t node)
{
    const struct kv_link link = links[node];
    if (link.previous == KV_NONE)
        list->first = link.next;
    else
        links[link.previous].next = link.next;
    if (link.next == KV_NONE)
        list->last = link.previous;
    else
        links[link.next].previous = link.previous;
}

void spey_kv_tree_cache(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    int priority = kv->nodes[node].priority;
    spey_kv_list_append(&group->lists[priority], group->links, node);
    mark_list(group, priority, true);
    group->n_cached++;
}

void spey_kv_tree_uncache(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    int priority = kv->nodes[node].priority;
    struct kv_list *list = &group->lists[priority];
    spey_kv_list_remove(list, group->links, node);
    mark_list(group, priority, list->first != KV_NONE);
    group->n_cached--;
}

static bool is_cached(const kv_group *group, int32_t node)
{
    int32_t block = group->blocks_of_nodes[node];
    return block != KV_NONE && group->refs[block] == 1;
}

/* ---- retention: nodes whose priority ends, in a heap, the first to end on top ---- */

static bool ends_before(const spey_kv_cache *kv, int32_t a, int32_t b)
{
    return kv->nodes[a].until_ns < kv->nodes[b].until_ns;
}

static void heap_put(spey_kv_cache *kv, int32_t at, int32_t node)
{
    kv->heap[at] = node;
    kv->nodes[node].heap_at = at;
}

static void heap_sift(spey_kv_cache *kv, int32_t at, int32_t node)
{
    for (int32_t up = (at - 1) / 2; at > 0 && ends_before(kv, node, kv->heap[up]);
         at = up, up = (at - 1) / 2)
        heap_put(kv, at, kv->heap[up]);
    for (int32_t down = 2 * at + 1; down < kv->n_heap; at = down, down = 2 * at + 1) {
        if (down + 1 < kv->n_heap && ends_before(kv, kv->heap[down + 1], kv->heap[down])) down++;
        if (!ends_before(kv, kv->heap[down], node)) break;
        heap_put(kv, at, kv->heap[down]);
    }
    heap_put(kv, at, node);
}

static void heap_remove(spey_kv_cache *kv, int32_t node)
{
    int32_t at = kv->nodes[node].heap_at;
    if (at == KV_NONE) return;
    kv->nodes[node].heap_at = KV_NONE;
    int32_t last = kv->heap[--kv->n_heap];
    if (last != node) heap_sift(kv, at, last);
}

static void set_priority(spey_kv_cache *kv, int32_t node, uint8_t priority, uint64_t until_ns)
{
    struct kv_node *n = &kv->nodes[node];
    heap_remove(kv, node);
    for (int g = 0; priority != n->priority && g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind == SPEY_KV_TOKENS && is_cached(&kv->groups[g], node)) {
            uint8_t before = n->priority;
            spey_kv_tree_uncache(kv, g, node);
            n->priority = priority;
            spey_kv_tree_cache(kv, g, node);
            n->priority = before;
        }
    n->priority = priority;
    n->until_ns = until_ns;
    if (until_ns) heap_sift(kv, kv->n_heap++, node);
}

void spey_kv_tree_retain(spey_kv_cache *kv, int32_t node, uint8_t priority, uint64_t until_ns)
{
    const struct kv_node *n = &kv->nodes[node];
    bool longer = n->until_ns && (!until_ns || until_ns > n->until_ns);
    if (priority > n->priority || (priority == n->priority && longer))
        set_priority(kv, node, priority, until_ns);
}

void spey_kv_set_time(spey_kv_cache *kv, uint64_t now_ns)
{
    kv->now_ns = now_ns;
    while (kv->n_heap && kv->nodes[kv->heap[0]].until_ns <= now_ns)
        set_priority(kv, kv->heap[0], KV_PRIORITY_DEFAULT, 0);
}

/* ---- nodes ---- */

static void link_child(spey_kv_cache *kv, int32_t node)
{
    struct kv_node *n = &kv->nodes[node];
    int32_t *first = n->parent == KV_NONE ? &kv->first_root : &kv->nodes[n->parent].first_child;
    n->next_sibling = *first;
    n->previous_sibling = KV_NONE;
    if (*first != KV_NONE) kv->nodes[*first].previous_sibling = node;
    *first = node;
}

static void unlink_child(spey_kv_cache *kv, int32_t node)
{
    const struct kv_node *n = &kv->nodes[node];
    int32_t *first = n->parent == KV_NONE ? &kv->first_root : &kv->nodes[n->parent].first_child;
    if (n->previous_sibling == KV_NONE)
        *first = n->next_sibling;
    else
        kv->nodes[n->previous_sibling].next_sibling = n->next_sibling;
    if (n->next_sibling != KV_NONE)
        kv->nodes[n->next_sibling].previous_sibling = n->previous_sibling;
}

int32_t spey_kv_tree_add(spey_kv_cache *kv, const struct kv_node *like, const int32_t *ids)
{
    int32_t node = kv->first_free_node;
    if (node == KV_NONE) return KV_NONE;
    struct kv_node *n = &kv->nodes[node];
    kv->first_free_node = n->next_in_bucket;
    *n = *like;
    n->used = true;
    n->first_child = n->next_in_bucket = n->heap_at = KV_NONE;
    memcpy(kv_node_ids(kv, node), ids, (size_t)n->n_ids * sizeof(*ids));
    link_child(kv, node);
    if (n->until_ns) heap_sift(kv, kv->n_heap++, node);
    if (n->n_ids < kv->limits.block_tokens) return node;
    n->next_in_bucket = *bucket(kv, n->hash);
    *bucket(kv, n->hash) = node;
    spey_kv_report(kv, SPEY_KV_EVENT_STORED, SPEY_KV_TIER_DEVICE, node);
    return node;
}

static void leave_bucket(spey_kv_cache *kv, int32_t node)
{
    int32_t *link = bucket(kv, kv->nodes[node].hash);
    while (*link != node)
        link = &kv->nodes[*link].next_in_bucket;
    *link = kv->nodes[node].next_in_bucket;
}

/* Does the leading group have a block of its pool for a node? The one above counts it. */
static void count_on_device(spey_kv_cache *kv, int g, int32_t node, int by)
{
    int32_t parent = kv->nodes[node].parent;
    if (g == kv->leader && parent != KV_NONE) kv->nodes[parent].n_on_device += by;
}

void spey_kv_tree_disown(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    int32_t block = group->blocks_of_nodes[node];
    if (block == KV_NONE) return;
    if (is_cached(group, node)) spey_kv_tree_uncache(kv, g, node);
    group->blocks_of_nodes[node] = KV_NONE;
    group->nodes_of_blocks[block] = KV_NONE;
    count_on_device(kv, g, node, -1);
    spey_kv_books_release(kv, g, block);
}

void spey_kv_tree_remove(spey_kv_cache *kv, int32_t node)
{
    struct kv_node *n = &kv->nodes[node];
    SPEY_ASSERT(n->first_child == KV_NONE);
    SPEY_ASSERT(n->n_cursors == 0);
    bool whole = n->n_ids == kv->limits.block_tokens, on_host = false;
    for (int g = 0; g < kv->limits.n_groups; g++) {
        on_host = on_host || kv_on_host(&kv->groups[g], node);
        spey_kv_tree_disown(kv, g, node);
        spey_kv_host_drop(kv, g, node);
    }
    if (whole)
        spey_kv_report(kv, SPEY_KV_EVENT_REMOVED, on_host ? SPEY_KV_TIER_HOST : SPEY_KV_TIER_DEVICE,
                       node);
    if (n->unwritten) spey_kv_file_forget(kv, node);
    heap_remove(kv, node);
    unlink_child(kv, node);
    if (whole) leave_bucket(kv, node);
    *n = (struct kv_node){ .next_in_bucket = kv->first_free_node };
    kv->first_free_node = node;
}

void spey_kv_tree_remove_all(spey_kv_cache *kv, int32_t node)
{
    int32_t leaf;
    do {
        leaf = node;
        while (kv->nodes[leaf].first_child != KV_NONE)
            leaf = kv->nodes[leaf].first_child;
        spey_kv_tree_remove(kv, leaf);
    } while (leaf != node);
}

void spey_kv_tree_set_block(spey_kv_cache *kv, int32_t node, int g, int32_t block)
{
    kv_group *group = &kv->groups[g];
    SPEY_ASSERT(group->blocks_of_nodes[node] == KV_NONE);
    SPEY_ASSERT(group->nodes_of_blocks[block] == KV_NONE);
    group->blocks_of_nodes[node] = block;
    group->nodes_of_blocks[block] = node;
    count_on_device(kv, g, node, 1);
}

void spey_kv_tree_adopt(spey_kv_cache *kv, int32_t node, int g, int32_t block)
{
    bool back = g == kv->leader && kv_on_host(&kv->groups[g], node);
    spey_kv_tree_set_block(kv, node, g, block);
    kv->groups[g].refs[block]++;
    spey_kv_host_drop(kv, g, node);
    if (back) spey_kv_report(kv, SPEY_KV_EVENT_UPDATED, SPEY_KV_TIER_DEVICE, node);
}

/* ---- eviction ---- */

/* The node of the lowest priority that was used least recently. */
static int32_t victim(const kv_group *group)
{
    int word = group->lists_filled[0] ? 0 : 1;
    SPEY_ASSERT(group->lists_filled[word]);
    return group->lists[word * 64 + __builtin_ctzll(group->lists_filled[word])].first;
}

void spey_kv_tree_prune(spey_kv_cache *kv, int32_t node)
{
    while (node != KV_NONE) {
        int32_t parent = kv->nodes[node].parent;
        if (kv->nodes[node].n_cursors || kv->nodes[node].first_child != KV_NONE) return;
        for (int g = 0; g < kv->limits.n_groups; g++)
            if (kv->groups[g].blocks_of_nodes[node] != KV_NONE || kv_on_host(&kv->groups[g], node))
                return;
        spey_kv_tree_remove(kv, node);
        node = parent;
    }
}

/* A node at or below this one, below which all are in host memory. */
static int32_t lowest_on_device(const spey_kv_cache *kv, int32_t node)
{
    const int32_t *blocks = kv->groups[kv->leader].blocks_of_nodes;
    while (kv->nodes[node].n_on_device) {
        node = kv->nodes[node].first_child;
        while (blocks[node] == KV_NONE)
            node = kv->nodes[node].next_sibling;
    }
    return node;
}

/* All of a node's blocks leave the pools. Without those of groups without a window it is nothing. */
static void evict_node(spey_kv_cache *kv, int32_t node)
{
    bool kept = kv->nodes[node].n_ids == kv->limits.block_tokens;
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        if (group->blocks_of_nodes[node] == KV_NONE) continue;
        bool moved = kept && spey_kv_host_offload(kv, g, node);
        kept = kept && (moved || group->window);
        if (!moved) spey_kv_tree_disown(kv, g, node);
    }
    if (!kept) {
        spey_kv_tree_remove_all(kv, node);
        return;
    }
    spey_kv_report(kv, SPEY_KV_EVENT_UPDATED, SPEY_KV_TIER_HOST, node);
    spey_kv_file_note(kv, node);
}

void spey_kv_tree_evict(spey_kv_cache *kv, int g)
{
    int32_t node = victim(&kv->groups[g]);
    if (!kv->groups[g].window) {
        /* Only by different priorities can a node go before those below it. */
        evict_node(kv, lowest_on_device(kv, node));
        return;
    }
    bool whole = kv->nodes[node].n_ids == kv->limits.block_tokens;
    if (whole && spey_kv_host_offload(kv, g, node)) {
        spey_kv_file_note(kv, node);
        return;
    }
    spey_kv_tree_disown(kv, g, node);
    spey_kv_tree_prune(kv, node);
}

void spey_kv_flush(spey_kv_cache *kv)
{
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++)
        spey_kv_books_detach(kv, seq);
    /* Leaves first: whatever is above a node is reached by going up. */
    for (int32_t i = 0; i < kv->nodes_max; i++)
        for (int32_t node = i;
             node != KV_NONE && kv->nodes[node].used && kv->nodes[node].first_child == KV_NONE;) {
            int32_t parent = kv->nodes[node].parent;
            spey_kv_tree_remove(kv, node);
            node = parent;
        }
    spey_kv_file_clear(kv);
}
