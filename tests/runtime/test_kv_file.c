#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/log.h"
#include "kv_model.h"
#include "runtime/kv_file.h"

enum { BLOCK = 4, BLOCKS = 10, LENGTH = BLOCK * BLOCKS };

static char path[64];

/* One group that keeps all, with another one of a window beside it, or that one alone. */
enum { WHOLE, BOTH, WINDOW };

static kv_model model_of(int32_t pool, int32_t host, int groups)
{
    const spey_kv_limits limits = { .sequences_max = 3,
                                    .sequence_tokens_max = LENGTH,
                                    .step_tokens_max = LENGTH,
                                    .block_tokens = BLOCK,
                                    .n_groups = groups == BOTH ? 2 : 1,
                                    .groups = { { .n_blocks = pool,
                                                  .window = groups == WINDOW ? 6 : 0 },
                                                { .n_blocks = 30, .window = 6 } },
                                    .reuse = true,
                                    .host_blocks = host };
    kv_model model;
    kv_model_init(&model, &limits);
    return model;
}

static void open_file(kv_model *model, bool no_thread)
{
    assert_int_equal(kv_model_open_file(model, path, 1 << 20, no_thread), SPEY_OK);
}

static spey_kv_key key_of(int32_t ids[LENGTH], int32_t from, uint64_t salt)
{
    for (int32_t i = 0; i < LENGTH; i++)
        ids[i] = from + i;
    return (spey_kv_key){ .salt = salt, .ids = ids, .n = LENGTH };
}

/* A sequence of all ids from, from + 1, …, which begins with what comes from the file; returns what was reused. */
static int64_t run(kv_model *model, int32_t from, uint64_t salt)
{
    int32_t ids[LENGTH];
    const spey_kv_key key = key_of(ids, from, salt);
    kv_model_fetch(model, &key);
    spey_seq_id seq = kv_model_open(model, &key);
    int64_t reused = model->sequences[seq].n;
    kv_model_check(model, 0, 1);
    assert_true(kv_model_store(model, seq, ids + reused, LENGTH - reused));
    kv_model_check(model, 0, 2);
    kv_model_close(model, seq);
    return reused;
}

static spey_kv_stats stats_of(const kv_model *model)
{
    spey_kv_stats stats;
    spey_kv_read_stats(model->kv, &stats);
    return stats;
}

static void what_leaves_memory_comes_back_from_the_file(void **state)
{
    (void)state;
    for (int groups = WHOLE; groups <= BOTH; groups++) {
        kv_model model = model_of(12, 16, groups);
        open_file(&model, false);
        for (int32_t i = 0; i < 8; i++) {
            assert_int_equal(run(&model, 1000 * i, 0), 0);
            kv_model_settle(&model);
        }
        spey_kv_stats stats = stats_of(&model);
        assert_true(stats.file_stored_blocks >= 60);
        assert_int_equal(stats.file_used_num_blocks, stats.file_stored_blocks);
        for (int32_t i = 0; i < 6; i++) { /* all but its last block, whose last token is computed */
            assert_int_equal(run(&model, 1000 * i, 0), LENGTH - BLOCK);
            kv_model_settle(&model);
        }
        stats = stats_of(&model);
        assert_true(stats.file_loaded_blocks >= 50);
        assert_int_equal(stats.file_discarded_blocks, 0);
        assert_int_equal(run(&model, 0, 9), 0); /* another tenant */
        kv_model_deinit(&model);
        unlink(path);
    }
}

static void another_cache_begins_with_it(void **state)
{
    (void)state;
    for (int groups = WHOLE; groups <= BOTH; groups++) {
        kv_model before = model_of(40, 4, groups), after = model_of(40, 4, groups);
        open_file(&before, false);
        for (int32_t i = 0; i < 3; i++)
            run(&before, 1000 * i, (uint64_t)i);
        kv_model_settle(&before);
        assert_int_equal(stats_of(&before).file_stored_blocks, 0); /* memory has them */
        kv_model_write_all(&before);
        assert_int_equal(stats_of(&before).file_stored_blocks, 3 * BLOCKS);
        kv_model_deinit(&before);
        open_file(&after, false);
        assert_int_equal(stats_of(&after).file_used_num_blocks, 3 * BLOCKS);
        for (int32_t i = 0; i < 3; i++) {
            assert_int_equal(run(&after, 1000 * i, (uint64_t)i), LENGTH - BLOCK);
            assert_int_equal(run(&after, 1000 * i, 7), 0);
        }
        kv_model_deinit(&after);
        unlink(path);
    }
}

/* The thread is slow: what it has to write must not be written over by what comes next. */
static void blocks_wait_for_the_thread_unchanged(void **state)
{
    (void)state;
    kv_model model = model_of(10, 6, WHOLE);
    open_file(&model, true);
    for (int32_t i = 0; i < 6; i++) {
        run(&model, 1000 * i, 0);
        kv_model_carry_out(&model);
        spey_kv_file_turn(model.kv, 0);
        kv_model_check(&model, 0, i);
    }
    assert_int_equal(stats_of(&model).file_stored_blocks, 0);
    while (spey_kv_file_work(model.kv))
        ;
    kv_model_settle(&model);
    int64_t stored = stats_of(&model).file_stored_blocks;
    assert_true(stored > 0);
    spey_kv_flush(model.kv); /* forgets the file's, too */
    assert_int_equal(stats_of(&model).file_used_num_blocks, 0);
    for (int32_t i = 0; i < 6; i++)
        assert_int_equal(run(&model, 1000 * i, 0), 0);
    kv_model_deinit(&model);
}

