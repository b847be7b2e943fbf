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
#include "runtime/kv_cache.h"

static spey_kv_cache *cache(int32_t sequences, int64_t tokens, int32_t block, int32_t blocks)
{
    const spey_kv_limits limits = { .sequences_max = sequences,
                                    .sequence_tokens_max = tokens,
                                    .block_tokens = block,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = blocks } } };
    spey_kv_cache *kv;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    return kv;
}

static void slots_are_given_out_once(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache(2, 100, 10, 20);
    spey_seq_id a, b, c;
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &b), SPEY_OK);
    assert_int_not_equal(a, b);
    assert_int_equal(spey_kv_open(kv, &c), SPEY_LIMIT);
    spey_kv_close(kv, a);
    assert_false(spey_kv_is_open(kv, a));
    assert_int_equal(spey_kv_open(kv, &c), SPEY_OK);
    assert_int_equal(c, a);
    assert_false(spey_kv_is_open(kv, -1));
    assert_false(spey_kv_is_open(kv, 2));
    spey_kv_cache_free(kv);
}

static void blocks_follow_the_number_of_tokens(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache(1, 100, 10, 10);
    spey_seq_id a;
    int64_t n;
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    static const struct {
        int64_t tokens, blocks;
    } cases[] = { { 1, 1 }, { 10, 1 }, { 11, 2 }, { 100, 10 } };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t more = cases[i].tokens - spey_kv_length(kv, a);
        assert_int_equal(spey_kv_reserve(kv, a, cases[i].tokens), SPEY_OK);
        spey_kv_advance(kv, a, NULL, more);
        spey_kv_blocks(kv, 0, a, &n);
        assert_int_equal(n, cases[i].blocks);
        assert_int_equal(spey_kv_free_blocks(kv), 10 - cases[i].blocks);
        assert_int_equal(spey_kv_check(kv), SPEY_OK);
    }
    spey_kv_truncate(kv, a, 20);
    spey_kv_blocks(kv, 0, a, &n);
    assert_int_equal(n, 2);
    spey_kv_truncate(kv, a, 0);
    assert_int_equal(spey_kv_free_blocks(kv), 10);
    spey_kv_close(kv, a);
    spey_kv_cache_free(kv);
}

static void a_state_is_one_block_of_a_sequence(void **state)
{
    (void)state;
    const spey_kv_limits limits = { .sequences_max = 2,
                                    .sequence_tokens_max = 100,
                                    .block_tokens = 10,
                                    .n_groups = 2,
                                    .groups = { { .n_blocks = 12 },
                                                { .kind = SPEY_KV_STATE, .n_blocks = 2 } } };
    spey_kv_cache *kv;
    spey_seq_id a, b;
    int64_t n;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &b), SPEY_OK);
    spey_kv_blocks(kv, 1, a, &n);
    assert_int_equal(n, 0);
    assert_int_equal(spey_kv_reserve(kv, a, 5), SPEY_OK);
    spey_kv_advance(kv, a, NULL, 5);
    assert_int_equal(spey_kv_reserve(kv, a, 95), SPEY_OK);
    spey_kv_advance(kv, a, NULL, 90);
    const int32_t block = spey_kv_blocks(kv, 1, a, &n)[0];
    assert_int_equal(n, 1);
    assert_int_equal(spey_kv_blocks_for(kv, 0, 95), 10);
    assert_int_equal(spey_kv_blocks_for(kv, 1, 95), 1);
    assert_int_equal(spey_kv_free_blocks(kv), 2); /* of K and V */
    assert_int_equal(spey_kv_reserve(kv, b, 20), SPEY_OK);
    assert_int_not_equal(spey_kv_blocks(kv, 1, b, &n)[0], block);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);

    assert_int_equal(spey_kv_truncate(kv, a, 94), SPEY_UNSUPPORTED);
    assert_int_equal(spey_kv_length(kv, a), 95);
    assert_int_equal(spey_kv_truncate(kv, a, 95), SPEY_OK);
    assert_int_equal(spey_kv_truncate(kv, a, 0), SPEY_OK);
    spey_kv_blocks(kv, 1, a, &n);
    assert_int_equal(n, 0);
    assert_int_equal(spey_kv_free_blocks(kv), 10);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_cache_free(kv);
}

