#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "runtime/kv_tree.h"

enum { BLOCK = 2, BLOCKS = 12 };

static spey_kv_cache *cache(void)
{
    const spey_kv_limits limits = { .sequences_max = 4,
                                    .sequence_tokens_max = BLOCKS * BLOCK,
                                    .block_tokens = BLOCK,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = BLOCKS } },
                                    .reuse = true };
    spey_kv_cache *kv;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    return kv;
}

/* n tokens: first, first + 1, … */
static spey_kv_key key_of(int32_t ids[BLOCKS * BLOCK], int32_t first, int64_t n)
{
    for (int32_t i = 0; i < n; i++)
        ids[i] = first + i;
    return (spey_kv_key){ .ids = ids, .n = n };
}

static spey_seq_id begin(spey_kv_cache *kv, const spey_kv_key *key, int64_t *reused)
{
    spey_seq_id seq;
    assert_int_equal(spey_kv_open(kv, &seq), SPEY_OK);
    assert_int_equal(spey_kv_match(kv, seq, key, reused), SPEY_OK);
    return seq;
}

static void finish(spey_kv_cache *kv, spey_seq_id seq, const spey_kv_key *key, int64_t reused)
{
    assert_int_equal(spey_kv_reserve(kv, seq, key->n), SPEY_OK);
    spey_kv_copies_done(kv);
    spey_kv_advance(kv, seq, key->ids + reused, key->n - reused);
    spey_kv_close(kv, seq);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
}

/* A sequence of n tokens comes and goes; priority -1: as it is without being told. */
static void leave(spey_kv_cache *kv, int32_t first, int64_t n, int priority, uint64_t until_ns)
{
    int32_t ids[BLOCKS * BLOCK];
    int64_t reused;
    const spey_kv_key key = key_of(ids, first, n);
    spey_seq_id seq = begin(kv, &key, &reused);
    if (priority >= 0) spey_kv_set_retention(kv, seq, priority, until_ns);
    finish(kv, seq, &key, reused);
}

static void leave_ranges(spey_kv_cache *kv, int32_t first, int64_t n,
                         const spey_kv_retention *ranges, int n_ranges)
{
    int32_t ids[BLOCKS * BLOCK];
    int64_t reused;
    const spey_kv_key key = key_of(ids, first, n);
    spey_seq_id seq = begin(kv, &key, &reused);
    spey_kv_set_retention_ranges(kv, seq, ranges, n_ranges);
    finish(kv, seq, &key, reused);
}

/* How many of the tokens first … are still there. */
static int64_t left_of(const spey_kv_cache *kv, int32_t first)
{
    int32_t ids[BLOCKS * BLOCK];
    const spey_kv_key key = key_of(ids, first, BLOCKS * BLOCK);
    return spey_kv_match_length(kv, &key);
}

/* Take n blocks for something that is not kept. */
static void press(spey_kv_cache *kv, int64_t n)
{
    spey_seq_id seq;
    assert_int_equal(spey_kv_open(kv, &seq), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, seq, n * BLOCK), SPEY_OK);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_kv_close(kv, seq);
}

static void the_least_recently_used_goes_first_from_its_end(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    leave(kv, 100, 8, -1, 0);
    leave(kv, 200, 8, -1, 0);
    leave(kv, 300, 8, -1, 0);
    leave(kv, 100, 8, -1, 0); /* used again */
    press(kv, 1);
    assert_int_equal(left_of(kv, 200), 6);
    press(kv, 6);
    assert_int_equal(left_of(kv, 200), 0);
    assert_int_equal(left_of(kv, 300), 4);
    assert_int_equal(left_of(kv, 100), 8);
    press(kv, 12);
    assert_int_equal(left_of(kv, 100), 0);
    spey_kv_cache_free(kv);
}

static void a_higher_priority_stays_longer(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    leave(kv, 100, 8, 80, 0);
    leave(kv, 200, 8, 10, 0);
    leave(kv, 300, 8, -1, 0);
    press(kv, 4);
    assert_int_equal(left_of(kv, 200), 0);
    press(kv, 8);
    assert_int_equal(left_of(kv, 300), 0);
    assert_int_equal(left_of(kv, 100), 8);
    press(kv, 10);
    assert_int_equal(left_of(kv, 100), 4); /* but nothing stays when the room is needed */
    spey_kv_cache_free(kv);
}

static void a_priority_ends_when_its_time_is_over(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    leave(kv, 100, 8, 80, 1000);
    leave(kv, 200, 8, -1, 0);
    spey_kv_set_time(kv, 999);
    press(kv, 6);
    assert_int_equal(left_of(kv, 100), 8);
    assert_int_equal(left_of(kv, 200), 4);
    spey_kv_set_time(kv, 1000);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    leave(kv, 200, 4, -1, 0); /* now it is the other that was used last */
    press(kv, 10);
    assert_int_equal(left_of(kv, 100), 0);
    assert_int_equal(left_of(kv, 200), 4);
    spey_kv_cache_free(kv);
}

