#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "kv_model.h"

enum { BLOCK = 4, LONGEST = 100 };

static const spey_kv_limits plain = { .sequences_max = 4,
                                      .sequence_tokens_max = LONGEST,
                                      .block_tokens = BLOCK,
                                      .n_groups = 1,
                                      .groups = { { .n_blocks = 60 } },
                                      .reuse = true };

static const spey_kv_limits windowed = { .sequences_max = 4,
                                         .sequence_tokens_max = LONGEST,
                                         .block_tokens = BLOCK,
                                         .n_groups = 2,
                                         .groups = { { .n_blocks = 60 },
                                                     { .n_blocks = 60, .window = 6 } },
                                         .reuse = true };

static void count_up(int32_t ids[LONGEST], int32_t from)
{
    for (int32_t i = 0; i < LONGEST; i++)
        ids[i] = from + i;
}

static spey_kv_key key_of(const int32_t *ids, int64_t n)
{
    return (spey_kv_key){ .salt = 1, .ids = ids, .n = n };
}

/* A sequence of the key's ids; what is not reused is stored. */
static spey_seq_id run(kv_model *model, const spey_kv_key *key)
{
    spey_seq_id seq = kv_model_open(model, key);
    int64_t n = model->sequences[seq].n;
    assert_true(kv_model_store(model, seq, key->ids + n, key->n - n));
    kv_model_check(model, 0, 0);
    return seq;
}

static void run_and_close(kv_model *model, const spey_kv_key *key)
{
    kv_model_close(model, run(model, key));
    kv_model_check(model, 0, 0);
}

static void an_ended_sequence_is_found_again(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST], other[LONGEST];
    count_up(ids, 0);
    count_up(other, 0);
    other[10] = 77;
    kv_model_init(&model, &plain);
    spey_kv_key key = key_of(ids, 23);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 0);
    run_and_close(&model, &key);
    assert_int_equal(spey_kv_free_blocks(model.kv), 60); /* kept ones can be taken */
    static const struct {
        int64_t n, found;
    } cases[] = { { 0, 0 },   { 1, 0 },   { 2, 1 },   { 4, 3 },   { 5, 4 },
                  { 20, 19 }, { 21, 20 }, { 23, 22 }, { 24, 23 }, { 60, 23 } };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        key = key_of(ids, cases[i].n);
        assert_int_equal(spey_kv_match_length(model.kv, &key), cases[i].found);
        spey_seq_id seq = kv_model_open(&model, &key);
        assert_int_equal(model.sequences[seq].n_reused, cases[i].found);
        kv_model_check(&model, 0, (int)i);
        spey_kv_copies_done(model.kv); /* carried out by no one: the part was not stored */
        kv_model_close(&model, seq);
    }
    key = key_of(other, 30);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 10);
    key.salt = 2; /* another tenant */
    assert_int_equal(spey_kv_match_length(model.kv, &key), 0);
    kv_model_deinit(&model);
}

static void whole_blocks_are_shared_and_a_part_is_copied(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST];
    int64_t n, copies;
    count_up(ids, 0);
    kv_model_init(&model, &plain);
    spey_kv_key key = key_of(ids, 20);
    spey_seq_id a = run(&model, &key), b = kv_model_open(&model, &key);
    const int32_t *of_a = spey_kv_blocks(model.kv, 0, a, &n);
    const int32_t *of_b = spey_kv_blocks(model.kv, 0, b, &n);
    assert_int_equal(model.sequences[b].n_reused, 19);
    assert_int_equal(n, 5);
    assert_memory_equal(of_a, of_b, 4 * sizeof(*of_a));
    assert_int_not_equal(of_a[4], of_b[4]);
    const spey_kv_copy *copy = spey_kv_copies(model.kv, &copies);
    assert_int_equal(copies, 1);
    assert_int_equal(copy->src, of_a[4]);
    assert_int_equal(copy->dst, of_b[4]);
    /* When both have computed the same, one of the blocks is enough. */
    assert_int_equal(spey_kv_free_blocks(model.kv), 54);
    assert_true(kv_model_store(&model, b, ids + 19, 1));
    assert_int_equal(of_a[4], of_b[4]);
    assert_int_equal(spey_kv_free_blocks(model.kv), 55);
    kv_model_check(&model, 0, 0);
    kv_model_deinit(&model);
}

static void running_sequences_are_found_block_by_block(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST];
    count_up(ids, 0);
    kv_model_init(&model, &plain);
    spey_kv_key key = key_of(ids, 30);
    spey_seq_id a = kv_model_open(&model, &key);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(spey_kv_match_length(model.kv, &key), i / BLOCK * BLOCK);
        assert_true(kv_model_store(&model, a, ids + i, 1));
    }
    kv_model_deinit(&model);
}