static void a_refused_reservation_changes_nothing(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache(2, 60, 10, 8);
    spey_seq_id a, b;
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &b), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, a, 55), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, a, 61), SPEY_LIMIT); /* beyond the sequence */
    assert_int_equal(spey_kv_missing_blocks(kv, b, 35), 4);
    assert_int_equal(spey_kv_reserve(kv, b, 35), SPEY_LIMIT); /* beyond the pool */
    assert_non_null(strstr(spey_last_error(), "2 are missing"));
    assert_int_equal(spey_kv_free_blocks(kv), 2);
    assert_int_equal(spey_kv_reserve(kv, b, 20), SPEY_OK);
    assert_int_equal(spey_kv_missing_blocks(kv, b, 15), 0);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_cache_free(kv);
}

static void groups_have_pools_of_their_own(void **state)
{
    (void)state;
    const spey_kv_limits limits = { .sequences_max = 2,
                                    .sequence_tokens_max = 16,
                                    .block_tokens = 4,
                                    .n_groups = 2,
                                    .groups = { { .n_blocks = 8 }, { .n_blocks = 5 } } };
    spey_kv_cache *kv;
    spey_seq_id a, b;
    int64_t n;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &b), SPEY_OK);
    assert_int_equal(spey_kv_free_blocks(kv), 5);
    assert_int_equal(spey_kv_reserve(kv, a, 13), SPEY_OK);
    assert_int_equal(spey_kv_free_blocks(kv), 1);
    assert_int_equal(spey_kv_reserve(kv, b, 8), SPEY_LIMIT);
    assert_int_equal(spey_kv_reserve(kv, b, 4), SPEY_OK);
    for (int g = 0; g < 2; g++) {
        spey_kv_blocks(kv, g, a, &n);
        assert_int_equal(n, 4);
    }
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_cache_free(kv);
}

static void a_window_group_holds_no_more_than_its_window(void **state)
{
    (void)state;
    spey_kv_limits limits = { .sequences_max = 2,
                              .sequence_tokens_max = 1000,
                              .step_tokens_max = 30,
                              .rollback_tokens = 3,
                              .block_tokens = 4,
                              .n_groups = 2,
                              .groups = { { .n_blocks = 500 }, { .window = 10 } } };
    limits.groups[1].n_blocks = (int32_t)spey_kv_window_blocks(&limits, 10, 2);
    assert_int_equal(limits.groups[1].n_blocks, 2 * (4 + 2) + 8);
    spey_kv_cache *kv;
    spey_seq_id seqs[2];
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    spey_rng rng = { .seed = 3 };
    for (int s = 0; s < 2; s++)
        assert_int_equal(spey_kv_open(kv, &seqs[s]), SPEY_OK);
    /* Steps of any cut fit, as long as the sequences may be. */
    while (spey_kv_length(kv, seqs[0]) + spey_kv_length(kv, seqs[1]) < 2000) {
        int64_t left = 30, n[2];
        for (int s = 0; s < 2; s++) {
            int64_t length = spey_kv_length(kv, seqs[s]);
            n[s] = (int64_t)spey_rng_below(&rng, (uint64_t)left + 1);
            if (n[s] > 1000 - length) n[s] = 1000 - length;
            assert_int_equal(spey_kv_reserve(kv, seqs[s], length + n[s]), SPEY_OK);
            left -= n[s];
        }
        for (int s = 0; s < 2; s++) {
            int64_t end;
            spey_kv_advance(kv, seqs[s], NULL, n[s]);
            spey_kv_blocks(kv, 1, seqs[s], &end);
            assert_true(end - spey_kv_first_block(kv, 1, seqs[s]) <= 5);
        }
        assert_int_equal(spey_kv_check(kv), SPEY_OK);
    }
    /* It goes back as far as was promised, no further, or to nothing. */
    assert_int_equal(spey_kv_truncate(kv, seqs[0], 997), SPEY_OK);
    assert_int_equal(spey_kv_truncate(kv, seqs[0], 500), SPEY_UNSUPPORTED);
    assert_int_equal(spey_kv_length(kv, seqs[0]), 997);
    assert_int_equal(spey_kv_truncate(kv, seqs[0], 0), SPEY_OK);
    assert_int_equal(spey_kv_first_block(kv, 1, seqs[0]), 0);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_cache_free(kv);
}