static void ranges_keep_the_blocks_that_begin_in_them(void **state)
{
    (void)state;
    /* Blocks of 2 tokens: the second begins in the first range, though its end does not. */
    const spey_kv_retention ranges[] = { { 0, 3, 90, 0 }, { 3, INT64_MAX, 50, 0 } };
    spey_kv_cache *kv = cache();
    leave_ranges(kv, 100, 12, ranges, 2);
    leave(kv, 200, 12, 60, 0);
    press(kv, 4);
    assert_int_equal(left_of(kv, 200), 12);
    assert_int_equal(left_of(kv, 100), 4);
    press(kv, 10);
    assert_int_equal(left_of(kv, 200), 0);
    assert_int_equal(left_of(kv, 100), 4);
    press(kv, 11);
    assert_int_equal(left_of(kv, 100), 2);
    spey_kv_cache_free(kv);
}

static void the_end_of_a_sequence_may_be_worth_less(void **state)
{
    (void)state;
    const spey_kv_retention ranges[] = { { 4, INT64_MAX, 5, 0 } };
    spey_kv_cache *kv = cache();
    leave_ranges(kv, 100, 12, ranges, 1);
    leave(kv, 200, 12, 20, 0);
    press(kv, 4);
    assert_int_equal(left_of(kv, 100), 4);
    assert_int_equal(left_of(kv, 200), 12);
    press(kv, 10);
    assert_int_equal(left_of(kv, 100), 4); /* what is of no range is worth 35 */
    assert_int_equal(left_of(kv, 200), 0);
    spey_kv_cache_free(kv);
}

static void a_fork_keeps_its_blocks_as_its_parent_does(void **state)
{
    (void)state;
    const spey_kv_retention ranges[] = { { 0, INT64_MAX, 90, 0 } };
    int32_t ids[BLOCKS * BLOCK];
    int64_t reused;
    spey_kv_cache *kv = cache();
    spey_kv_key key = key_of(ids, 100, 4);
    spey_seq_id parent = begin(kv, &key, &reused), child;
    spey_kv_set_retention_ranges(kv, parent, ranges, 1);
    assert_int_equal(spey_kv_reserve(kv, parent, 4), SPEY_OK);
    spey_kv_advance(kv, parent, ids, 4);
    assert_int_equal(spey_kv_fork(kv, parent, &child), SPEY_OK);
    spey_kv_close(kv, parent);
    key = key_of(ids, 100, 8);
    finish(kv, child, &key, 4);
    leave(kv, 200, 16, -1, 0);
    press(kv, 8);
    assert_int_equal(left_of(kv, 100), 8);
    assert_int_equal(left_of(kv, 200), 0);
    spey_kv_cache_free(kv);
}

static void a_duration_begins_when_a_block_is_filled_or_found(void **state)
{
    (void)state;
    const spey_kv_retention ranges[] = { { 0, INT64_MAX, 80, 100 } };
    spey_kv_cache *kv = cache();
    spey_kv_set_time(kv, 1000);
    leave_ranges(kv, 100, 8, ranges, 1);
    leave_ranges(kv, 200, 8, ranges, 1);
    spey_kv_set_time(kv, 1050);
    leave_ranges(kv, 100, 8, ranges,
                 1); /* 3 of its 4 blocks are found, the last is written again */
    spey_kv_set_time(kv, 1120);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    leave(kv, 200, 8, -1, 0); /* used last, but its time is over */
    press(kv, 8);
    assert_int_equal(left_of(kv, 100), 8);
    assert_int_equal(left_of(kv, 200), 0);
    spey_kv_set_time(kv, 1150);
    leave(kv, 200, 8, 40, 0);
    press(kv, 8);
    assert_int_equal(left_of(kv, 100), 0);
    assert_int_equal(left_of(kv, 200), 8);
    spey_kv_cache_free(kv);
}

static void a_block_keeps_the_highest_priority_it_was_given(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    leave(kv, 100, 8, 50, 0);
    leave(kv, 100, 8, 20, 0); /* another sequence, to which it is worth less */
    leave(kv, 200, 8, 40, 0);
    press(kv, 8);
    assert_int_equal(left_of(kv, 100), 8);
    assert_int_equal(left_of(kv, 200), 0);
    leave(kv, 200, 8, 60, 0);
    leave(kv, 100, 8, 70, 0); /* and more */
    press(kv, 8);
    assert_int_equal(left_of(kv, 100), 8);
    spey_kv_cache_free(kv);
}

