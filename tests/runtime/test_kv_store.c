#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "kv_model.h"
#include "runtime/kv_store.h"

enum { BLOCK = 4, SEQS = 5, LENGTH = 30 };

static char path[64];

static spey_status read_block(void *user, int g, spey_kv_tier tier, int32_t block, void *bytes)
{
    const kv_model *model = user;
    if (tier == SPEY_KV_TIER_HOST) block += model->limits.groups[g].n_blocks;
    memcpy(bytes, model->memory[g] + block * BLOCK, BLOCK * sizeof(int32_t));
    return SPEY_OK;
}

static spey_status write_block(void *user, int g, int32_t block, const void *bytes)
{
    const kv_model *model = user;
    memcpy(model->memory[g] + block * BLOCK, bytes, BLOCK * sizeof(int32_t));
    return SPEY_OK;
}

static spey_kv_store store_of(kv_model *model, uint64_t identity)
{
    spey_kv_store store = {
        .path = path, .identity = identity, .user = model, .read = read_block, .write = write_block
    };
    for (int g = 0; g < model->limits.n_groups; g++)
        store.block_bytes[g] = BLOCK * sizeof(int32_t);
    return store;
}

static kv_model model_of(bool windows, int32_t host_blocks)
{
    spey_kv_limits limits = { .sequences_max = 4,
                              .sequence_tokens_max = LENGTH,
                              .block_tokens = BLOCK,
                              .n_groups = windows ? 2 : 1,
                              .groups = { { .n_blocks = host_blocks ? 12 : 60 },
                                          { .n_blocks = 20, .window = 6 } },
                              .reuse = true,
                              .host_blocks = host_blocks };
    kv_model model;
    kv_model_init(&model, &limits);
    return model;
}

/* Sequence s: half of it is common to all, in the second half of them under another salt. */
static spey_kv_key key_of(int32_t ids[LENGTH], int s)
{
    for (int i = 0; i < LENGTH; i++)
        ids[i] = i < 14 ? i : 100 * (s + 1) + i;
    return (spey_kv_key){ .salt = s > 2, .ids = ids, .n = LENGTH };
}

static void run_all(kv_model *model)
{
    for (int s = 0; s < SEQS; s++) {
        int32_t ids[LENGTH];
        const spey_kv_key key = key_of(ids, s);
        spey_seq_id seq = kv_model_open(model, &key);
        int64_t n = model->sequences[seq].n;
        assert_true(kv_model_store(model, seq, ids + n, LENGTH - n));
        kv_model_check(model, 0, s);
        kv_model_close(model, seq);
    }
}

/* What is found of all sequences; matching them proves that it is theirs. */
static int64_t find_all(kv_model *model)
{
    int64_t n = 0;
    for (int s = 0; s < SEQS; s++) {
        int32_t ids[LENGTH];
        const spey_kv_key key = key_of(ids, s);
        spey_seq_id seq = kv_model_open(model, &key);
        n += model->sequences[seq].n;
        kv_model_check(model, 0, s);
        assert_true(kv_model_store(model, seq, ids + model->sequences[seq].n,
                                   LENGTH - model->sequences[seq].n));
        kv_model_check(model, 0, s);
        spey_kv_close(model->kv, seq);
        model->sequences[seq].open = false;
    }
    return n;
}

static int64_t save(kv_model *model, uint64_t identity)
{
    const spey_kv_store store = store_of(model, identity);
    int64_t n;
    assert_int_equal(spey_kv_store_save(&store, model->kv, &n), SPEY_OK);
    return n;
}

static int64_t load(kv_model *model, uint64_t identity)
{
    const spey_kv_store store = store_of(model, identity);
    int64_t n;
    assert_int_equal(spey_kv_store_load(&store, model->kv, &n), SPEY_OK);
    kv_model_check(model, 0, 0);
    return n;
}

static void what_was_kept_is_there_after_a_restart(void **state)
{
    (void)state;
    for (int kind = 0; kind < 3; kind++) {
        kv_model before = model_of(kind == 1, kind == 2 ? 40 : 0);
        run_all(&before);
        int64_t n = save(&before, 7);
        assert_int_equal(n, 3 + 3 + 5 * 4); /* LENGTH / BLOCK whole blocks, 3 of them common */
        kv_model_deinit(&before);
        kv_model after = model_of(kind == 1, 0);
        assert_int_equal(load(&after, 7), n);
        assert_int_equal(spey_kv_free_blocks(after.kv), kind == 1 ? 20 : 60);
        if (kind != 1) assert_true(find_all(&after) >= 5 * 7 * BLOCK);
        if (kind == 1) assert_true(find_all(&after) > 0);
        kv_model_deinit(&after);
    }
}