/* It leaves host memory before the thread has come to it, and its place there is free for others. */
static void what_goes_back_meanwhile_is_written_as_it_was(void **state)
{
    (void)state;
    kv_model before = model_of(10, 40, WHOLE), after = model_of(10, 40, WHOLE);
    open_file(&before, true);
    run(&before, 0, 0);
    run(&before, 500, 0); /* pushes the first out */
    spey_kv_file_turn(before.kv, 0);
    assert_int_equal(run(&before, 0, 0), LENGTH - BLOCK); /* and is pushed out, into its place */
    while (spey_kv_file_work(before.kv))
        ;
    spey_kv_file_turn(before.kv, 0);
    assert_int_equal(stats_of(&before).file_stored_blocks, BLOCKS);
    kv_model_deinit(&before);
    open_file(&after, false);
    assert_int_equal(run(&after, 0, 0), LENGTH - BLOCK);
    kv_model_deinit(&after);
}

static void a_full_disk_ends_the_tier_not_the_cache(void **state)
{
    (void)state;
    struct rlimit before, small;
    kv_model model = model_of(10, 6, WHOLE);
    open_file(&model, false);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){ .rlim_cur = 8000, .rlim_max = before.rlim_max };
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    spey_log_set_level(SPEY_LOG_QUIET);
    for (int32_t i = 0; i < 6; i++) {
        run(&model, 1000 * i, 0);
        kv_model_settle(&model);
    }
    int64_t stored = stats_of(&model).file_stored_blocks;
    for (int32_t i = 0; i < 6; i++)
        run(&model, 1000 * i, 0);
    kv_model_settle(&model);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    spey_log_set_level(SPEY_LOG_INFO);
    assert_in_range(stored, 1, 12);
    assert_int_equal(stats_of(&model).file_stored_blocks, stored);
    assert_int_equal(stats_of(&model).file_loaded_blocks, 0);
    kv_model_deinit(&model);
    model = model_of(10, 6, WHOLE);
    open_file(&model, false); /* what was written before is there */
    assert_int_equal(stats_of(&model).file_used_num_blocks, stored);
    kv_model_deinit(&model);
}

static void fetch_something(kv_model *model, spey_rng *rng)
{
    const kv_model_sequence *past = &model->past[spey_rng_below(rng, KV_MODEL_PAST)];
    const spey_kv_key key = { .salt = spey_rng_below(rng, 2), .ids = past->ids, .n = past->n };
    if (!spey_kv_is_fetching(model->kv)) spey_kv_fetch(model->kv, &key);
}

/* All moves of the cache beside a thread; every sequence has what it should at any time. */
static void no_move_is_wrong_beside_a_file(void **state)
{
    (void)state;
    int64_t stored = 0, loaded = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        kv_model model = model_of(6 + (int32_t)seed % 8, 1 + (int32_t)seed % 7, (int)(seed % 3));
        spey_rng rng = { .seed = seed };
        assert_int_equal(kv_model_open_file(&model, path, seed % 4 ? 1 << 20 : 6000, seed % 5 == 0),
                         SPEY_OK);
        for (int move = 0; move < 400; move++) {
            kv_model_move(&model, &rng);
            if (!spey_rng_below(&rng, 4)) fetch_something(&model, &rng);
            if (!spey_rng_below(&rng, 3)) spey_kv_file_wait(model.kv);
            kv_model_carry_out(&model);
            spey_kv_file_turn(model.kv, 0);
            kv_model_check(&model, seed, move);
        }
        stored += stats_of(&model).file_stored_blocks;
        loaded += stats_of(&model).file_loaded_blocks;
        assert_int_equal(stats_of(&model).file_discarded_blocks, 0);
        kv_model_deinit(&model);
        unlink(path);
    }
    assert_true(stored > 500);
    assert_true(loaded > 50);
}

static void turns_allocate_nothing(void **state)
{
    (void)state;
    kv_model model = model_of(10, 6, WHOLE);
    open_file(&model, false);
    spey_alloc_seal(true);
    for (int32_t i = 0; i < 8; i++) {
        run(&model, 1000 * (i % 4), 0);
        kv_model_settle(&model);
    }
    spey_alloc_seal(false);
    assert_true(stats_of(&model).file_loaded_blocks > 0);
    kv_model_deinit(&model);
}

static void without_memory_there_is_no_file(void **state)
{
    (void)state;
    kv_model model = model_of(10, 6, WHOLE);
    for (uint64_t i = 1;; i++) {
        spey_alloc_fail_nth(i);
        spey_status status = kv_model_open_file(&model, path, 1 << 16, false);
        spey_alloc_fail_nth(0);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
        assert_false(spey_kv_has_file(model.kv));
    }
    run(&model, 0, 0);
    kv_model_deinit(&model);
}

static int remove_file(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/spey-test-kv-file-%d", (int)getpid());
    unlink(path);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, remove_file, remove_file)
    const struct CMUnitTest tests[] = {
        TEST(what_leaves_memory_comes_back_from_the_file),
        TEST(another_cache_begins_with_it),
        TEST(blocks_wait_for_the_thread_unchanged),
        TEST(what_goes_back_meanwhile_is_written_as_it_was),
        TEST(a_full_disk_ends_the_tier_not_the_cache),
        TEST(no_move_is_wrong_beside_a_file),
        TEST(turns_allocate_nothing),
        TEST(without_memory_there_is_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
