/* What sequences begin with and what they leave behind: between kv_cache.c's tables and kv_tree.c's nodes. */
#include <string.h>

#include "runtime/kv_tree.h"

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* How far a key goes down the tree. */
typedef struct kv_walk {
    const spey_kv_key *key;
    int32_t node; /* the last one */
    uint64_t hash;
    int64_t depth;                       /* nodes from the root */
    int64_t runs[SPEY_CACHE_GROUPS_MAX]; /* the last so many of them have blocks in the group */
    int32_t part;                        /* one more that begins as the key goes on; KV_NONE */
    int32_t n_part;                      /* tokens of it */
    bool host;                           /* blocks in host memory count as well */
    bool no_windows;                     /* groups with a window do not take part */
} kv_walk;

static bool of_tokens(const spey_kv_cache *kv, int g)
{
    return kv->groups[g].kind == SPEY_KV_TOKENS;
}

/* ---- looking ---- */

/* Groups have the blocks that the token behind the first n_tokens sees, `part` of them in one more block. */
static bool is_there(const spey_kv_cache *kv, const kv_walk *walk, int64_t n_tokens)
{
    for (int g = 0; g < kv->limits.n_groups; g++) {
        int64_t first = spey_kv_books_first_seen(kv, kv->groups[g].window, n_tokens);
        if (of_tokens(kv, g) && walk->runs[g] < walk->depth - first) return false;
    }
    return true;
}

static bool has_block(const spey_kv_cache *kv, const kv_walk *walk, int g, int32_t node)
{
    const kv_group *group = &kv->groups[g];
    return group->blocks_of_nodes[node] != KV_NONE || (walk->host && kv_on_host(group, node));
}

/* A part is copied from the pools: what is in host memory is whole. */
static bool has_blocks(const spey_kv_cache *kv, int32_t node)
{
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (of_tokens(kv, g) && kv->groups[g].blocks_of_nodes[node] == KV_NONE) return false;
    return true;
}

/* One node down, if there is one. */
static bool step_down(const spey_kv_cache *kv, kv_walk *walk)
{
    int32_t n = kv->limits.block_tokens;
    const int32_t *ids = walk->key->ids + walk->depth * n;
    uint64_t hash = spey_kv_tree_hash(walk->hash, ids, n);
    int32_t node = spey_kv_tree_find(kv, walk->node, walk->key->salt, hash, ids);
    if (node == KV_NONE) return false;
    walk->node = node;
    walk->hash = hash;
    walk->depth++;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (of_tokens(kv, g)) walk->runs[g] = has_block(kv, walk, g, node) ? walk->runs[g] + 1 : 0;
    return true;
}

/* The longest beginning of the key that is there. A token is left to compute: its logits are wanted. */
static kv_walk look_up(const spey_kv_cache *kv, const spey_kv_key *key, bool host)
{
    int64_t block = kv->limits.block_tokens, most = key->n > 0 ? key->n - 1 : 0;
    kv_walk walk = { .key = key,
                     .node = KV_NONE,
                     .hash = spey_kv_tree_root(key->salt),
                     .part = KV_NONE,
                     .host = host };
    kv_walk best = walk;
    if (!kv->nodes_max) return best;
    while ((walk.depth + 1) * block <= most && step_down(kv, &walk))
        if (is_there(kv, &walk, walk.depth * block)) best = walk;
    walk.part = spey_kv_tree_find_part(kv, walk.node, key->salt, key->ids + walk.depth * block,
                                       most - walk.depth * block, &walk.n_part);
    if (walk.part != KV_NONE && has_blocks(kv, walk.part) &&
        is_there(kv, &walk, walk.depth * block + walk.n_part))
        best = walk;
    return best;
}

static int64_t length_of(const spey_kv_cache *kv, const kv_walk *walk)
{
    return walk->depth * kv->limits.block_tokens + walk->n_part;
}

