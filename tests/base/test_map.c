#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "base/map.h"

static void keys_are_found_after_growth(void **state)
{
    (void)state;
    spey_map map;
    char key[32];
    int64_t value = 0;
    spey_map_init(&map, SPEY_PURPOSE_TEXT);
    assert_false(spey_map_get(&map, "a", 1, &value));
    for (int i = 0; i < 5000; i++) {
        int n = snprintf(key, sizeof key, "key %d", i);
        assert_int_equal(spey_map_put(&map, key, (size_t)n, i), SPEY_OK);
    }
    assert_int_equal(map.count, 5000);
    for (int i = 0; i < 5000; i++) {
        int n = snprintf(key, sizeof key, "key %d", i);
        assert_true(spey_map_get(&map, key, (size_t)n, &value));
        assert_int_equal(value, i);
    }
    assert_false(spey_map_get(&map, "key 5000", 8, &value));
    spey_map_deinit(&map);
}

static void putting_again_replaces(void **state)
{
    (void)state;
    spey_map map;
    int64_t value = 0;
    spey_map_init(&map, SPEY_PURPOSE_TEXT);
    assert_int_equal(spey_map_put(&map, "k", 1, 1), SPEY_OK);
    assert_int_equal(spey_map_put(&map, "k", 1, -2), SPEY_OK);
    assert_true(spey_map_get(&map, "k", 1, &value));
    assert_int_equal(value, -2);
    assert_int_equal(map.count, 1);
    spey_map_deinit(&map);
}

static void keys_are_bytes_and_are_copied(void **state)
{
    (void)state;
    spey_map map;
    int64_t value = 0;
    char key[] = "a\0b";
    spey_map_init(&map, SPEY_PURPOSE_TEXT);
    assert_int_equal(spey_map_put(&map, key, 3, 1), SPEY_OK);
    assert_int_equal(spey_map_put(&map, key, 1, 2), SPEY_OK);
    assert_int_equal(spey_map_put(&map, "", 0, 3), SPEY_OK);
    key[0] = 'x';
    assert_true(spey_map_get(&map, "a\0b", 3, &value) && value == 1);
    assert_true(spey_map_get(&map, "a", 1, &value) && value == 2);
    assert_true(spey_map_get(&map, "", 0, &value) && value == 3);
    spey_map_deinit(&map);
}

static void failing_allocations_lose_nothing(void **state)
{
    (void)state;
    spey_map map;
    int64_t value = 0;
    spey_map_init(&map, SPEY_PURPOSE_TEXT);
    for (int i = 0; i < 100; i++) {
        char key = (char)i;
        spey_alloc_fail_nth(1);
        spey_status status = spey_map_put(&map, &key, 1, i);
        spey_alloc_fail_nth(0);
        if (status) assert_int_equal(spey_map_put(&map, &key, 1, i), SPEY_OK);
    }
    for (int i = 0; i < 100; i++) {
        char key = (char)i;
        assert_true(spey_map_get(&map, &key, 1, &value) && value == i);
    }
    spey_map_deinit(&map);
}

static void hashes_depend_on_all_bytes_and_the_seed(void **state)
{
    (void)state;
    unsigned char bytes[40] = { 0 };
    uint64_t seen[41];
    seen[40] = spey_hash_bytes(bytes, sizeof bytes, 0);
    for (int i = 0; i < 40; i++) {
        bytes[i] = 1;
        seen[i] = spey_hash_bytes(bytes, sizeof bytes, 0);
        bytes[i] = 0;
        for (int j = 0; j < i; j++)
            assert_true(seen[i] != seen[j] && seen[i] != seen[40]);
    }
    assert_true(spey_hash_bytes(bytes, 40, 1) != seen[40]);
    assert_true(spey_hash_bytes(bytes, 39, 0) != seen[40]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_found_after_growth),
        cmocka_unit_test(putting_again_replaces),
        cmocka_unit_test(keys_are_bytes_and_are_copied),
        cmocka_unit_test(failing_allocations_lose_nothing),
        cmocka_unit_test(hashes_depend_on_all_bytes_and_the_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
