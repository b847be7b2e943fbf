/* Every invariant of the KV cache's books, counted anew. */
#include <string.h>

#include "runtime/kv_books.h"

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
    if (!s->open) sound = span.first == 0 && span.end == 0 && s->length == 0 && !s->promised;
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

static spey_status check_group(const spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    memset(group->marks, 0, (size_t)group->n_blocks * sizeof(*group->marks));
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++)
        SPEY_TRY(check_span(kv, g, seq));
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

spey_status spey_kv_check(const spey_kv_cache *kv)
{
    SPEY_TRY(check_slots(kv));
    for (int g = 0; g < kv->limits.n_groups; g++)
        SPEY_TRY(check_group(kv, g));
    return SPEY_OK;
}