int64_t spey_kv_match_length(const spey_kv_cache *kv, const spey_kv_key *key)
{
    SPEY_ASSERT(key->n >= 0);
    kv_walk walk = look_up(kv, key, true);
    return length_of(kv, &walk);
}

/* ---- beginning ---- */

/* Call `visit` for the nodes of a walk that a group needs, the lowest first. */
static void visit_nodes(spey_kv_cache *kv, const kv_walk *walk, int g,
                        void (*visit)(spey_kv_cache *kv, int g, int32_t node))
{
    if (walk->no_windows && kv->groups[g].window) return;
    int64_t first = spey_kv_books_first_seen(kv, kv->groups[g].window, length_of(kv, walk));
    int32_t node = walk->node;
    for (int64_t i = walk->depth - 1; i >= first; i--, node = kv->nodes[node].parent)
        visit(kv, g, node);
}

/* While blocks are taken nothing of the walk may be evicted. */
static void hold(spey_kv_cache *kv, int g, int32_t node)
{
    int32_t block = kv->groups[g].blocks_of_nodes[node];
    if (block != KV_NONE)
        spey_kv_books_share(kv, g, block);
    else
        spey_kv_host_pin(kv, g, node);
}

static void let_go(spey_kv_cache *kv, int g, int32_t node)
{
    int32_t block = kv->groups[g].blocks_of_nodes[node];
    if (block != KV_NONE)
        spey_kv_books_release(kv, g, block);
    else
        spey_kv_host_unpin(kv, g, node);
}

static void hold_walk(spey_kv_cache *kv, const kv_walk *walk,
                      void (*visit)(spey_kv_cache *kv, int g, int32_t node))
{
    for (int g = 0; g < kv->limits.n_groups; g++) {
        visit_nodes(kv, walk, g, visit);
        if (walk->part != KV_NONE) visit(kv, g, walk->part);
    }
}

static void restore(spey_kv_cache *kv, int g, int32_t node)
{
    if (kv->groups[g].blocks_of_nodes[node] != KV_NONE) return;
    spey_kv_host_restore(kv, g, node);
    spey_kv_books_share(kv, g, kv->groups[g].blocks_of_nodes[node]);
}

static int64_t count_on_host(const spey_kv_cache *kv, const kv_walk *walk, int g)
{
    int64_t first = spey_kv_books_first_seen(kv, kv->groups[g].window, length_of(kv, walk)), n = 0;
    int32_t node = walk->node;
    if (walk->no_windows && kv->groups[g].window) return 0;
    for (int64_t i = walk->depth - 1; i >= first; i--, node = kv->nodes[node].parent)
        n += kv->groups[g].blocks_of_nodes[node] == KV_NONE;
    return n;
}

/* Get what a walk needs back from host memory. False, and nothing was changed: there is no room. */
static bool restore_nodes(spey_kv_cache *kv, const kv_walk *walk)
{
    int64_t wanted = 0, copies = max64(kv->n_copies, kv->copies_max / 2) + kv->limits.n_groups;
    bool room = true;
    hold_walk(kv, walk, hold);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        int64_t n = count_on_host(kv, walk, g);
        room = room && n <= spey_kv_group_free_blocks(kv, g);
        wanted += n;
    }
    room = room && copies + wanted <= kv->copies_max;
    for (int g = 0; room && wanted && g < kv->limits.n_groups; g++)
        visit_nodes(kv, walk, g, restore);
    hold_walk(kv, walk, let_go);
    return room;
}

int64_t spey_kv_books_known(const spey_kv_cache *kv, const spey_kv_key *key, uint64_t *hash)
{
    const kv_walk walk = look_up(kv, key, true);
    *hash = walk.hash;
    return walk.depth;
}