/* The end of a sequence may be worth more than its beginning, but is nothing without it. */
static void leaves_go_before_what_is_above_them(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    int32_t ids[BLOCKS * BLOCK];
    int64_t reused;
    spey_seq_id seq;
    leave(kv, 100, 4, 5, 0);
    const spey_kv_key key = key_of(ids, 100, 8);
    assert_int_equal(spey_kv_open(kv, &seq), SPEY_OK);
    assert_int_equal(spey_kv_match(kv, seq, &key, &reused), SPEY_OK);
    assert_int_equal(reused, 4);
    assert_int_equal(spey_kv_reserve(kv, seq, 8), SPEY_OK);
    spey_kv_advance(kv, seq, ids + 4, 4);
    spey_kv_close(kv, seq);
    press(kv, 9);
    assert_int_equal(left_of(kv, 100), 6);
    spey_kv_cache_free(kv);
}

static void equal_hashes_are_not_believed(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    const int32_t a[] = { 1, 2 }, b[] = { 1, 3 };
    const struct kv_node node = { .parent = KV_NONE, .salt = 5, .hash = 99, .n_ids = BLOCK };
    int32_t of_a = spey_kv_tree_add(kv, &node, a), of_b = spey_kv_tree_add(kv, &node, b);
    assert_int_equal(spey_kv_tree_find(kv, KV_NONE, 5, 99, a), of_a);
    assert_int_equal(spey_kv_tree_find(kv, KV_NONE, 5, 99, b), of_b);
    assert_int_equal(spey_kv_tree_find(kv, KV_NONE, 6, 99, a), KV_NONE);
    assert_int_equal(spey_kv_tree_find(kv, of_b, 5, 99, a), KV_NONE);
    assert_int_equal(spey_kv_tree_find(kv, KV_NONE, 5, 98, a), KV_NONE);
    spey_kv_tree_remove(kv, of_a);
    assert_int_equal(spey_kv_tree_find(kv, KV_NONE, 5, 99, a), KV_NONE);
    assert_int_equal(spey_kv_tree_find(kv, KV_NONE, 5, 99, b), of_b);
    spey_kv_cache_free(kv);
}

static void nodes_run_out_and_come_back(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    int32_t nodes[BLOCKS + 1];
    for (int32_t i = 0; i <= BLOCKS; i++) {
        const int32_t ids[] = { i, i };
        const struct kv_node node = { .parent = KV_NONE, .hash = (uint64_t)i, .n_ids = BLOCK };
        nodes[i] = spey_kv_tree_add(kv, &node, ids);
    }
    assert_int_not_equal(nodes[BLOCKS - 1], KV_NONE);
    assert_int_equal(nodes[BLOCKS], KV_NONE);
    spey_kv_flush(kv);
    leave(kv, 100, BLOCKS * BLOCK, -1, 0);
    assert_int_equal(left_of(kv, 100), BLOCKS * BLOCK - 1);
    spey_kv_cache_free(kv);
}

/* Times in any order: each priority ends at its own. */
static void priorities_end_in_the_order_of_their_times(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        spey_rng rng = { .seed = seed };
        spey_kv_cache *kv = cache();
        uint64_t until[BLOCKS];
        for (int32_t i = 0; i < BLOCKS; i++) {
            until[i] = 1 + spey_rng_below(&rng, 20);
            leave(kv, 100 * i, BLOCK, 90, until[i]);
        }
        for (uint64_t now = 1; now <= 20; now++) {
            int expected = 0, ended = 0;
            spey_kv_set_time(kv, now);
            assert_int_equal(spey_kv_check(kv), SPEY_OK);
            for (int32_t i = 0; i < BLOCKS; i++) {
                expected += until[i] <= now;
                ended += kv->nodes[i].priority == KV_PRIORITY_DEFAULT;
            }
            assert_int_equal(ended, expected);
        }
        spey_kv_cache_free(kv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_least_recently_used_goes_first_from_its_end),
        cmocka_unit_test(a_higher_priority_stays_longer),
        cmocka_unit_test(a_priority_ends_when_its_time_is_over),
        cmocka_unit_test(ranges_keep_the_blocks_that_begin_in_them),
        cmocka_unit_test(the_end_of_a_sequence_may_be_worth_less),
        cmocka_unit_test(a_fork_keeps_its_blocks_as_its_parent_does),
        cmocka_unit_test(a_duration_begins_when_a_block_is_filled_or_found),
        cmocka_unit_test(a_block_keeps_the_highest_priority_it_was_given),
        cmocka_unit_test(leaves_go_before_what_is_above_them),
        cmocka_unit_test(equal_hashes_are_not_believed),
        cmocka_unit_test(nodes_run_out_and_come_back),
        cmocka_unit_test(priorities_end_in_the_order_of_their_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