static void what_nobody_asked_to_keep_is_not_found(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST];
    spey_kv_limits limits = plain;
    count_up(ids, 0);
    const spey_kv_key key = key_of(ids, 30);
    kv_model_init(&model, &limits);
    spey_seq_id seq = kv_model_open(&model, NULL); /* no match, no salt */
    assert_true(kv_model_store(&model, seq, ids, 30));
    kv_model_close(&model, seq);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 0);
    seq = kv_model_open(&model, &key); /* ids that are not told */
    assert_true(kv_model_store(&model, seq, ids, 10));
    assert_int_equal(spey_kv_reserve(model.kv, seq, 30), SPEY_OK);
    spey_kv_advance(model.kv, seq, NULL, 20);
    spey_kv_close(model.kv, seq);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 8);
    kv_model_deinit(&model);
    limits.reuse = false;
    kv_model_init(&model, &limits);
    run_and_close(&model, &key);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 0);
    kv_model_deinit(&model);
    limits.reuse = true;
    limits.n_groups = 2;
    limits.groups[1] = (spey_kv_group_limits){ .kind = SPEY_KV_STATE, .n_blocks = 4 };
    kv_model_init(&model, &limits);
    run_and_close(&model, &key);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 0);
    kv_model_deinit(&model);
}

static void a_match_needs_a_sequence_without_blocks(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST];
    int64_t n = 5;
    count_up(ids, 0);
    const spey_kv_key key = key_of(ids, 30);
    kv_model_init(&model, &plain);
    spey_seq_id seq = run(&model, &key);
    assert_int_equal(spey_kv_match(model.kv, seq, &key, &n), SPEY_INVALID);
    assert_int_equal(n, 0);
    assert_int_equal(spey_kv_length(model.kv, seq), 30);
    assert_int_equal(spey_kv_truncate(model.kv, seq, 0), SPEY_OK);
    assert_int_equal(spey_kv_match(model.kv, seq, &key, &n), SPEY_OK);
    assert_int_equal(n, 28);
    kv_model_deinit(&model);
}

/* Of the first sequence's window group only the end is left: shorter beginnings are not found. */
static void a_match_has_all_that_windows_see(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST], more[LONGEST];
    spey_kv_limits limits = windowed;
    limits.groups[1].n_blocks = 8;
    count_up(ids, 0);
    count_up(more, 1000);
    kv_model_init(&model, &limits);
    spey_kv_key key = key_of(ids, 40);
    spey_seq_id seq = kv_model_open(&model, &key);
    for (int i = 0; i < 40; i += BLOCK)
        assert_true(kv_model_store(&model, seq, ids + i, BLOCK));
    kv_model_close(&model, seq);
    /* 8 of its 10 blocks are there; a window of 6 reaches into 2. */
    for (int64_t n = 1; n <= 40; n++) {
        key.n = n;
        int64_t found = spey_kv_match_length(model.kv, &key);
        assert_int_equal(found, n - 1 > 3 * BLOCK ? n - 1 : n - 1 < BLOCK ? 0 : found);
    }
    /* Another sequence takes those that were used least recently. */
    spey_kv_key another = key_of(more, 5 * BLOCK);
    run_and_close(&model, &another);
    key.n = 20;
    assert_int_equal(spey_kv_match_length(model.kv, &key), 0);
    key.n = 50;
    assert_int_equal(spey_kv_match_length(model.kv, &key), 40);
    run_and_close(&model, &key);
    kv_model_deinit(&model);
}

static void a_truncated_sequence_goes_on_in_another_branch(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST], other[LONGEST];
    count_up(ids, 0);
    count_up(other, 0);
    for (int i = 10; i < LONGEST; i++)
        other[i] += 500;
    for (int kind = 0; kind < 2; kind++) {
        spey_kv_limits limits = kind ? windowed : plain;
        limits.rollback_tokens = LONGEST;
        kv_model_init(&model, &limits);
        spey_kv_key key = key_of(ids, 23);
        spey_seq_id seq = run(&model, &key);
        assert_int_equal(spey_kv_truncate(model.kv, seq, 10), SPEY_OK);
        model.sequences[seq].n = 10;
        assert_true(kv_model_store(&model, seq, other + 10, 20));
        kv_model_check(&model, 0, kind);
        kv_model_close(&model, seq);
        key = key_of(ids, 40);
        assert_int_equal(spey_kv_match_length(model.kv, &key), 20);
        key = key_of(other, 40);
        assert_int_equal(spey_kv_match_length(model.kv, &key), 30);
        kv_model_deinit(&model);
    }
}

