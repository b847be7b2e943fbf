#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/kv_tree.h"

/* Two sequences that share two blocks, in a group with a window and one without. */
static spey_kv_cache *books(void)
{
    const spey_kv_limits limits = { .sequences_max = 3,
                                    .sequence_tokens_max = 40,
                                    .block_tokens = 4,
                                    .n_groups = 2,
                                    .groups = { { .n_blocks = 20 },
                                                { .n_blocks = 20, .window = 5 } } };
    spey_kv_cache *kv;
    spey_seq_id a, b;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    assert_int_equal(spey_kv_open(kv, &a), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, a, 14), SPEY_OK);
    spey_kv_advance(kv, a, NULL, 14);
    assert_int_equal(spey_kv_fork(kv, a, &b), SPEY_OK);
    assert_int_equal(spey_kv_reserve(kv, b, 22), SPEY_OK);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    return kv;
}

/* The books are damaged in one place: what the check says has this in it. */
static void expect(spey_kv_cache *kv, const char *text)
{
    assert_int_equal(spey_kv_check(kv), SPEY_INTERNAL);
    if (!strstr(spey_last_error(), text)) print_error("%s\n", spey_last_error());
    assert_non_null(strstr(spey_last_error(), text));
    spey_kv_cache_free(kv);
}

static void damaged_references_are_found(void **state)
{
    (void)state;
    spey_kv_cache *kv = books();
    kv->groups[0].refs[kv_row(&kv->groups[0], 0)[1]]++;
    expect(kv, "has 3 references");
    kv = books();
    kv->groups[0].refs[kv_row(&kv->groups[0], 0)[0]]--;
    expect(kv, "has 1 references");
    kv = books();
    kv_row(&kv->groups[0], 1)[5] = kv_row(&kv->groups[0], 1)[4];
    expect(kv, "references");
    kv = books();
    kv_row(&kv->groups[0], 1)[5] = 20;
    expect(kv, "has no block 20");
    kv = books();
    kv_row(&kv->groups[0], 1)[5] = -1;
    expect(kv, "has no block -1");
}

static void damaged_free_lists_are_found(void **state)
{
    (void)state;
    spey_kv_cache *kv = books();
    kv->groups[1].n_free--;
    expect(kv, "in the list");
    kv = books();
    kv->groups[1].free_blocks[0] = kv->groups[1].free_blocks[1];
    expect(kv, "free twice");
    kv = books();
    kv->groups[1].free_blocks[0] = kv_row(&kv->groups[1], 0)[3];
    expect(kv, "free and in use");
    kv = books();
    kv->n_free_slots = 0;
    expect(kv, "1 slots are closed, 0 free");
    kv = books();
    kv->free_slots[0] = 1;
    expect(kv, "slot 1 is open and free");
}

static void damaged_spans_are_found(void **state)
{
    (void)state;
    spey_kv_cache *kv = books();
    kv->groups[1].spans[0].first++; /* a block too many is given back */
    expect(kv, "has 14 tokens in blocks [3, 4)");
    kv = books();
    kv->sequences[0].length = 17;
    expect(kv, "has 17 tokens in blocks [0, 4)");
    kv = books();
    kv->groups[0].spans[2].end = 1; /* a closed sequence */
    expect(kv, "sequence 2 has 0 tokens");
    kv = books();
    kv->groups[0].refs[kv_row(&kv->groups[0], 1)[5]]++;
    expect(kv, "is shared and has no tokens");
}

/* Two ended sequences and a running one, which share the first of two or three nodes. */
static spey_kv_cache *tree(void)
{
    const spey_kv_limits limits = { .sequences_max = 2,
                                    .sequence_tokens_max = 12,
                                    .block_tokens = 4,
                                    .n_groups = 1,
                                    .groups = { { .n_blocks = 9 } },
                                    .reuse = true };
    static const int32_t ids[3][9] = { { 1, 2, 3, 4, 5, 6, 7, 8, 9 },
                                       { 1, 2, 3, 4, 5, 6, 7, 8, 8 },
                                       { 1, 2, 3, 4, 9, 9, 9, 9, 9 } };
    spey_kv_cache *kv;
    assert_int_equal(spey_kv_cache_new(&limits, &kv), SPEY_OK);
    for (int i = 0; i < 3; i++) {
        const spey_kv_key key = { .ids = ids[i], .n = 9 };
        spey_seq_id seq;
        int64_t n;
        assert_int_equal(spey_kv_open(kv, &seq), SPEY_OK);
        assert_int_equal(spey_kv_match(kv, seq, &key, &n), SPEY_OK);
        assert_int_equal(spey_kv_reserve(kv, seq, 9), SPEY_OK);
        spey_kv_copies_done(kv);
        spey_kv_advance(kv, seq, ids[i] + n, 9 - n);
        if (i < 2) spey_kv_close(kv, seq);
    }
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    assert_int_equal(kv->groups[0].n_cached, 3);
    return kv;
}

/* A node of n_ids ids that has a parent, or has none. */
static int32_t node_of(const spey_kv_cache *kv, bool root, int32_t n_ids)
{
    for (int32_t i = 0; i < kv->nodes_max; i++)
        if (kv->nodes[i].used && kv->nodes[i].n_ids == n_ids &&
            (kv->nodes[i].parent == KV_NONE) == root)
            return i;
    fail();
    return KV_NONE;
}

static void damaged_nodes_are_found(void **state)
{
    (void)state;
    spey_kv_cache *kv = tree();
    kv_node_ids(kv, node_of(kv, true, 4))[2]++;
    expect(kv, "is not sound");
    kv = tree();
    kv->nodes[node_of(kv, false, 4)].salt++;
    expect(kv, "is not sound");
    kv = tree();
    kv->nodes[node_of(kv, true, 4)].first_child = KV_NONE;
    expect(kv, "is not sound");
    kv = tree();
    kv->nodes[node_of(kv, false, 1)].until_ns = 5;
    expect(kv, "is not sound");
    kv = tree();
    kv->nodes[node_of(kv, false, 1)].n_cursors++;
    expect(kv, "is not sound");
    kv = tree();
    kv->nodes[kv->sequences[0].cursor].n_cursors++;
    expect(kv, "1 cursors nobody's");
    kv = tree();
    kv->sequences[0].cursor = kv->nodes[kv->sequences[0].cursor].parent;
    expect(kv, "has other blocks than node");
    kv = tree();
    kv->first_free_node = node_of(kv, true, 4);
    expect(kv, "is used and free");
}

static void damaged_lists_are_found(void **state)
{
    (void)state;
    spey_kv_cache *kv = tree();
    kv->groups[0].n_cached++;
    expect(kv, "3 blocks are cached, 3 listed, 4 counted");
    kv = tree();
    kv->nodes[node_of(kv, false, 1)].priority++;
    expect(kv, "is in list 35");
    kv = tree();
    kv->groups[0].lists[35].first = KV_NONE;
    expect(kv, "list 35 does not end");
    kv = tree();
    kv->groups[0].lists_filled[1] = 1;
    expect(kv, "list 64 does not end");
    kv = tree();
    kv->groups[0].nodes_of_blocks[kv_row(&kv->groups[0], 0)[0]] = KV_NONE;
    expect(kv, "which has node -1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_references_are_found),
        cmocka_unit_test(damaged_free_lists_are_found),
        cmocka_unit_test(damaged_spans_are_found),
        cmocka_unit_test(damaged_nodes_are_found),
        cmocka_unit_test(damaged_lists_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