static void a_fork_shares_until_one_of_them_writes(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache(3, 60, 10, 8);
    spey_seq_id a, b;
    int64_t n, copies;
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, a, 45), SPEY_OK);
    spey_kv_advance(kv, a, NULL, 25);
    assert_int_equal(spey_kv_fork(kv, a, &b), SPEY_OK);
    assert_int_equal(spey_kv_length(kv, b), 25);
    assert_int_equal(spey_kv_free_blocks(kv), 3); /* what a has reserved is its own */
    const int32_t *of_a = spey_kv_blocks(kv, 0, a, &n), *of_b = spey_kv_blocks(kv, 0, b, &n);
    assert_int_equal(n, 3);
    assert_memory_equal(of_a, of_b, 3 * sizeof(*of_a));
    const int32_t shared = of_a[2];

    assert_int_equal(spey_kv_missing_blocks(kv, b, 25), 0);
    assert_int_equal(spey_kv_missing_blocks(kv, b, 26), 1);
    assert_int_equal(spey_kv_missing_blocks(kv, b, 31), 2);
    assert_int_equal(spey_kv_reserve(kv, b, 25), SPEY_OK); /* nothing will be written */
    spey_kv_copies(kv, &copies);
    assert_int_equal(copies, 0);
    assert_int_equal(spey_kv_reserve(kv, b, 31), SPEY_OK);
    const spey_kv_copy *copy = spey_kv_copies(kv, &copies);
    assert_int_equal(copies, 1);
    assert_int_equal(copy->src, shared);
    assert_int_equal(copy->dst, of_b[2]);
    assert_int_equal(of_a[2], shared);
    assert_int_not_equal(of_b[2], shared);
    assert_int_equal(of_b[1], of_a[1]);
    spey_kv_copies_done(kv);
    assert_int_equal(spey_kv_reserve(kv, a, 26), SPEY_OK); /* alone again: no copy */
    spey_kv_copies(kv, &copies);
    assert_int_equal(copies, 0);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_close(kv, a);
    assert_int_equal(spey_kv_free_blocks(kv), 4);
    spey_kv_close(kv, b);
    assert_int_equal(spey_kv_free_blocks(kv), 8);
    spey_kv_cache_free(kv);
}

static void a_fork_without_a_slot_changes_nothing(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache(1, 60, 10, 8);
    spey_seq_id a, b;
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, a, 5), SPEY_OK);
    spey_kv_advance(kv, a, NULL, 5);
    assert_int_equal(spey_kv_fork(kv, a, &b), SPEY_LIMIT);
    assert_int_equal(spey_kv_missing_blocks(kv, a, 6), 0);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_cache_free(kv);
}

static void an_encoders_blocks_are_a_groups_of_their_own(void **state)
{
    (void)state;
    const spey_kv_limits limits = { .sequences_max = 2,
                                    .sequence_tokens_max = 100,
                                    .cross_tokens_max = 45,
                                    .block_tokens = 10,
                                    .n_groups = 2,
                                    .groups = { { .n_blocks = 12 },
                                                { .kind = SPEY_KV_CROSS, .n_blocks = 6 } } };
    spey_kv_cache *kv;
    spey_seq_id a, b;
    int64_t n;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_reserve_cross(kv, a, 46), SPEY_LIMIT);
    assert_int_equal(spey_kv_reserve_cross(kv, a, 31), SPEY_OK);
    assert_int_equal(spey_kv_cross_length(kv, a), 31);
    assert_int_equal(spey_kv_reserve(kv, a, 55), SPEY_OK);
    spey_kv_advance(kv, a, NULL, 55);
    spey_kv_blocks(kv, 1, a, &n);
    assert_int_equal(n, 4);
    assert_int_equal(spey_kv_free_blocks(kv), 6);
    assert_int_equal(spey_kv_fork(kv, a, &b), SPEY_OK);
    assert_int_equal(spey_kv_cross_length(kv, b), 31);
    assert_int_equal(spey_kv_group_free_blocks(kv, 1), 2); /* shared */
    assert_int_equal(spey_kv_truncate(kv, a, 0), SPEY_OK);
    assert_int_equal(spey_kv_cross_length(kv, a), 31);
    spey_kv_close(kv, a);
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_reserve_cross(kv, a, 21), SPEY_LIMIT);
    assert_int_equal(spey_kv_cross_length(kv, a), 0);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_close(kv, b);
    assert_int_equal(spey_kv_group_free_blocks(kv, 1), 6);
    spey_kv_cache_free(kv);
}

