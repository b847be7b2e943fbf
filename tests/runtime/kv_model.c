#include "kv_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/kv_file.h"

/* Few ids, so that sequences begin alike. */
enum { IDS = 2, CHUNK_MAX = 12 };

/* Blocks of the pool, then those of host memory. */
static size_t memory_ints(const kv_model *model, int g)
{
    return (size_t)(model->limits.groups[g].n_blocks + model->limits.host_blocks) *
           (size_t)model->limits.block_tokens;
}

void kv_model_init(kv_model *model, const spey_kv_limits *limits)
{
    *model = (kv_model){ .limits = *limits };
    assert_true(limits->sequence_tokens_max <= KV_MODEL_TOKENS_MAX);
    assert_true(limits->sequences_max <= KV_MODEL_SEQUENCES_MAX);
    assert_int_equal(spey_kv_cache_new(limits, &model->kv), SPEY_OK);
    for (int g = 0; g < limits->n_groups; g++) {
        size_t n = memory_ints(model, g);
        model->memory[g] = calloc(n, sizeof(int32_t));
        model->later[g] = calloc(n, sizeof(int32_t));
        assert_true(model->memory[g] && model->later[g]);
    }
}

void kv_model_deinit(kv_model *model)
{
    spey_kv_stats stats;
    spey_kv_read_stats(model->kv, &stats);
    model->n_offloaded = stats.offloaded_blocks;
    model->n_restored = stats.restored_blocks;
    spey_kv_file_close(model->kv);
    for (int g = 0; g < model->limits.n_groups; g++) {
        free(model->memory[g]);
        free(model->later[g]);
    }
    spey_kv_cache_free(model->kv);
}

static int32_t *block_at(const kv_model *model, int32_t *const *memory, int g, int32_t block)
{
    assert_in_range(block, 0, model->limits.groups[g].n_blocks + model->limits.host_blocks - 1);
    return memory[g] + (int64_t)block * model->limits.block_tokens;
}

static int32_t on_host(const kv_model *model, int g, int32_t block)
{
    assert_in_range(block, 0, model->limits.host_blocks - 1);
    return model->limits.groups[g].n_blocks + block;
}

static void carry_out(const kv_model *model, int32_t *const *memory)
{
    int64_t n;
    const spey_kv_copy *copies = spey_kv_copies(model->kv, &n);
    size_t bytes = (size_t)model->limits.block_tokens * sizeof(int32_t);
    for (int64_t i = 0; i < n; i++) {
        int g = copies[i].group;
        int32_t *dst =
            block_at(model, memory, g,
                     copies[i].kind == SPEY_KV_COPY_TO_HOST ? on_host(model, g, copies[i].dst)
                                                            : copies[i].dst);
        memmove(dst,
                block_at(model, memory, g,
                         copies[i].kind == SPEY_KV_COPY_FROM_HOST ? on_host(model, g, copies[i].src)
                                                                  : copies[i].src),
                bytes);
    }
}

void kv_model_carry_out(kv_model *model)
{
    carry_out(model, model->memory);
    spey_kv_copies_done(model->kv);
}

/* What a state is after these ids: all of them count, in their order. */
static int32_t state_after(int32_t state, int32_t id)
{
    return (int32_t)((uint32_t)state * 31 + (uint32_t)id + 1);
}

static void write_token(kv_model *model, spey_seq_id seq, int64_t at, int32_t id)
{
    int64_t n, bt = model->limits.block_tokens;
    for (int g = 0; g < model->limits.n_groups; g++) {
        const int32_t *blocks = spey_kv_blocks(model->kv, g, seq, &n);
        switch (model->limits.groups[g].kind) {
        case SPEY_KV_CROSS: break;
        case SPEY_KV_STATE: {
            assert_int_equal(n, 1);
            int32_t *state = block_at(model, model->memory, g, blocks[0]);
            *state = state_after(at ? *state : 0, id);
            break;
        }
        case SPEY_KV_TOKENS:
            assert_in_range(at / bt, spey_kv_first_block(model->kv, g, seq), n - 1);
            block_at(model, model->memory, g, blocks[at / bt])[at % bt] = id;
            break;
        }
    }
}

