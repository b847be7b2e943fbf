#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kv_model.h"

enum { BLOCK = 4, BLOCKS = 10 };

static kv_model model_of(int32_t host_blocks)
{
    const spey_kv_limits limits = { .sequences_max = 3,
                                    .sequence_tokens_max = BLOCK * BLOCKS,
                                    .block_tokens = BLOCK,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = BLOCKS } },
                                    .reuse = true,
                                    .host_blocks = host_blocks };
    kv_model model;
    kv_model_init(&model, &limits);
    return model;
}

static spey_kv_key key_of(int32_t ids[BLOCK * BLOCKS], int32_t from, int64_t n)
{
    for (int32_t i = 0; i < n; i++)
        ids[i] = from + i;
    return (spey_kv_key){ .ids = ids, .n = n };
}

/* A sequence of n tokens from, from + 1, … of which `reused` are there. */
static spey_seq_id run(kv_model *model, int32_t from, int64_t n, int64_t reused)
{
    int32_t ids[BLOCK * BLOCKS];
    const spey_kv_key key = key_of(ids, from, n);
    assert_int_equal(spey_kv_match_length(model->kv, &key), reused);
    spey_seq_id seq = kv_model_open(model, &key);
    int64_t got = model->sequences[seq].n;
    kv_model_check(model, 0, 0);
    assert_true(kv_model_store(model, seq, ids + got, n - got));
    kv_model_check(model, 0, 1);
    return seq;
}

static int64_t found(const kv_model *model, int32_t from)
{
    int32_t ids[BLOCK * BLOCKS];
    const spey_kv_key key = key_of(ids, from, BLOCK * BLOCKS);
    return spey_kv_match_length(model->kv, &key);
}

static void what_is_evicted_comes_back(void **state)
{
    (void)state;
    kv_model model = model_of(10);
    kv_model_close(&model, run(&model, 0, 25, 0));   /* 6 blocks and a part */
    kv_model_close(&model, run(&model, 100, 40, 0)); /* takes all */
    spey_kv_stats stats;
    spey_kv_read_stats(model.kv, &stats);
    assert_int_equal(stats.offloaded_blocks, 6); /* parts are not worth it */
    assert_int_equal(stats.host_used_num_blocks, 6);
    assert_int_equal(stats.host_max_num_blocks, 10);
    assert_int_equal(found(&model, 0), 24);
    kv_model_close(&model, run(&model, 0, 25, 24));
    spey_kv_read_stats(model.kv, &stats);
    assert_int_equal(stats.restored_blocks, 6);
    assert_int_equal(stats.reused_tokens, 24);
    kv_model_deinit(&model);
}

static void the_end_of_the_oldest_is_forgotten_first(void **state)
{
    (void)state;
    kv_model model = model_of(8);
    kv_model_close(&model, run(&model, 0, 20, 0));
    kv_model_close(&model, run(&model, 100, 20, 0));
    kv_model_close(&model, run(&model, 200, 40, 0)); /* 10 go, 8 have room */
    assert_int_equal(found(&model, 0), 12);
    assert_int_equal(found(&model, 100), 20);
    kv_model_check(&model, 0, 2);
    kv_model_deinit(&model);
}

/* Half of the pool is somebody's: what is in host memory does not fit beside it. */
static void what_does_not_fit_stays_there(void **state)
{
    (void)state;
    kv_model model = model_of(20);
    int32_t ids[BLOCK * BLOCKS];
    kv_model_close(&model, run(&model, 0, 36, 0));
    kv_model_close(&model, run(&model, 100, 40, 0));
    run(&model, 200, 20, 0);
    const spey_kv_key key = key_of(ids, 0, 36);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 32);
    spey_seq_id seq = kv_model_open(&model, &key);
    assert_int_equal(model.sequences[seq].n_reused, 0);
    kv_model_check(&model, 0, 3);
    kv_model_close(&model, seq);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 32); /* for another time */
    kv_model_deinit(&model);
}

/* A block that is computed anew, because it was too much to get it back, replaces the one in host memory. */
static void what_is_computed_again_leaves_host_memory(void **state)
{
    (void)state;
    kv_model model = model_of(20);
    kv_model_close(&model, run(&model, 0, 36, 0));
    kv_model_close(&model, run(&model, 100, 40, 0));
    spey_seq_id other = run(&model, 200, 20, 0);
    int32_t ids[BLOCK * BLOCKS];
    const spey_kv_key key = key_of(ids, 0, 36);
    spey_seq_id seq = kv_model_open(&model, &key);
    spey_kv_stats before, after;
    spey_kv_read_stats(model.kv, &before);
    assert_true(kv_model_store(&model, seq, ids, 8));
    spey_kv_read_stats(model.kv, &after);
    assert_int_equal(after.offloaded_blocks - before.offloaded_blocks, 2); /* to have room */
    assert_int_equal(after.host_used_num_blocks, before.host_used_num_blocks);
    kv_model_check(&model, 0, 4);
    kv_model_close(&model, seq);
    kv_model_close(&model, other);
    assert_int_equal(found(&model, 0), 36);
    kv_model_deinit(&model);
}

/* Nobody carries copies out: what would need one more is forgotten, and nothing fails. */
static void a_full_list_of_copies_is_not_a_failure(void **state)
{
    (void)state;
    kv_model model = model_of(40);
    int32_t ids[BLOCK * BLOCKS];
    int64_t n;
    for (int32_t i = 0; i < 20; i++) {
        const spey_kv_key key = key_of(ids, 100 * i, BLOCK * BLOCKS);
        spey_seq_id seq = kv_model_open(&model, &key);
        assert_int_equal(spey_kv_reserve(model.kv, seq, BLOCK * BLOCKS), SPEY_OK);
        spey_kv_advance(model.kv, seq, ids, BLOCK * BLOCKS);
        spey_kv_close(model.kv, seq);
        model.sequences[seq].open = false;
        assert_int_equal(spey_kv_check(model.kv), SPEY_OK);
    }
    spey_kv_copies(model.kv, &n);
    assert_int_equal(n, BLOCKS);
    assert_int_equal(found(&model, 0), 36); /* whole blocks alone */
    assert_int_equal(found(&model, 100), 0);
    kv_model_deinit(&model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_evicted_comes_back),
        cmocka_unit_test(the_end_of_the_oldest_is_forgotten_first),
        cmocka_unit_test(what_does_not_fit_stays_there),
        cmocka_unit_test(what_is_computed_again_leaves_host_memory),
        cmocka_unit_test(a_full_list_of_copies_is_not_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
