#include "runtime/kv_cache.h"

#include <string.h>

#include "base/alloc.h"

/* One group's blocks. Free blocks are a stack; a sequence's blocks are a row of `table`. */
typedef struct kv_group {
    int32_t n_blocks;
    int32_t n_free;
    int32_t
        *free_blocks;   /* [n_blocks], the first n_free are valid, the last of them is taken next */
    int32_t *table;     /* [sequences_max][blocks_max] */
    int64_t blocks_max; /* of one sequence; 1 for states */
    uint8_t *marks;     /* [n_blocks], for spey_kv_check */
} kv_group;

typedef struct kv_sequence {
    bool open;
    int64_t length;
    int64_t n_blocks; /* the same in every group but those of states */
} kv_sequence;

struct spey_kv_cache {
    spey_kv_limits limits;
    kv_group groups[SPEY_CACHE_GROUPS_MAX];
    kv_sequence *sequences;
    void *memory; /* of all arrays */
};

static int64_t blocks_for(const spey_kv_limits *limits, int64_t n_tokens)
{
    return (n_tokens + limits->block_tokens - 1) / limits->block_tokens;
}

/* How many blocks of `group` a sequence with n_blocks has. */
static int64_t owned(const kv_group *group, int64_t n_blocks)
{
    return n_blocks < group->blocks_max ? n_blocks : group->blocks_max;
}

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

/* Where every array lies in one allocation; fills kv's pointers when there is memory. SIZE_MAX on overflow. */
static size_t lay_out(const spey_kv_limits *limits, spey_kv_cache *kv, uint8_t *memory)
{
    size_t offset = 0, at;
    if (!take(&offset, limits->sequences_max, sizeof(kv_sequence), &at)) return SIZE_MAX;
    if (memory) kv->sequences = (kv_sequence *)(void *)(memory + at);
    for (int g = 0; g < limits->n_groups; g++) {
        kv_group group = { .n_blocks = limits->n_blocks[g], .n_free = limits->n_blocks[g] };
        group.blocks_max = blocks_for(limits, limits->sequence_tokens_max);
        if (group.blocks_max > group.n_blocks) group.blocks_max = group.n_blocks;
        if (limits->is_state[g]) group.blocks_max = 1;
        size_t free_at, table_at, marks_at;
        if (!take(&offset, group.n_blocks, sizeof(int32_t), &free_at) ||
            !take(&offset, limits->sequences_max * group.blocks_max, sizeof(int32_t), &table_at) ||
            !take(&offset, group.n_blocks, 1, &marks_at))
            return SIZE_MAX;
        if (!memory) continue;
        group.free_blocks = (int32_t *)(void *)(memory + free_at);
        group.table = (int32_t *)(void *)(memory + table_at);
        group.marks = memory + marks_at;
        for (int32_t b = 0; b < group.n_blocks; b++)
            group.free_blocks[b] = group.n_blocks - 1 - b;
        kv->groups[g] = group;
    }
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
    *out = kv;
    return SPEY_OK;
}

void spey_kv_cache_free(spey_kv_cache *kv)
{
    if (!kv) return;
    spey_free(kv->memory);
    spey_free(kv);
}

bool spey_kv_is_open(const spey_kv_cache *kv, spey_seq_id seq)
{
    return seq >= 0 && seq < kv->limits.sequences_max && kv->sequences[seq].open;
}

static kv_sequence *sequence(const spey_kv_cache *kv, spey_seq_id seq)
{
    SPEY_ASSERT(spey_kv_is_open(kv, seq));
    return &kv->sequences[seq];
}

spey_status spey_kv_open(spey_kv_cache *kv, spey_seq_id *out)
{
    for (spey_seq_id i = 0; i < kv->limits.sequences_max; i++) {
        if (kv->sequences[i].open) continue;
        kv->sequences[i] = (kv_sequence){ .open = true };
        *out = i;
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_LIMIT, "all %d sequences are in use", kv->limits.sequences_max);
}

/* Keep the first n blocks of a sequence. */
static void keep_blocks(spey_kv_cache *kv, spey_seq_id seq, int64_t n)
{
    kv_sequence *s = sequence(kv, seq);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        const int32_t *row = group->table + seq * group->blocks_max;
        /* Last block first: a sequence that grows again gets the same blocks in the same order. */
        for (int64_t i = owned(group, s->n_blocks) - 1; i >= n; i--) {
            SPEY_ASSERT(group->n_free < group->n_blocks);
            group->free_blocks[group->n_free++] = row[i];
        }
    }
    if (n < s->n_blocks) s->n_blocks = n;
}

void spey_kv_close(spey_kv_cache *kv, spey_seq_id seq)
{
    keep_blocks(kv, seq, 0);
    *sequence(kv, seq) = (kv_sequence){ .open = false };
}

int64_t spey_kv_missing_blocks(const spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    int64_t missing = blocks_for(&kv->limits, n_tokens) - sequence(kv, seq)->n_blocks;
    return missing > 0 ? missing : 0;
}

