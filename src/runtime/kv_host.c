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
    int32_t block = group->host_of_nodes[node];
    group->host_of_nodes[node] = KV_NONE;
    if (group->host_uses[block] == KV_HOST_IDLE)
        group->host_free[group->n_host_free++] = block;
    else
        group->host_uses[block] = KV_HOST_HELD;
}

void spey_kv_host_drop(spey_kv_cache *kv, int g, int32_t node)
{
    if (!kv_on_host(&kv->groups[g], node)) return;
    spey_kv_host_pin(kv, g, node);
    give_up(&kv->groups[g], node);
}

/* The end of the chain that a node begins, all of it in host memory, is what may go for it. */
static int32_t victim_below(const spey_kv_cache *kv, int g, int32_t node)
{
    while (!kv->groups[g].window && kv->nodes[node].first_child != KV_NONE)
        node = kv->nodes[node].first_child;
    return node;
}

/* What came first goes first. */
bool spey_kv_host_make_room(spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    for (int32_t node = group->host_list->first, next; !group->n_host_free && node != KV_NONE;
         node = next) {
        int32_t victim = victim_below(kv, g, node);
        next = group->host_links[node].next;
        if (group->host_uses[group->host_of_nodes[victim]] != KV_HOST_IDLE) continue;
        if (group->window) {
            spey_kv_host_drop(kv, g, victim);
            spey_kv_tree_prune(kv, victim);
        } else {
            spey_kv_tree_remove(kv, victim);
        }
    }
    return group->n_host_free > 0;
}

/* Half of the list of copies is for those that cannot be left out. */
static bool has_room_for_copy(const spey_kv_cache *kv)
{
    return kv->n_copies < kv->copies_max / 2;
}

bool spey_kv_host_offload(spey_kv_cache *kv, int g, int32_t node)
{
    kv_group *group = &kv->groups[g];
    if (!group->n_host || !has_room_for_copy(kv) || !spey_kv_host_make_room(kv, g)) return false;
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
