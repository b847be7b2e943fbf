/* Blocks in host memory: where those go that are evicted from the pools. Books only, as everywhere here. */
#include "runtime/kv_tree.h"

void spey_kv_host_pin(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    spey_kv_list_remove(group->host_list, group->host_links, node);
}

void spey_kv_host_unpin(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    spey_kv_list_append(group->host_list, group->host_links, node);
}

static void give_up(kv_group *group, int32_t node)
{
    group->host_free[group->n_host_free++] = group->host_of_nodes[node];
    group->host_of_nodes[node] = KV_NONE;
}

void spey_kv_host_drop(spey_kv_cache *kv, int g, int32_t node)
{
    if (!kv_on_host(&kv->groups[g], node)) return;
    spey_kv_host_pin(kv, g, node);
    give_up(&kv->groups[g], node);
}

/* Free one block: that of the node that came first, or in a group without a window of a leaf below it. False: there is
 * none. */
static bool make_room(spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    int32_t node = group->host_list->first;
    if (group->n_host_free) return true;
    if (node == KV_NONE) return false;
    if (group->window) {
        spey_kv_host_drop(kv, g, node);
        spey_kv_tree_prune(kv, node);
        return true;
    }
    while (kv->nodes[node].first_child != KV_NONE)
        node = kv->nodes[node].first_child;
    spey_kv_tree_remove(kv, node);
    return true;
}

/* Half of the list of copies is for those that cannot be left out. */
static bool has_room_for_copy(const spey_kv_cache *kv)
{
    return kv->n_copies < kv->copies_max / 2;
}

bool spey_kv_host_offload(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    if (!group->n_host || !has_room_for_copy(kv) || !make_room(kv, g)) return false;
    int32_t block = group->blocks_of_nodes[node], to = group->host_free[--group->n_host_free];
    spey_kv_books_copy(kv, &(spey_kv_copy){ SPEY_KV_COPY_TO_HOST, g, block, to });
    spey_kv_tree_disown(kv, g, node);
    group->host_of_nodes[node] = to;
    spey_kv_host_unpin(kv, g, node);
    kv->n_offloaded++;
    return true;
}

void spey_kv_host_restore(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    int32_t from = group->host_of_nodes[node], block = spey_kv_books_take(kv, g);
    spey_kv_books_copy(kv, &(spey_kv_copy){ SPEY_KV_COPY_FROM_HOST, g, from, block });
    give_up(group, node); /* after take, which may have to find a place for another one */
    spey_kv_tree_set_block(kv, node, g, block);
    spey_kv_tree_cache(kv, g, node);
    kv->n_restored++;
    if (g == kv->leader) spey_kv_report(kv, SPEY_KV_EVENT_UPDATED, SPEY_KV_TIER_DEVICE, node);
}