bool kv_model_store(kv_model *model, spey_seq_id seq, const int32_t *ids, int64_t n)
{
    kv_model_sequence *s = &model->sequences[seq];
    int64_t length = spey_kv_length(model->kv, seq), copies;
    assert_int_equal(length, s->n);
    int64_t missing = spey_kv_missing_blocks(model->kv, seq, length + n);
    spey_status status = spey_kv_reserve(model->kv, seq, length + n);
    if (status != SPEY_OK) {
        assert_int_equal(status, SPEY_LIMIT);
        /* One group is enough for a refusal; with one there is no other reason. */
        bool too_long = length + n > model->limits.sequence_tokens_max;
        spey_kv_copies(model->kv, &copies);
        if (!too_long && model->limits.n_groups == 1 && !copies)
            assert_true(missing > spey_kv_free_blocks(model->kv));
        assert_int_equal(spey_kv_length(model->kv, seq), length);
        model->n_refused++;
        return false;
    }
    assert_int_equal(spey_kv_missing_blocks(model->kv, seq, length + n), 0);
    spey_kv_copies(model->kv, &copies);
    model->n_copied += (uint64_t)copies;
    kv_model_carry_out(model);
    for (int64_t i = 0; i < n; i++) {
        write_token(model, seq, length + i, ids[i]);
        s->ids[s->n++] = ids[i];
    }
    if (s->n > s->n_most) s->n_most = s->n;
    spey_kv_advance(model->kv, seq, ids, n);
    spey_kv_copies(model->kv, &copies);
    assert_int_equal(copies, 0);
    return true;
}

static void reserve_cross(kv_model *model, spey_seq_id seq, spey_rng *rng)
{
    kv_model_sequence *s = &model->sequences[seq];
    int64_t wanted = (int64_t)spey_rng_below(rng, (uint64_t)model->limits.cross_tokens_max + 1), n;
    if (spey_kv_reserve_cross(model->kv, seq, wanted)) return;
    s->n_cross = wanted;
    s->cross = (int32_t)spey_rng_below(rng, 1 << 30);
    for (int g = 0; g < model->limits.n_groups; g++) {
        const int32_t *blocks = spey_kv_blocks(model->kv, g, seq, &n);
        for (int64_t i = 0; model->limits.groups[g].kind == SPEY_KV_CROSS && i < n; i++)
            *block_at(model, model->memory, g, blocks[i]) = s->cross;
    }
}

spey_seq_id kv_model_open(kv_model *model, const spey_kv_key *key)
{
    spey_seq_id seq;
    spey_status status = spey_kv_open(model->kv, &seq);
    if (status == SPEY_LIMIT) return KV_MODEL_SEQUENCES_MAX;
    assert_int_equal(status, SPEY_OK);
    assert_false(model->sequences[seq].open);
    kv_model_sequence *s = &model->sequences[seq];
    *s = (kv_model_sequence){ .open = true };
    if (!key) return seq;
    int64_t length = spey_kv_match_length(model->kv, key);
    assert_int_equal(spey_kv_match(model->kv, seq, key, &s->n_reused), SPEY_OK);
    assert_true(s->n_reused <= length); /* less: there was no room */
    assert_true(s->n_reused == 0 || s->n_reused < key->n);
    assert_int_equal(spey_kv_length(model->kv, seq), s->n_reused);
    s->n = s->n_most = s->n_reused;
    model->n_reused += (uint64_t)s->n;
    memcpy(s->ids, key->ids, (size_t)s->n * sizeof(*s->ids));
    return seq;
}

void kv_model_close(kv_model *model, spey_seq_id seq)
{
    spey_kv_close(model->kv, seq);
    model->sequences[seq].open = false;
    model->past[model->n_closed++ % KV_MODEL_PAST] = model->sequences[seq];
}

