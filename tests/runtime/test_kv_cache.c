#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "runtime/kv_cache.h"

static spey_kv_cache *cache(int32_t sequences, int64_t tokens, int32_t block, int32_t blocks)
{
    const spey_kv_limits limits = { .sequences_max = sequences,
                                    .sequence_tokens_max = tokens,
                                    .block_tokens = block,
                                    .n_groups = 1,
                                    .n_blocks = { blocks } };
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
        spey_kv_advance(kv, a, more);
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
                                    .n_blocks = { 12, 2 },
                                    .is_state = { false, true } };
    spey_kv_cache *kv;
    spey_seq_id a, b;
    int64_t n;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &b), SPEY_OK);
    spey_kv_blocks(kv, 1, a, &n);
    assert_int_equal(n, 0);
    assert_int_equal(spey_kv_reserve(kv, a, 5), SPEY_OK);
    spey_kv_advance(kv, a, 5);
    assert_int_equal(spey_kv_reserve(kv, a, 95), SPEY_OK);
    spey_kv_advance(kv, a, 90);
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
                                    .n_blocks = { 8, 5 } };
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

/* What one sequence of the random test should be like. */
typedef struct model {
    bool open;
    int64_t length, reserved;
} model;

enum { SEQS = 7, TOKENS = 90, BLOCK = 7, BLOCKS = 40 };

static int64_t blocks_of(int64_t tokens)
{
    return (tokens + BLOCK - 1) / BLOCK;
}

static int64_t owned(const model *m)
{
    return blocks_of(m->reserved > m->length ? m->reserved : m->length);
}

static void random_move(spey_kv_cache *kv, spey_rng *rng, model *models)
{
    spey_seq_id s = (spey_seq_id)spey_rng_below(rng, SEQS);
    model *m = &models[s];
    int64_t free_blocks = BLOCKS;
    for (int i = 0; i < SEQS; i++)
        free_blocks -= owned(&models[i]);
    assert_int_equal(spey_kv_free_blocks(kv), free_blocks);
    if (!m->open) {
        spey_seq_id got;
        assert_int_equal(spey_kv_open(kv, &got), SPEY_OK);
        models[got] = (model){ .open = true };
        return;
    }
    uint64_t move = spey_rng_below(rng, 10);
    if (move == 0) {
        spey_kv_close(kv, s);
        *m = (model){ 0 };
    } else if (move < 3) {
        int64_t n = (int64_t)spey_rng_below(rng, (uint64_t)m->length + 1);
        spey_kv_truncate(kv, s, n);
        m->length = m->reserved = n;
    } else {
        int64_t more = (int64_t)spey_rng_below(rng, 20);
        int64_t after = m->length + more, missing = blocks_of(after) - owned(m);
        bool fits = after <= TOKENS && missing <= free_blocks;
        assert_int_equal(spey_kv_reserve(kv, s, after), fits ? SPEY_OK : SPEY_LIMIT);
        if (!fits) return;
        if (after > m->reserved) m->reserved = after;
        if (move < 4) return; /* reserved for later */
        spey_kv_advance(kv, s, more);
        m->length = after;
    }
}

static void invariants_hold_under_random_moves(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        spey_rng rng = { .seed = seed };
        model models[SEQS] = { { 0 } };
        spey_kv_cache *kv = cache(SEQS, TOKENS, BLOCK, BLOCKS);
        spey_alloc_seal(true);
        for (int i = 0; i < 2000; i++) {
            random_move(kv, &rng, models);
            spey_status status = spey_kv_check(kv);
            if (status != SPEY_OK)
                print_error("seed %d, move %d: %s\n", (int)seed, i, spey_last_error());
            assert_int_equal(status, SPEY_OK);
            for (spey_seq_id s = 0; s < SEQS; s++)
                if (models[s].open) assert_int_equal(spey_kv_length(kv, s), models[s].length);
        }
        spey_alloc_seal(false);
        spey_kv_cache_free(kv);
    }
}

static void new_fails_cleanly_without_memory(void **state)
{
    (void)state;
    const spey_kv_limits limits = { .sequences_max = 2,
                                    .sequence_tokens_max = 16,
                                    .block_tokens = 4,
                                    .n_groups = 1,
                                    .n_blocks = { 8 } };
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
        cmocka_unit_test(invariants_hold_under_random_moves),
        cmocka_unit_test(new_fails_cleanly_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
