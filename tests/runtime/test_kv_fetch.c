#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "kv_model.h"
#include "runtime/kv_file.h"

enum { BLOCK = 4, BLOCKS = 10, LENGTH = BLOCK * BLOCKS };

static char path[64];

static kv_model model_of(int32_t pool, int32_t host, int64_t window)
{
    const spey_kv_limits limits = { .sequences_max = 3,
                                    .sequence_tokens_max = LENGTH,
                                    .step_tokens_max = LENGTH,
                                    .block_tokens = BLOCK,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = pool, .window = window } },
                                    .reuse = true,
                                    .host_blocks = host };
    kv_model model;
    kv_model_init(&model, &limits);
    assert_int_equal(kv_model_open_file(&model, path, 1 << 20, false), SPEY_OK);
    return model;
}

static spey_kv_key key_of(int32_t ids[LENGTH], int32_t from)
{
    for (int32_t i = 0; i < LENGTH; i++)
        ids[i] = from + i;
    return (spey_kv_key){ .ids = ids, .n = LENGTH };
}

/* A sequence of the ids from, from + 1, …: open it, and leave it open. */
static spey_seq_id begin(kv_model *model, int32_t from)
{
    int32_t ids[LENGTH];
    const spey_kv_key key = key_of(ids, from);
    spey_seq_id seq = kv_model_open(model, &key);
    int64_t n = model->sequences[seq].n;
    kv_model_check(model, 0, 0);
    assert_true(kv_model_store(model, seq, ids + n, LENGTH - n));
    kv_model_check(model, 0, 1);
    return seq;
}

/* A file with all blocks of the sequence from 0 on, in the order 9, 8, … 0. */
static void write_file(int64_t window)
{
    kv_model model = model_of(40, 40, window);
    kv_model_close(&model, begin(&model, 0));
    kv_model_write_all(&model);
    kv_model_deinit(&model);
}

static int64_t reused_with(kv_model *model)
{
    int32_t ids[LENGTH];
    const spey_kv_key key = key_of(ids, 0);
    kv_model_fetch(model, &key);
    spey_seq_id seq = begin(model, 0);
    int64_t reused = model->sequences[seq].n_reused;
    kv_model_close(model, seq);
    return reused;
}

static void a_long_prompt_passes_through_little_memory(void **state)
{
    (void)state;
    write_file(0);
    for (int32_t host = 1; host < 4; host++) {
        kv_model model = model_of(10, host, 0);
        assert_int_equal(reused_with(&model), LENGTH - BLOCK);
        kv_model_deinit(&model);
    }
}

static void of_windows_the_last_one_comes(void **state)
{
    (void)state;
    write_file(6);
    kv_model model = model_of(40, 8, 6);
    int64_t reused = reused_with(&model);
    assert_int_equal(reused, LENGTH - BLOCK);
    kv_model_deinit(&model);
}

/* A running sequence has the pool: what comes stays in host memory, as much as half of it holds, and waits there. */
static void what_has_no_room_in_the_pool_waits(void **state)
{
    (void)state;
    int32_t ids[LENGTH];
    const spey_kv_key key = key_of(ids, 0);
    spey_kv_stats stats;
    write_file(0);
    kv_model model = model_of(10, 8, 0);
    spey_seq_id other = begin(&model, 500);
    kv_model_fetch(&model, &key);
    spey_kv_read_stats(model.kv, &stats);
    assert_int_equal(stats.file_loaded_blocks, 4);
    assert_int_equal(stats.host_used_num_blocks, 4);
    assert_int_equal(spey_kv_match_length(model.kv, &key), 4 * BLOCK);
    kv_model_close(&model, other);
    assert_int_equal(reused_with(&model), LENGTH - BLOCK);
    kv_model_deinit(&model);
}

/* The last byte of the block in slot i: 16 bytes behind a head of 256, in slots of 320. */
static void damage_slot(int32_t i)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, 4096 + 320L * i + 256 + 15, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, -1, SEEK_CUR);
    fputc(byte ^ 1, file);
    fclose(file);
}

static void what_hangs_on_a_damaged_block_is_computed(void **state)
{
    (void)state;
    write_file(0);
    damage_slot(6); /* block 3 */
    for (int round = 0; round < 2; round++) {
        kv_model model = model_of(10, 40, 0);
        spey_kv_stats stats;
        assert_int_equal(reused_with(&model), 3 * BLOCK);
        spey_kv_read_stats(model.kv, &stats);
        assert_int_equal(stats.file_discarded_blocks, round == 0);
        kv_model_deinit(&model);
    }
}

/* The request may have gone meanwhile, and all that is kept with it. */
static void what_comes_too_late_is_given_up(void **state)
{
    (void)state;
    int32_t ids[LENGTH];
    const spey_kv_key key = key_of(ids, 0);
    write_file(0);
    kv_model model = model_of(10, 8, 0);
    assert_true(spey_kv_fetch(model.kv, &key));
    spey_kv_file_turn(model.kv, 0); /* asks */
    spey_kv_flush(model.kv);
    assert_false(spey_kv_is_fetching(model.kv));
    kv_model_check(&model, 0, 0);
    assert_int_equal(reused_with(&model), 0);
    kv_model_deinit(&model);
}

static void a_key_that_memory_has_is_not_asked_for(void **state)
{
    (void)state;
    int32_t ids[LENGTH];
    spey_kv_key key = key_of(ids, 0);
    write_file(0);
    kv_model model = model_of(10, 8, 0);
    key.n = BLOCK; /* a token is left to compute: nothing of it can be reused */
    assert_false(spey_kv_file_has_more(model.kv, &key));
    key.n = BLOCK + 1;
    assert_true(spey_kv_file_has_more(model.kv, &key));
    kv_model_fetch(&model, &key);
    assert_false(spey_kv_file_has_more(model.kv, &key));
    assert_false(spey_kv_fetch(model.kv, &key));
    key.n = LENGTH;
    assert_true(spey_kv_file_has_more(model.kv, &key));
    key.salt = 1;
    assert_false(spey_kv_file_has_more(model.kv, &key));
    kv_model_deinit(&model);
}

static int remove_file(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/spey-test-kv-fetch-%d", (int)getpid());
    unlink(path);
    return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, remove_file, remove_file)
    const struct CMUnitTest tests[] = {
        TEST(a_long_prompt_passes_through_little_memory),
        TEST(of_windows_the_last_one_comes),
        TEST(what_has_no_room_in_the_pool_waits),
        TEST(what_hangs_on_a_damaged_block_is_computed),
        TEST(what_comes_too_late_is_given_up),
        TEST(a_key_that_memory_has_is_not_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