static void open_sequence(kv_model *model, spey_rng *rng)
{
    int32_t ids[KV_MODEL_TOKENS_MAX];
    uint64_t most = (uint64_t)model->limits.sequence_tokens_max;
    spey_kv_key key = { .salt = spey_rng_below(rng, 2),
                        .ids = ids,
                        .n = (int64_t)spey_rng_below(rng, most + 1) };
    for (int64_t i = 0; i < key.n; i++)
        ids[i] = (int32_t)spey_rng_below(rng, IDS);
    /* Often as another one goes. */
    const kv_model_sequence *other = &model->sequences[spey_rng_below(rng, 4)];
    if (spey_rng_below(rng, 3)) other = &model->past[spey_rng_below(rng, KV_MODEL_PAST)];
    if (spey_rng_below(rng, 3))
        memcpy(ids, other->ids, (size_t)(other->n < key.n ? other->n : key.n) * sizeof(*ids));
    spey_seq_id seq = kv_model_open(model, spey_rng_below(rng, 8) ? &key : NULL);
    if (seq == KV_MODEL_SEQUENCES_MAX) return;
    if (model->limits.cross_tokens_max) reserve_cross(model, seq, rng);
    if (spey_rng_below(rng, 4)) return;
    static const spey_kv_retention ranges[] = { { 3, 9, 70, 50 }, { 0, INT64_MAX, 20, 0 } };
    if (!spey_rng_below(rng, 3)) {
        spey_kv_set_retention_ranges(model->kv, seq, ranges, 2);
        return;
    }
    uint64_t until = spey_rng_below(rng, 2) ? model->now_ns + spey_rng_below(rng, 300) : 0;
    spey_kv_set_retention(model->kv, seq, (int)spey_rng_below(rng, 101), until);
}

static void fork_sequence(kv_model *model, spey_seq_id parent)
{
    spey_seq_id child;
    spey_status status = spey_kv_fork(model->kv, parent, &child);
    if (status == SPEY_LIMIT) return;
    assert_int_equal(status, SPEY_OK);
    assert_false(model->sequences[child].open);
    model->sequences[child] = model->sequences[parent];
}

static void truncate_sequence(kv_model *model, spey_seq_id seq, spey_rng *rng)
{
    kv_model_sequence *s = &model->sequences[seq];
    int64_t n = (int64_t)spey_rng_below(rng, (uint64_t)s->n + 1);
    if (spey_rng_below(rng, 2)) n = s->n - (int64_t)spey_rng_below(rng, s->n < 3 ? 1 : 3);
    bool states = false;
    for (int g = 0; g < model->limits.n_groups; g++)
        states = states || model->limits.groups[g].kind == SPEY_KV_STATE;
    spey_status status = spey_kv_truncate(model->kv, seq, n);
    if (status == SPEY_OK)
        s->n = n;
    else
        assert_int_equal(status, SPEY_UNSUPPORTED);
    bool near = s->n_most - n <= model->limits.rollback_tokens && n >= s->n_reused;
    if (n == 0 || (near && !states)) assert_int_equal(status, SPEY_OK);
    if (n == 0) s->n_most = s->n_reused = 0;
}

void kv_model_move(kv_model *model, spey_rng *rng)
{
    spey_seq_id seq = (spey_seq_id)spey_rng_below(rng, (uint64_t)model->limits.sequences_max);
    kv_model_sequence *s = &model->sequences[seq];
    assert_int_equal(spey_kv_is_open(model->kv, seq), s->open);
    uint64_t move = spey_rng_below(rng, 16);
    spey_kv_set_time(model->kv, ++model->now_ns);
    if (!spey_rng_below(rng, 1000)) spey_kv_flush(model->kv);
    if (!s->open || move == 0) {
        open_sequence(model, rng);
    } else if (move == 1 || move > 13) {
        kv_model_close(model, seq);
    } else if (move == 2) {
        fork_sequence(model, seq);
    } else if (move == 3) {
        truncate_sequence(model, seq, rng);
    } else if (move == 4) {
        (void)spey_kv_reserve(model->kv, seq, s->n + (int64_t)spey_rng_below(rng, CHUNK_MAX));
    } else {
        int32_t ids[CHUNK_MAX];
        int64_t n = 1 + (int64_t)spey_rng_below(rng, CHUNK_MAX);
        for (int64_t i = 0; i < n; i++)
            ids[i] = (int32_t)spey_rng_below(rng, IDS);
        kv_model_store(model, seq, ids, n);
    }
}

