#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "runtime/kv_cache.h"

enum { BLOCK = 4 };

static spey_kv_cache *cache(void)
{
    const spey_kv_limits limits = { .sequences_max = 3,
                                    .sequence_tokens_max = 40,
                                    .block_tokens = BLOCK,
                                    .n_groups = 2,
                                    .groups = { { .n_blocks = 10 }, { .n_blocks = 10 } },
                                    .reuse = true };
    spey_kv_cache *kv;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    return kv;
}

/* A sequence of n tokens: first, first + 1, … */
static spey_seq_id run(spey_kv_cache *kv, int32_t first, int64_t n)
{
    int32_t ids[40];
    for (int32_t i = 0; i < n; i++)
        ids[i] = first + i;
    const spey_kv_key key = { .ids = ids, .n = n };
    int64_t reused;
    spey_seq_id seq;
    assert_int_equal(spey_kv_open(kv, &seq), SPEY_OK);
    assert_int_equal(spey_kv_match(kv, seq, &key, &reused), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, seq, n), SPEY_OK);
    spey_kv_copies_done(kv);
    spey_kv_advance(kv, seq, ids + reused, n - reused);
    return seq;
}

static void statistics_count_blocks_of_all_groups(void **state)
{
    (void)state;
    spey_kv_cache *kv = cache();
    spey_kv_stats stats;
    spey_kv_read_stats(kv, &stats);
    assert_int_equal(stats.max_num_blocks, 20);
    assert_int_equal(stats.free_num_blocks, 20);
    assert_int_equal(stats.used_num_blocks, 0);
    assert_int_equal(stats.tokens_per_block, BLOCK);
    assert_true(stats.cache_hit_rate == 0);

    spey_seq_id seq = run(kv, 0, 12);
    spey_kv_read_stats(kv, &stats);
    assert_int_equal(stats.used_num_blocks, 6);
    assert_int_equal(stats.alloc_new_blocks, 6);
    assert_int_equal(stats.missed_blocks, 3);
    spey_kv_close(kv, seq);
    spey_kv_read_stats(kv, &stats);
    assert_int_equal(stats.used_num_blocks, 0);
    assert_int_equal(stats.cached_num_blocks, 6);
    assert_int_equal(stats.free_num_blocks, 20);

    seq = run(kv, 0, 9); /* two whole blocks */
    spey_kv_read_stats(kv, &stats);
    assert_int_equal(stats.reused_blocks, 2);
    assert_int_equal(stats.missed_blocks, 3 + 1);
    assert_int_equal(stats.reused_tokens, 8);
    assert_int_equal(stats.alloc_new_blocks, 6 + 2);
    assert_int_equal(stats.alloc_total_blocks, 6 + 2 + 4);
    assert_int_equal(stats.used_num_blocks, 6);
    assert_int_equal(stats.cached_num_blocks, 2);
    assert_true(stats.cache_hit_rate == 2.0 / 6);
    assert_int_equal(stats.evicted_blocks, 0);
    run(kv, 100, 4 * 7);
    spey_kv_read_stats(kv, &stats);
    assert_int_equal(stats.used_num_blocks, 20);
    assert_int_equal(stats.evicted_blocks, 1); /* a node, in both groups */
    spey_kv_cache_free(kv);
}

static void events_tell_what_can_be_found(void **state)
{
    (void)state;
    const spey_kv_limits limits = { .sequences_max = 3,
                                    .sequence_tokens_max = 40,
                                    .block_tokens = BLOCK,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = 3 } },
                                    .reuse = true,
                                    .host_blocks = 2,
                                    .events_max = 8 };
    spey_kv_cache *kv;
    spey_kv_event e[10];
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    assert_int_equal(spey_kv_read_events(kv, e, 10), 2);
    assert_int_equal(e[0].kind, SPEY_KV_EVENT_CREATED);
    assert_int_equal(e[0].n_blocks, 3);
    assert_int_equal(e[1].tier, SPEY_KV_TIER_HOST);
    assert_int_equal(e[1].n_blocks, 2);

    spey_kv_close(kv, run(kv, 0, 11)); /* two whole blocks and a part, which routers do not see */
    assert_int_equal(spey_kv_read_events(kv, e, 10), 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(e[i].id, 3 + i);
        assert_int_equal(e[i].kind, SPEY_KV_EVENT_STORED);
        assert_int_equal(e[i].tier, SPEY_KV_TIER_DEVICE);
        assert_int_equal(e[i].n_ids, BLOCK);
        assert_int_equal(e[i].ids[0], BLOCK * i);
    }
    assert_int_equal(e[0].parent_hash, 0);
    assert_int_equal(e[1].parent_hash, e[0].hash);
    const uint64_t second = e[1].hash;

    spey_kv_close(kv, run(kv, 100, 7)); /* takes the part's block and the second one's */
    assert_int_equal(spey_kv_read_events(kv, e, 1), 1);
    assert_int_equal(e[0].kind, SPEY_KV_EVENT_UPDATED);
    assert_int_equal(e[0].tier, SPEY_KV_TIER_HOST);
    assert_int_equal(e[0].hash, second);
    assert_int_equal(spey_kv_read_events(kv, e, 10), 1);
    assert_int_equal(e[0].kind, SPEY_KV_EVENT_STORED);

    spey_kv_close(kv, run(kv, 0, 9)); /* brings it back */
    assert_int_equal(spey_kv_read_events(kv, e, 10), 2);
    assert_int_equal(e[0].kind, SPEY_KV_EVENT_UPDATED);
    assert_int_equal(e[0].tier, SPEY_KV_TIER_DEVICE);
    assert_int_equal(e[0].hash, second);
    assert_int_equal(e[1].tier, SPEY_KV_TIER_HOST); /* the ninth token's block was another's */

    spey_kv_flush(kv);
    int32_t n = spey_kv_read_events(kv, e, 10);
    assert_int_equal(n, 3);
    for (int i = 0; i < n; i++)
        assert_int_equal(e[i].kind, SPEY_KV_EVENT_REMOVED);
    assert_int_equal(e[n - 1].tier == SPEY_KV_TIER_HOST || e[0].tier == SPEY_KV_TIER_HOST, true);
    /* Nobody reads: the oldest are lost, and one sees that. */
    for (int i = 0; i < 6; i++)
        spey_kv_close(kv, run(kv, 1000 * i, 9));
    assert_int_equal(spey_kv_read_events(kv, e, 10), 8);
    assert_true(e[0].id > 15);
    for (int i = 1; i < 8; i++)
        assert_int_equal(e[i].id, e[0].id + (uint64_t)i);
    spey_kv_cache_free(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_count_blocks_of_all_groups),
        cmocka_unit_test(events_tell_what_can_be_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