bool spey_kv_books_restore(spey_kv_cache *kv, const spey_kv_key *key, int64_t n_blocks)
{
    kv_walk walk = { .key = key,
                     .node = KV_NONE,
                     .hash = spey_kv_tree_root(key->salt),
                     .part = KV_NONE,
                     .host = true,
                     .no_windows = true };
    while (walk.depth < n_blocks)
        if (!step_down(kv, &walk)) return false;
    return restore_nodes(kv, &walk);
}

static void attach_nodes(spey_kv_cache *kv, spey_seq_id seq, const kv_walk *walk)
{
    int64_t n_tokens = length_of(kv, walk);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        if (!of_tokens(kv, g)) continue;
        int64_t first = spey_kv_books_first_seen(kv, group->window, n_tokens);
        int32_t node = walk->node;
        for (int64_t i = walk->depth - 1; i >= first; i--, node = kv->nodes[node].parent) {
            int32_t block = group->blocks_of_nodes[node];
            kv_row(group, seq)[i] = block;
            spey_kv_books_share(kv, g, block);
            kv->n_shared++;
        }
        group->spans[seq] = (kv_span){ (int32_t)first, (int32_t)walk->depth };
    }
}

/* The first tokens of a node become the sequence's by a copy. False: no room. */
static bool copy_part(spey_kv_cache *kv, spey_seq_id seq, const kv_walk *walk)
{
    bool room = kv->n_copies + kv->limits.n_groups <= kv->copies_max;
    for (int g = 0; g < kv->limits.n_groups; g++)
        hold(kv, g, walk->part);
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (of_tokens(kv, g)) room = room && spey_kv_group_free_blocks(kv, g) > 0;
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        if (!of_tokens(kv, g)) continue;
        int32_t from = group->blocks_of_nodes[walk->part];
        if (room) {
            int32_t block = spey_kv_books_take(kv, g);
            spey_kv_books_copy(kv, &(spey_kv_copy){ SPEY_KV_COPY_DEVICE, g, from, block });
            kv_row(group, seq)[group->spans[seq].end++] = block;
        }
    }
    for (int g = 0; g < kv->limits.n_groups; g++)
        let_go(kv, g, walk->part);
    return room;
}

spey_status spey_kv_match(spey_kv_cache *kv, spey_seq_id seq, const spey_kv_key *key,
                          int64_t *n_reused)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    SPEY_ASSERT(key->n >= 0);
    *n_reused = 0;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->groups[g].kind != SPEY_KV_CROSS && kv->groups[g].spans[seq].end > 0)
            return SPEY_FAIL(SPEY_INVALID, "sequence %d has blocks already", seq);
    if (!kv->nodes_max) return SPEY_OK;
    kv_walk walk = look_up(kv, key, true);
    spey_kv_books_attach(kv, seq, key->salt, walk.node); /* first of all: it stays */
    if (!restore_nodes(kv, &walk)) {
        walk = look_up(kv, key, false);
        spey_kv_books_attach(kv, seq, key->salt, walk.node);
    }
    attach_nodes(kv, seq, &walk);
    if (walk.part != KV_NONE && !copy_part(kv, seq, &walk)) {
        /* Windows may reach further back without the part. */
        spey_kv_books_give_back(kv, seq);
        walk.n_part = 0;
        if (!is_there(kv, &walk, length_of(kv, &walk))) {
            walk = (kv_walk){ .node = KV_NONE };
            spey_kv_books_attach(kv, seq, key->salt, walk.node);
        }
        attach_nodes(kv, seq, &walk);
    }
    s->length = length_of(kv, &walk);
    memcpy(kv_tail(kv, seq), key->ids + walk.depth * kv->limits.block_tokens,
           (size_t)walk.n_part * sizeof(*key->ids));
    *n_reused = s->length;
    kv->n_reused += walk.depth;
    kv->n_reused_tokens += s->length;
    kv->n_missed += spey_kv_books_blocks(&kv->limits, key->n) - walk.depth;
    return SPEY_OK;
}

/* ---- cursors ---- */