/* Pools that fill up, of one group and of all kinds together; with and without reuse. */
static const spey_kv_limits shapes[] = {
    { .sequences_max = 7,
      .sequence_tokens_max = 90,
      .block_tokens = 7,
      .n_groups = 1,
      .groups = { { .n_blocks = 40 } } },
    { .sequences_max = 5,
      .sequence_tokens_max = 128,
      .rollback_tokens = 2,
      .block_tokens = 4,
      .n_groups = 2,
      .groups = { { .n_blocks = 60 }, { .n_blocks = 24, .window = 9 } } },
    { .sequences_max = 16,
      .sequence_tokens_max = 50,
      .cross_tokens_max = 9,
      .block_tokens = 1,
      .n_groups = 4,
      .groups = { { .n_blocks = 200 },
                  { .kind = SPEY_KV_CROSS, .n_blocks = 70 },
                  { .n_blocks = 200, .window = 1 },
                  { .kind = SPEY_KV_STATE, .n_blocks = 16 } } },
    { .sequences_max = 6,
      .sequence_tokens_max = 90,
      .block_tokens = 7,
      .n_groups = 1,
      .groups = { { .n_blocks = 50 } },
      .reuse = true },
    { .sequences_max = 5,
      .sequence_tokens_max = 128,
      .rollback_tokens = 2,
      .block_tokens = 4,
      .n_groups = 3,
      .groups = { { .n_blocks = 70 }, { .n_blocks = 30, .window = 9 }, { .n_blocks = 65 } },
      .reuse = true },
    { .sequences_max = 5,
      .sequence_tokens_max = 60,
      .rollback_tokens = 1,
      .block_tokens = 3,
      .n_groups = 2,
      .groups = { { .n_blocks = 30, .window = 2 }, { .n_blocks = 25, .window = 6 } },
      .reuse = true },
    { .sequences_max = 8,
      .sequence_tokens_max = 40,
      .block_tokens = 1,
      .n_groups = 1,
      .groups = { { .n_blocks = 120 } },
      .reuse = true },
    { .sequences_max = 6,
      .sequence_tokens_max = 60,
      .rollback_tokens = 1,
      .block_tokens = 2,
      .n_groups = 2,
      .groups = { { .n_blocks = 40, .window = 1 }, { .n_blocks = 31, .window = 2 } },
      .reuse = true,
      .host_blocks = 9 },
    { .sequences_max = 4,
      .sequence_tokens_max = 60,
      .block_tokens = 4,
      .n_groups = 1,
      .groups = { { .n_blocks = 35 } },
      .reuse = true,
      .host_blocks = 50,
      .events_max = 5 },
    { .sequences_max = 5,
      .sequence_tokens_max = 100,
      .rollback_tokens = 2,
      .block_tokens = 3,
      .n_groups = 3,
      .groups = { { .n_blocks = 30, .window = 9 }, { .n_blocks = 60 }, { .n_blocks = 62 } },
      .reuse = true,
      .host_blocks = 20 },
};

static void blocks_hold_their_sequences_under_random_moves(void **state)
{
    (void)state;
    uint64_t n_copied = 0, n_refused = 0;
    int64_t n_offloaded = 0, n_restored = 0;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        spey_rng rng = { .seed = seed };
        kv_model model;
        kv_model_init(&model, &shapes[seed % (sizeof(shapes) / sizeof(shapes[0]))]);
        spey_alloc_seal(true);
        for (int i = 0; i < 4000; i++) {
            kv_model_move(&model, &rng);
            kv_model_check(&model, seed, i);
        }
        spey_alloc_seal(false);
        n_copied += model.n_copied;
        n_refused += model.n_refused;
        kv_model_deinit(&model);
        n_offloaded += model.n_offloaded;
        n_restored += model.n_restored;
    }
    assert_true(n_offloaded > 1000);
    assert_true(n_restored > 1000);
    assert_true(n_copied > 1000);
    assert_true(n_refused > 1000);
}

static void new_fails_cleanly_without_memory(void **state)
{
    (void)state;
    const spey_kv_limits limits = { .sequences_max = 2,
                                    .sequence_tokens_max = 16,
                                    .block_tokens = 4,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = 8 } } };
    uint64_t before = spey_alloc_read_stats().n_live;
    for (uint64_t n = 1; n <= 2; n++) {
        spey_kv_cache *kv;
        spey_alloc_fail_nth(n);
        assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_NOMEM);
        assert_null(kv);
        assert_int_equal(spey_alloc_read_stats().n_live, before);
    }
    spey_alloc_fail_nth(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slots_are_given_out_once),
        cmocka_unit_test(blocks_follow_the_number_of_tokens),
        cmocka_unit_test(a_state_is_one_block_of_a_sequence),
        cmocka_unit_test(a_refused_reservation_changes_nothing),
        cmocka_unit_test(groups_have_pools_of_their_own),
        cmocka_unit_test(a_window_group_holds_no_more_than_its_window),
        cmocka_unit_test(a_fork_shares_until_one_of_them_writes),
        cmocka_unit_test(a_fork_without_a_slot_changes_nothing),
        cmocka_unit_test(an_encoders_blocks_are_a_groups_of_their_own),
        cmocka_unit_test(blocks_hold_their_sequences_under_random_moves),
        cmocka_unit_test(new_fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