spey_status spey_kv_reserve(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    kv_sequence *s = sequence(kv, seq);
    if (n_tokens > kv->limits.sequence_tokens_max)
        return SPEY_FAIL(SPEY_LIMIT, "a sequence of %lld tokens wanted, %lld is the most",
                         (long long)n_tokens, (long long)kv->limits.sequence_tokens_max);
    int64_t wanted = spey_kv_missing_blocks(kv, seq, n_tokens);
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (!kv->limits.is_state[g] && wanted > kv->groups[g].n_free)
            return SPEY_FAIL(SPEY_LIMIT,
                             "the KV cache is full: %lld blocks of %d tokens wanted, %d of %d are "
                             "free, %lld are missing",
                             (long long)wanted, kv->limits.block_tokens, kv->groups[g].n_free,
                             kv->groups[g].n_blocks, (long long)wanted - kv->groups[g].n_free);
    for (int g = 0; g < kv->limits.n_groups; g++) {
        kv_group *group = &kv->groups[g];
        int32_t *row = group->table + seq * group->blocks_max;
        for (int64_t i = owned(group, s->n_blocks); i < owned(group, s->n_blocks + wanted); i++)
            row[i] = group->free_blocks[--group->n_free];
    }
    s->n_blocks += wanted;
    return SPEY_OK;
}

void spey_kv_advance(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    kv_sequence *s = sequence(kv, seq);
    SPEY_ASSERT(n_tokens >= 0);
    SPEY_ASSERT(blocks_for(&kv->limits, s->length + n_tokens) <= s->n_blocks);
    SPEY_ASSERT(s->length + n_tokens <= kv->limits.sequence_tokens_max);
    s->length += n_tokens;
}

spey_status spey_kv_truncate(spey_kv_cache *kv, spey_seq_id seq, int64_t n_tokens)
{
    kv_sequence *s = sequence(kv, seq);
    SPEY_ASSERT(n_tokens >= 0 && n_tokens <= s->length);
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (kv->limits.is_state[g] && n_tokens > 0 && n_tokens < s->length)
            return SPEY_FAIL(SPEY_UNSUPPORTED,
                             "sequence %d has a state, which cannot go back from %lld tokens to "
                             "%lld; it can begin again",
                             seq, (long long)s->length, (long long)n_tokens);
    keep_blocks(kv, seq, blocks_for(&kv->limits, n_tokens));
    s->length = n_tokens;
    return SPEY_OK;
}

int64_t spey_kv_length(const spey_kv_cache *kv, spey_seq_id seq)
{
    return sequence(kv, seq)->length;
}

int64_t spey_kv_blocks_for(const spey_kv_cache *kv, int group, int64_t n_tokens)
{
    SPEY_ASSERT(group >= 0 && group < kv->limits.n_groups);
    return owned(&kv->groups[group], blocks_for(&kv->limits, n_tokens));
}

const int32_t *spey_kv_blocks(const spey_kv_cache *kv, int group, spey_seq_id seq, int64_t *n)
{
    SPEY_ASSERT(group >= 0 && group < kv->limits.n_groups);
    *n = owned(&kv->groups[group], sequence(kv, seq)->n_blocks);
    return kv->groups[group].table + seq * kv->groups[group].blocks_max;
}

int32_t spey_kv_free_blocks(const spey_kv_cache *kv)
{
    int32_t fewest = INT32_MAX;
    for (int g = 0; g < kv->limits.n_groups; g++)
        if (!kv->limits.is_state[g] && kv->groups[g].n_free < fewest) fewest = kv->groups[g].n_free;
    return fewest;
}

int32_t spey_kv_block_tokens(const spey_kv_cache *kv)
{
    return kv->limits.block_tokens;
}

static spey_status mark(const kv_group *group, int g, int32_t block)
{
    if (block < 0 || block >= group->n_blocks)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d has no block %d", g, block);
    if (group->marks[block]++)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d: block %d is there twice", g, block);
    return SPEY_OK;
}

static spey_status check_group(const spey_kv_cache *kv, int g)
{
    const kv_group *group = &kv->groups[g];
    memset(group->marks, 0, (size_t)group->n_blocks);
    int64_t n = group->n_free;
    for (int32_t i = 0; i < group->n_free; i++)
        SPEY_TRY(mark(group, g, group->free_blocks[i]));
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++) {
        const kv_sequence *s = &kv->sequences[seq];
        for (int64_t i = 0; i < owned(group, s->n_blocks); i++)
            SPEY_TRY(mark(group, g, group->table[seq * group->blocks_max + i]));
        n += owned(group, s->n_blocks);
    }
    /* Every block is marked at most once, so the count decides. */
    if (n != group->n_blocks)
        return SPEY_FAIL(SPEY_INTERNAL, "group %d: %lld of %d blocks are free or owned", g,
                         (long long)n, group->n_blocks);
    return SPEY_OK;
}

spey_status spey_kv_check(const spey_kv_cache *kv)
{
    for (spey_seq_id seq = 0; seq < kv->limits.sequences_max; seq++) {
        const kv_sequence *s = &kv->sequences[seq];
        int64_t least = s->open ? blocks_for(&kv->limits, s->length) : 0;
        if (s->n_blocks < least || (!s->open && s->n_blocks + s->length != 0))
            return SPEY_FAIL(SPEY_INTERNAL, "sequence %d has %lld tokens in %lld blocks", seq,
                             (long long)s->length, (long long)s->n_blocks);
    }
    for (int g = 0; g < kv->limits.n_groups; g++)
        SPEY_TRY(check_group(kv, g));
    return SPEY_OK;
}