void spey_kv_books_detach(spey_kv_cache *kv, spey_seq_id seq)
{
    kv_sequence *s = &kv->sequences[seq];
    int32_t node = s->cursor;
    if (!s->attached) return;
    s->attached = false;
    s->cursor = KV_NONE;
    if (node == KV_NONE) return;
    kv->nodes[node].n_cursors--;
    spey_kv_tree_prune(kv, node);
}

void spey_kv_books_attach(spey_kv_cache *kv, spey_seq_id seq, uint64_t salt, int32_t node)
{
    kv_sequence *s = &kv->sequences[seq];
    if (node != KV_NONE) kv->nodes[node].n_cursors++; /* first: it may hang on the old one */
    spey_kv_books_detach(kv, seq);
    s->attached = true;
    s->salt = salt;
    s->cursor = node;
}

static void move_cursor(spey_kv_cache *kv, spey_seq_id seq, int32_t node)
{
    spey_kv_books_attach(kv, seq, kv->sequences[seq].salt, node);
}

void spey_kv_books_go_back(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    const kv_sequence *s = &kv->sequences[seq];
    int64_t block = kv->limits.block_tokens, depth = s->length / block;
    int32_t node = s->cursor, last = KV_NONE;
    if (!s->attached) return;
    for (; depth > n_tokens / block; depth--) {
        last = node;
        node = kv->nodes[node].parent;
    }
    if (last != KV_NONE)
        memcpy(kv_tail(kv, seq), kv_node_ids(kv, last),
               (size_t)(n_tokens % block) * sizeof(int32_t));
    move_cursor(kv, seq, node);
}

void spey_kv_set_retention(spey_kv_cache *kv, spey_seq_id seq, int priority, uint64_t until_ns)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    SPEY_ASSERT(priority >= 0 && priority < KV_PRIORITIES);
    s->priority = (uint8_t)priority;
    s->until_ns = until_ns;
    s->n_ranges = 0;
    for (int32_t node = s->cursor; node != KV_NONE; node = kv->nodes[node].parent)
        spey_kv_tree_retain(kv, node, s->priority, until_ns);
}

/* How block i of a sequence is kept. */
typedef struct retention {
    uint8_t priority;
    uint64_t until_ns;
} retention;

static retention retention_of(const spey_kv_cache *kv, const kv_sequence *s, int64_t i)
{
    int64_t token = i * kv->limits.block_tokens;
    for (int r = 0; r < s->n_ranges; r++) {
        const spey_kv_retention *range = &s->ranges[r];
        if (token < range->begin || token >= range->end) continue;
        uint64_t until_ns = range->duration_ns ? kv->now_ns + range->duration_ns : 0;
        return (retention){ (uint8_t)range->priority, until_ns };
    }
    return (retention){ s->priority, s->until_ns };
}

static void retain(spey_kv_cache *kv, const kv_sequence *s, int64_t i, int32_t node)
{
    retention kept = retention_of(kv, s, i);
    spey_kv_tree_retain(kv, node, kept.priority, kept.until_ns);
}

void spey_kv_set_retention_ranges(spey_kv_cache *kv, spey_seq_id seq,
                                  const spey_kv_retention *ranges, int n)
{
    kv_sequence *s = spey_kv_books_sequence(kv, seq);
    for (int r = 0; r < n; r++)
        SPEY_ASSERT(ranges[r].priority >= 0 && ranges[r].priority < KV_PRIORITIES);
    s->ranges = ranges;
    s->n_ranges = n;
    int64_t i = s->length / kv->limits.block_tokens;
    for (int32_t node = s->cursor; node != KV_NONE; node = kv->nodes[node].parent)
        retain(kv, s, --i, node);
}

/* ---- leaving behind ---- */