/* How many of a sequence's tokens are not where they should be. */
static int64_t count_wrong(const kv_model *model, int g, spey_seq_id seq)
{
    const kv_model_sequence *s = &model->sequences[seq];
    const spey_kv_group_limits *group = &model->limits.groups[g];
    int64_t n, bt = model->limits.block_tokens, seen = 0, wrong = 0;
    const int32_t *blocks = spey_kv_blocks(model->kv, g, seq, &n);
    if (group->kind == SPEY_KV_STATE) {
        int32_t state = 0;
        for (int64_t i = 0; i < s->n; i++)
            state = state_after(state, s->ids[i]);
        return s->n && *block_at(model, model->later, g, blocks[0]) != state;
    }
    if (group->kind == SPEY_KV_CROSS) {
        for (int64_t i = 0; i < spey_kv_blocks_for(model->kv, g, s->n_cross); i++)
            wrong += *block_at(model, model->later, g, blocks[i]) != s->cross;
        return wrong;
    }
    if (group->window && s->n >= group->window) seen = s->n - group->window + 1;
    for (int64_t i = seen; i < s->n; i++)
        wrong += i / bt >= n || i / bt < spey_kv_first_block(model->kv, g, seq) ||
                 block_at(model, model->later, g, blocks[i / bt])[i % bt] != s->ids[i];
    return wrong;
}

/* What memory will be once waiting copies are carried out. Of host memory only what they touch: a thread may be filling the
 * rest. */
static void look_ahead(kv_model *model)
{
    int64_t n, bt = model->limits.block_tokens;
    const spey_kv_copy *copies = spey_kv_copies(model->kv, &n);
    for (int g = 0; g < model->limits.n_groups; g++)
        memcpy(model->later[g], model->memory[g],
               (size_t)(model->limits.groups[g].n_blocks * bt) * sizeof(int32_t));
    for (int64_t i = 0; i < n; i++) {
        int g = copies[i].group;
        if (copies[i].kind != SPEY_KV_COPY_FROM_HOST) continue;
        int32_t from = on_host(model, g, copies[i].src);
        memcpy(block_at(model, model->later, g, from), block_at(model, model->memory, g, from),
               (size_t)bt * sizeof(int32_t));
    }
    carry_out(model, model->later);
}

void kv_model_check(kv_model *model, uint64_t seed, int move)
{
    spey_status status = spey_kv_check(model->kv);
    look_ahead(model);
    int64_t wrong = 0;
    for (spey_seq_id s = 0; s < model->limits.sequences_max; s++)
        for (int g = 0; model->sequences[s].open && g < model->limits.n_groups; g++)
            wrong += count_wrong(model, g, s);
    if (status != SPEY_OK || wrong)
        print_error("seed %llu, move %d: %lld tokens are wrong; %s\n", (unsigned long long)seed,
                    move, (long long)wrong, status ? spey_last_error() : "the books are sound");
    assert_int_equal(status, SPEY_OK);
    assert_int_equal(wrong, 0);
}

/* ---- the file ---- */

spey_status kv_model_open_file(kv_model *model, const char *path, uint64_t bytes, bool no_thread)
{
    spey_kv_file_setup setup = {
        .path = path, .bytes = bytes, .identity = 3, .no_thread = no_thread
    };
    for (int g = 0; g < model->limits.n_groups; g++) {
        int64_t pool = (int64_t)model->limits.groups[g].n_blocks * model->limits.block_tokens;
        setup.block_bytes[g] = (size_t)model->limits.block_tokens * sizeof(int32_t);
        setup.host[g] = (uint8_t *)(model->memory[g] + pool);
    }
    return spey_kv_file_open(model->kv, &setup);
}

void kv_model_settle(kv_model *model)
{
    do {
        kv_model_carry_out(model);
        spey_kv_file_turn(model->kv, 0);
        spey_kv_file_wait(model->kv);
    } while (spey_kv_file_is_busy(model->kv));
    kv_model_carry_out(model);
    kv_model_check(model, 0, 0);
}

void kv_model_fetch(kv_model *model, const spey_kv_key *key)
{
    if (!spey_kv_file_has_more(model->kv, key)) return;
    assert_true(spey_kv_fetch(model->kv, key));
    assert_true(spey_kv_is_fetching(model->kv));
    kv_model_settle(model);
    assert_false(spey_kv_is_fetching(model->kv));
}

void kv_model_write_all(kv_model *model)
{
    do
        kv_model_settle(model);
    while (spey_kv_file_push_out(model->kv));
}
