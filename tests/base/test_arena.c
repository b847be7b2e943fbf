#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/status.h"

static void objects_are_zero_aligned_and_apart(void **state)
{
    (void)state;
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_GRAPH);
    unsigned char *last = NULL;
    for (size_t bytes = 0; bytes < 3000; bytes += 7) {
        unsigned char *p = spey_arena_alloc(&arena, bytes);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xee, bytes);
        if (last) assert_int_equal(last[0], 0xee);
        if (bytes) last = p;
    }
    spey_arena_deinit(&arena);
}

static void one_deinit_frees_everything(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_GRAPH);
    for (int i = 0; i < 100; i++)
        assert_non_null(spey_arena_alloc(&arena, i % 10 ? 500 : 100000));
    assert_true(spey_alloc_read_stats().n_live > live);
    spey_arena_deinit(&arena);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
    spey_arena_deinit(&arena);
}

static void objects_of_medium_size_waste_little(void **state)
{
    (void)state;
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_GRAPH);
    size_t before = spey_alloc_read_stats().bytes[SPEY_PURPOSE_GRAPH];
    for (int i = 0; i < 100; i++)
        assert_non_null(spey_arena_alloc(&arena, 9000));
    size_t used = spey_alloc_read_stats().bytes[SPEY_PURPOSE_GRAPH] - before;
    assert_true(used < 100 * 9000 * 3 / 2);
    spey_arena_deinit(&arena);
}

static void strings_and_arrays(void **state)
{
    (void)state;
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_TEXT);
    assert_string_equal(spey_arena_strdup(&arena, "abc"), "abc");
    assert_string_equal(spey_arena_strndup(&arena, "abcdef", 2), "ab");
    assert_non_null(spey_arena_array(&arena, 10, 8));
    assert_null(spey_arena_array(&arena, SIZE_MAX / 4, 8));
    assert_null(spey_arena_alloc(&arena, SIZE_MAX));
    spey_arena_deinit(&arena);
}

static void a_failed_allocation_leaves_the_arena_usable(void **state)
{
    (void)state;
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_TEXT);
    spey_alloc_fail_nth(1);
    assert_null(spey_arena_alloc(&arena, 10));
    assert_non_null(spey_arena_alloc(&arena, 10));
    spey_alloc_fail_nth(1);
    assert_null(spey_arena_alloc(&arena, 1000000));
    assert_non_null(spey_arena_alloc(&arena, 10));
    spey_arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_are_zero_aligned_and_apart),
        cmocka_unit_test(one_deinit_frees_everything),
        cmocka_unit_test(objects_of_medium_size_waste_little),
        cmocka_unit_test(strings_and_arrays),
        cmocka_unit_test(a_failed_allocation_leaves_the_arena_usable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