/* Block i of a sequence goes into a node, or is exchanged for the one that is there: they hold the same. */
static void give_to_node(spey_kv_cache *kv, spey_seq_id seq, int64_t i, int32_t node)
{
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        if (!of_tokens(kv, g)) continue;
        SPEY_ASSERT(i >= group->spans[seq].first && i < group->spans[seq].end);
        int32_t *entry = &kv_row(group, seq)[i], of_node = group->blocks_of_nodes[node];
        if (of_node == KV_NONE) {
            spey_kv_tree_adopt(kv, node, g, *entry);
        } else if (of_node != *entry) {
            spey_kv_books_share(kv, g, of_node);
            spey_kv_books_release(kv, g, *entry);
            *entry = of_node;
        }
    }
}

/* For block i, whose ids are the tail. */
static int32_t add_node(spey_kv_cache *kv, spey_seq_id seq, int64_t i, uint64_t hash, int32_t n_ids)
{
    const kv_sequence *s = &kv->sequences[seq];
    retention kept = retention_of(kv, s, i);
    const struct kv_node like = { .priority = kept.priority,
                                  .until_ns = kept.until_ns,
                                  .n_ids = n_ids,
                                  .parent = s->cursor,
                                  .salt = s->salt,
                                  .hash = hash };
    return spey_kv_tree_add(kv, &like, kv_tail(kv, seq));
}

static uint64_t hash_of_tail(const spey_kv_cache *kv, spey_seq_id seq, int32_t n_ids)
{
    const kv_sequence *s = &kv->sequences[seq];
    uint64_t above = s->cursor == KV_NONE ? spey_kv_tree_root(s->salt) : kv->nodes[s->cursor].hash;
    return spey_kv_tree_hash(above, kv_tail(kv, seq), n_ids);
}

/* Block i has become full; its ids are the tail. */
static void store_block(spey_kv_cache *kv, spey_seq_id seq, int64_t i)
{
    const kv_sequence *s = &kv->sequences[seq];
    uint64_t hash = hash_of_tail(kv, seq, kv->limits.block_tokens);
    int32_t node = spey_kv_tree_find(kv, s->cursor, s->salt, hash, kv_tail(kv, seq));
    if (node == KV_NONE)
        node = add_node(kv, seq, i, hash, kv->limits.block_tokens);
    else
        retain(kv, s, i, node);
    if (node == KV_NONE) {
        spey_kv_books_detach(kv, seq); /* no node is free: what comes behind cannot be found */
        return;
    }
    give_to_node(kv, seq, i, node);
    move_cursor(kv, seq, node);
}

void spey_kv_books_store(spey_kv_cache *kv, spey_seq_id seq, const int32_t *ids, int64_t n)
{
    const kv_sequence *s = &kv->sequences[seq];
    int64_t block = kv->limits.block_tokens, at = s->length;
    if (!ids && n) spey_kv_books_detach(kv, seq);
    while (n > 0 && s->attached) {
        int64_t room = block - at % block, more = n < room ? n : room;
        memcpy(kv_tail(kv, seq) + at % block, ids, (size_t)more * sizeof(*ids));
        at += more;
        ids += more;
        n -= more;
        if (at % block == 0) store_block(kv, seq, at / block - 1);
    }
}

void spey_kv_books_store_part(spey_kv_cache *kv, spey_seq_id seq)
{
    const kv_sequence *s = &kv->sequences[seq];
    int32_t n = (int32_t)(s->length % kv->limits.block_tokens), common;
    if (!s->attached || !n) return;
    int64_t i = s->length / kv->limits.block_tokens;
    spey_kv_tree_find_part(kv, s->cursor, s->salt, kv_tail(kv, seq), n, &common);
    if (common == n) return;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (of_tokens(kv, g) &&
            kv->groups[g].nodes_of_blocks[kv_row(&kv->groups[g], seq)[i]] != KV_NONE)
            return; /* a block of a node that the sequence went back into */
    int32_t node = add_node(kv, seq, i, hash_of_tail(kv, seq, n), n);
    if (node != KV_NONE) give_to_node(kv, seq, i, node);
}
