/* What the KV cache tells about itself. */
#include <string.h>

#include "runtime/kv_file.h"
#include "runtime/kv_tree.h"

void spey_kv_read_stats(const spey_kv_cache *kv, spey_kv_stats *out)
{
    *out = (spey_kv_stats){ .tokens_per_block = kv->limits.block_tokens,
                            .alloc_total_blocks = kv->n_taken + kv->n_shared,
                            .alloc_new_blocks = kv->n_taken,
                            .evicted_blocks = kv->n_evicted,
                            .offloaded_blocks = kv->n_offloaded,
                            .restored_blocks = kv->n_restored,
                            .reused_blocks = kv->n_reused,
                            .missed_blocks = kv->n_missed,
                            .reused_tokens = kv->n_reused_tokens };
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        if (group->kind != SPEY_KV_TOKENS) continue;
        out->max_num_blocks += group->n_blocks;
        out->free_num_blocks += group->n_free + group->n_cached;
        out->cached_num_blocks += group->n_cached;
        out->host_max_num_blocks += group->n_host;
        out->host_used_num_blocks += group->n_host - group->n_host_free;
    }
    spey_kv_file_read_stats(kv, out);
    out->used_num_blocks = out->max_num_blocks - out->free_num_blocks;
    int64_t looked_for = out->reused_blocks + out->missed_blocks;
    if (looked_for) out->cache_hit_rate = (double)out->reused_blocks / (double)looked_for;
}

/* The next place in the ring; what was there unread is lost. NULL: no events are kept. */
static spey_kv_event *new_event(spey_kv_cache *kv)
{
    uint64_t n = (uint64_t)kv->limits.events_max;
    if (!n) return NULL;
    if (kv->n_events - kv->n_read == n) kv->n_read++;
    return &kv->events[kv->n_events++ % n];
}

void spey_kv_report_created(spey_kv_cache *kv)
{
    for (int tier = 0; tier < 2; tier++) {
        int64_t n = 0;
        for (int g = 0; g < kv->limits.n_groups; g++)
            n += tier ? kv->groups[g].n_host : kv->groups[g].n_blocks;
        spey_kv_event *event = n ? new_event(kv) : NULL;
        if (!event) continue;
        *event = (spey_kv_event){ .id = kv->n_events,
                                  .kind = SPEY_KV_EVENT_CREATED,
                                  .tier = (spey_kv_tier)tier,
                                  .n_blocks = n };
    }
}

void spey_kv_report(spey_kv_cache *kv, spey_kv_event_kind kind, spey_kv_tier tier, int32_t node)
{
    const struct kv_node *n = &kv->nodes[node];
    spey_kv_event *event = new_event(kv);
    if (!event) return;
    *event = (spey_kv_event){ .id = kv->n_events,
                              .kind = kind,
                              .tier = tier,
                              .salt = n->salt,
                              .hash = n->hash,
                              .parent_hash = n->parent == KV_NONE ? 0 : kv->nodes[n->parent].hash };
    if (kind != SPEY_KV_EVENT_STORED) return;
    int32_t *ids = kv->event_ids + (event - kv->events) * kv->limits.block_tokens;
    memcpy(ids, kv_node_ids(kv, node), (size_t)n->n_ids * sizeof(*ids));
    event->ids = ids;
    event->n_ids = n->n_ids;
}

int32_t spey_kv_read_events(spey_kv_cache *kv, spey_kv_event *out, int32_t n)
{
    int32_t read = 0;
    for (; read < n && kv->n_read < kv->n_events; kv->n_read++)
        out[read++] = kv->events[kv->n_read % (uint64_t)kv->limits.events_max];
    return read;
}