static void a_flush_forgets_everything(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST], more[LONGEST];
    count_up(ids, 0);
    count_up(more, 1000);
    kv_model_init(&model, &windowed);
    spey_kv_key ended = key_of(ids, 30), running = key_of(more, 30);
    run_and_close(&model, &ended);
    spey_seq_id seq = run(&model, &running);
    spey_kv_flush(model.kv);
    kv_model_check(&model, 0, 0);
    assert_int_equal(spey_kv_match_length(model.kv, &ended), 0);
    assert_int_equal(spey_kv_match_length(model.kv, &running), 0);
    assert_true(kv_model_store(&model, seq, more + 30, 30));
    kv_model_close(&model, seq);
    assert_int_equal(spey_kv_match_length(model.kv, &running), 0);
    run_and_close(&model, &running); /* and begins anew */
    assert_int_equal(spey_kv_match_length(model.kv, &running), 29);
    kv_model_deinit(&model);
}

/* A prompt that fits a pool whose last free blocks are the ones it would reuse. */
static void a_match_leaves_the_part_when_there_is_no_room(void **state)
{
    (void)state;
    kv_model model;
    int32_t ids[LONGEST], more[LONGEST];
    spey_kv_limits limits = plain;
    limits.groups[0].n_blocks = 12;
    count_up(ids, 0);
    count_up(more, 1000);
    kv_model_init(&model, &limits);
    spey_kv_key key = key_of(ids, 24), another = key_of(more, 24);
    run_and_close(&model, &key);
    run(&model, &another); /* 6 blocks are used, 6 kept */
    assert_int_equal(spey_kv_match_length(model.kv, &key), 23);
    spey_seq_id seq = kv_model_open(&model, &key);
    assert_int_equal(model.sequences[seq].n_reused, 20);
    kv_model_check(&model, 0, 0);
    assert_true(
        kv_model_store(&model, seq, ids + 20, 4)); /* by evicting the last of the kept ones */
    kv_model_check(&model, 0, 0);
    kv_model_deinit(&model);
}

/* Nothing is ever evicted: what is found is the longest that any sequence has left. */
static void the_longest_beginning_is_found(void **state)
{
    (void)state;
    enum { RUNS = 60, MOST = 40 };
    spey_kv_limits limits = windowed;
    for (int g = 0; g < 2; g++)
        limits.groups[g].n_blocks = RUNS * (MOST / BLOCK + 1);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        static int32_t all[RUNS][MOST];
        int64_t lengths[RUNS];
        spey_rng rng = { .seed = seed };
        kv_model model;
        kv_model_init(&model, &limits);
        spey_alloc_seal(true);
        for (int r = 0; r < RUNS; r++) {
            int64_t wanted = 0;
            lengths[r] = 1 + (int64_t)spey_rng_below(&rng, MOST);
            for (int i = 0; i < lengths[r]; i++)
                all[r][i] = (int32_t)spey_rng_below(&rng, 2);
            if (r && spey_rng_below(&rng, 2)) memcpy(all[r], all[r - 1], sizeof(all[0]) / 2);
            for (int old = 0; old < r; old++) {
                int64_t same = 0;
                while (same < lengths[old] && same < lengths[r] - 1 &&
                       all[old][same] == all[r][same])
                    same++;
                if (same > wanted) wanted = same;
            }
            spey_kv_key key = key_of(all[r], lengths[r]);
            assert_int_equal(spey_kv_match_length(model.kv, &key), wanted);
            run_and_close(&model, &key);
            assert_int_equal(spey_kv_check(model.kv), SPEY_OK);
        }
        spey_alloc_seal(false);
        kv_model_deinit(&model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ended_sequence_is_found_again),
        cmocka_unit_test(whole_blocks_are_shared_and_a_part_is_copied),
        cmocka_unit_test(running_sequences_are_found_block_by_block),
        cmocka_unit_test(what_nobody_asked_to_keep_is_not_found),
        cmocka_unit_test(a_match_needs_a_sequence_without_blocks),
        cmocka_unit_test(a_match_has_all_that_windows_see),
        cmocka_unit_test(a_truncated_sequence_goes_on_in_another_branch),
        cmocka_unit_test(a_flush_forgets_everything),
        cmocka_unit_test(a_match_leaves_the_part_when_there_is_no_room),
        cmocka_unit_test(the_longest_beginning_is_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
