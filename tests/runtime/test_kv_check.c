#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/kv_books.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_references_are_found),
        cmocka_unit_test(damaged_free_lists_are_found),
        cmocka_unit_test(damaged_spans_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
