/* The radix tree over the blocks that the KV cache keeps for sequences to come.
 *
 *   salt 0   [a b c d] ── [e f g h] ── [i j]           a node is block_tokens ids, in a leaf fewer, and in every
 *                     └── [x f g h] ── [k l m n]       TOKENS group the block that holds them, or none
 *
 * A node is found by the hash of its salt and of all ids from the root to its last, and believed when parent and ids are the
 * same. Its blocks have a reference each from the tree; those that no sequence has are cached: they lie in the group's
 * lists, one for each priority, least recently used first, and are what is evicted when a pool has no free block.
 *
 *   In a group without a window whoever has a node's block has those of all nodes above: leaves go first, with the blocks of
 *   all groups. In a group with one, blocks go one by one; a beginning is there when the blocks that its next token sees are.
 *
 * With host memory, what is evicted moves there, and back when it is matched. In a group without a window the nodes that
 * have a block of the pool are closed upwards; those in host memory hang below them.
 *
 * A node that has a cursor is the last whole block of a sequence, and stays. Internal to kv_*.c. */
#ifndef SPEY_RUNTIME_KV_TREE_H
#define SPEY_RUNTIME_KV_TREE_H

#include "runtime/kv_books.h"

enum { KV_NONE = -1, KV_PRIORITY_DEFAULT = 35, KV_PRIORITIES = 101 };

struct kv_node {
    bool used;
    bool unwritten; /* in the file tier's list */
    uint8_t priority;
    int32_t n_ids;
    int32_t parent; /* KV_NONE: the first of a sequence */
    int32_t first_child, next_sibling, previous_sibling;
    int32_t next_in_bucket; /* of whole blocks; of unused nodes: the next unused one */
    int32_t n_cursors;
    int32_t n_on_device; /* nodes below that have a block of the leading group's pool */
    int32_t heap_at;     /* KV_NONE: the priority does not end */
    uint64_t salt;
    uint64_t hash;
    uint64_t until_ns;
};

/* Cached nodes of one group and priority: the first was used least recently. */
struct kv_list {
    int32_t first, last;
};

struct kv_link {
    int32_t next, previous;
};

uint64_t spey_kv_tree_root(uint64_t salt);
uint64_t spey_kv_tree_hash(uint64_t parent_hash, const int32_t *ids, int32_t n);
/* The node below `parent` of these whole ids; KV_NONE. */
int32_t spey_kv_tree_find(const spey_kv_cache *kv, int32_t parent, uint64_t salt, uint64_t hash,
                          const int32_t *ids);
/* The node below `parent` that begins as ids do, up to n of them; *common how far. Of many nodes, only some are looked at. */
int32_t spey_kv_tree_find_part(const spey_kv_cache *kv, int32_t parent, uint64_t salt,
                               const int32_t *ids, int64_t n, int32_t *common);
/* A node without blocks. KV_NONE: all are in use. */
int32_t spey_kv_tree_add(spey_kv_cache *kv, const struct kv_node *like, const int32_t *ids);
/* Forget a leaf without cursors, and give the tree's references to its blocks back. */
void spey_kv_tree_remove(spey_kv_cache *kv, int32_t node);
/* Forget a node, and those above it, while it holds no block, leads nowhere and has no cursor. */
void spey_kv_tree_prune(spey_kv_cache *kv, int32_t node);
/* Put a node at the end of a list, or take it out. */
void spey_kv_list_append(struct kv_list *list, struct kv_link *links, int32_t node);
void spey_kv_list_remove(struct kv_list *list, struct kv_link *links, int32_t node);
/* Forget a node and all below it; no sequence has a block of theirs. */
void spey_kv_tree_remove_all(spey_kv_cache *kv, int32_t node);
/* A node has a block from now on; one of its references is the tree's. */
void spey_kv_tree_set_block(spey_kv_cache *kv, int32_t node, int g, int32_t block);
/* The tree's reference to a node's block in a group goes, if it has one. */
void spey_kv_tree_disown(spey_kv_cache *kv, int g, int32_t node);
/* The tree takes a reference to a sequence's block. */
void spey_kv_tree_adopt(spey_kv_cache *kv, int32_t node, int g, int32_t block);
/* Free one block of a group, which has cached ones. */
void spey_kv_tree_evict(spey_kv_cache *kv, int g);
/* A block of a node has, or no longer has, no reference but the tree's. */
void spey_kv_tree_cache(spey_kv_cache *kv, int g, int32_t node);
void spey_kv_tree_uncache(spey_kv_cache *kv, int g, int32_t node);
/* Retention of a node, if it is more than the node has. */
void spey_kv_tree_retain(spey_kv_cache *kv, int32_t node, uint8_t priority, uint64_t until_ns);

/* ---- kv_host.c ---- */

/* Free one block of a group in host memory, which other blocks may have to leave. False: all are in use. */
bool spey_kv_host_make_room(spey_kv_cache *kv, int g);

static inline bool kv_on_host(const kv_group *group, int32_t node)
{
    return group->n_host && group->host_of_nodes[node] != KV_NONE;
}
/* Move a cached block of a node to host memory. False: no room there. */
bool spey_kv_host_offload(spey_kv_cache *kv, int g, int32_t node);
/* And back, as a cached block; it is pinned, and there is room in the pool and for the copy. */
void spey_kv_host_restore(spey_kv_cache *kv, int g, int32_t node);
/* Forget a node's block in host memory, if it has one. */
void spey_kv_host_drop(spey_kv_cache *kv, int g, int32_t node);
/* A node must not, or may again, be dropped for room. */
void spey_kv_host_pin(spey_kv_cache *kv, int g, int32_t node);
void spey_kv_host_unpin(spey_kv_cache *kv, int g, int32_t node);

/* ---- kv_file.c ---- */

/* A node has left the pools wholly: it is to be written. */
void spey_kv_file_note(spey_kv_cache *kv, int32_t node);
/* A node that is to be written goes. */
void spey_kv_file_forget(spey_kv_cache *kv, int32_t node);
/* Forget all. */
void spey_kv_file_clear(spey_kv_cache *kv);

/* ---- kv_report.c ---- */

void spey_kv_report(spey_kv_cache *kv, spey_kv_event_kind kind, spey_kv_tier tier, int32_t node);
void spey_kv_report_created(spey_kv_cache *kv);

static inline int32_t *kv_node_ids(const spey_kv_cache *kv, int32_t node)
{
    return kv->node_ids + (int64_t)node * kv->limits.block_tokens;
}

#endif