static void as_much_as_has_room_is_read(void **state)
{
    (void)state;
    kv_model before = model_of(false, 0), after = model_of(false, 1); /* 12 blocks */
    run_all(&before);
    int64_t n = save(&before, 7);
    assert_int_equal(n, 26);
    assert_int_equal(load(&after, 7), 12);
    assert_int_equal(load(&after, 7), 12); /* they are there: nothing is there twice */
    assert_true(find_all(&after) > 0);
    kv_model_deinit(&before);
    kv_model_deinit(&after);
}

static void a_file_of_something_else_is_left_alone(void **state)
{
    (void)state;
    kv_model before = model_of(false, 0), after = model_of(false, 0), other = model_of(true, 0);
    run_all(&before);
    save(&before, 7);
    assert_int_equal(load(&after, 8), 0);
    assert_int_equal(load(&other, 7), 0); /* other groups */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(load(&after, 7), 0);
    kv_model_deinit(&before);
    kv_model_deinit(&after);
    kv_model_deinit(&other);
}

static void write_file(const char *data, size_t n)
{
    spey_file_writer *writer;
    assert_int_equal(spey_file_writer_open(path, &writer), SPEY_OK);
    assert_int_equal(spey_file_writer_append(writer, data, n), SPEY_OK);
    assert_int_equal(spey_file_writer_commit(writer), SPEY_OK);
}

/* As a crash, a full disk or a bad one leave it: cut and changed anywhere. What is found is right. */
static void a_damaged_file_is_never_wrong(void **state)
{
    (void)state;
    for (int windows = 0; windows < 2; windows++) {
        kv_model before = model_of(windows, 0);
        spey_strbuf whole = { 0 };
        spey_rng rng = { .seed = 11 };
        int n_lost = 0, n_kept = 0;
        run_all(&before);
        int64_t n = save(&before, 7);
        assert_int_equal(spey_file_read(path, 1 << 20, &whole), SPEY_OK);
        char *copy = malloc(whole.len);
        assert_non_null(copy);
        for (int i = 0; i < 150; i++) {
            size_t len = whole.len;
            memcpy(copy, whole.data, len);
            if (i % 3 == 0) len = (size_t)spey_rng_below(&rng, len + 1);
            for (int k = 0; i % 3 && len && k < 1 + i % 4; k++)
                copy[spey_rng_below(&rng, len)] ^= (char)(1 + spey_rng_below(&rng, 255));
            write_file(copy, len);
            kv_model after = model_of(windows, 0);
            int64_t found = load(&after, 7);
            n_lost += found < n;
            n_kept += found > 0;
            find_all(&after);
            kv_model_deinit(&after);
        }
        assert_true(n_lost > 100);
        assert_true(n_kept > 100);
        free(copy);
        spey_strbuf_deinit(&whole);
        kv_model_deinit(&before);
    }
}

static void without_memory_nothing_is_lost(void **state)
{
    (void)state;
    kv_model model = model_of(true, 0);
    int64_t n;
    run_all(&model);
    assert_int_equal(save(&model, 7), 26);
    const spey_kv_store store = store_of(&model, 7);
    for (uint64_t i = 1;; i++) {
        spey_alloc_fail_nth(i);
        spey_status status = spey_kv_store_save(&store, model.kv, &n);
        spey_alloc_fail_nth(0);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
        assert_int_equal(n, 0);
        kv_model after = model_of(true, 0);
        assert_int_equal(load(&after, 7), 26); /* the file of before */
        kv_model_deinit(&after);
    }
    kv_model after = model_of(true, 0);
    const spey_kv_store other = store_of(&after, 7);
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_kv_store_load(&other, after.kv, &n), SPEY_NOMEM);
    spey_alloc_fail_nth(0);
    kv_model_check(&after, 0, 0);
    kv_model_deinit(&after);
    kv_model_deinit(&model);
}

static int name_file(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/spey-test-kv-store-%d", (int)getpid());
    return 0;
}

static int remove_file(void **state)
{
    (void)state;
    unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_kept_is_there_after_a_restart),
        cmocka_unit_test(as_much_as_has_room_is_read),
        cmocka_unit_test(a_file_of_something_else_is_left_alone),
        cmocka_unit_test(a_damaged_file_is_never_wrong),
        cmocka_unit_test(without_memory_nothing_is_lost),
    };
    return cmocka_run_group_tests(tests, name_file, remove_file);
}
