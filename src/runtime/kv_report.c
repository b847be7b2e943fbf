/* What the KV cache tells about itself. */
#include "runtime/kv_tree.h"

void spey_kv_read_stats(const spey_kv_cache *kv, spey_kv_stats *out)
{
    *out = (spey_kv_stats){ .tokens_per_block = kv->limits.block_tokens,
                            .alloc_total_blocks = kv->n_taken + kv->n_shared,
                            .alloc_new_blocks = kv->n_taken,
                            .evicted_blocks = kv->n_evicted,
                            .reused_blocks = kv->n_reused,
                            .missed_blocks = kv->n_missed,
                            .reused_tokens = kv->n_reused_tokens };
    for (int g = 0; g < kv->limits.n_groups; g++) {
        const kv_group *group = &kv->groups[g];
        if (group->kind != SPEY_KV_TOKENS) continue;
        out->max_num_blocks += group->n_blocks;
        out->free_num_blocks += group->n_free + group->n_cached;
        out->cached_num_blocks += group->n_cached;
    }
    out->used_num_blocks = out->max_num_blocks - out->free_num_blocks;
    int64_t looked_for = out->reused_blocks + out->missed_blocks;
    if (looked_for) out->cache_hit_rate = (double)out->reused_blocks / (double)looked_for;
}
