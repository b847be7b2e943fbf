#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "text/trie.h"

static void the_longest_key_is_found(void **state)
{
    (void)state;
    spey_trie_key keys[] = {
        { "abc", 3, 7 }, { "a", 1, 1 }, { "b\0c", 3, 2 }, { "\xff\xff", 2, 3 }, { "a", 1, 5 }
    };
    spey_trie_node *nodes;
    uint32_t count;
    assert_int_equal(spey_trie_build(keys, 5, &nodes, &count), SPEY_OK);
    spey_trie trie = { nodes, count };
    int32_t value = -1;
    assert_int_equal(spey_trie_longest(&trie, "abcd", 4, &value), 3);
    assert_int_equal(value, 7);
    assert_int_equal(spey_trie_longest(&trie, "abx", 3, &value), 1);
    assert_int_equal(value, 5); /* the later of two equal keys */
    assert_int_equal(spey_trie_longest(&trie, "b\0c", 3, &value), 3);
    assert_int_equal(spey_trie_longest(&trie, "\xff\xff", 2, &value), 2);
    assert_int_equal(spey_trie_longest(&trie, "x", 1, &value), 0);
    assert_int_equal(spey_trie_longest(&trie, "", 0, &value), 0);
    spey_free(nodes);
}

static void no_keys_make_a_trie_that_finds_nothing(void **state)
{
    (void)state;
    spey_trie_node *nodes;
    uint32_t count;
    int32_t value;
    assert_int_equal(spey_trie_build(NULL, 0, &nodes, &count), SPEY_OK);
    spey_trie trie = { nodes, count };
    assert_int_equal(spey_trie_longest(&trie, "abc", 3, &value), 0);
    spey_free(nodes);
}

static void random_keys_are_found_as_a_list_finds_them(void **state)
{
    (void)state;
    enum { KEYS = 2000, TEXT = 8 };
    static char texts[KEYS][TEXT];
    static spey_trie_key keys[KEYS], sorted[KEYS];
    spey_rng rng = { .seed = 5 };
    for (int32_t i = 0; i < KEYS; i++) {
        uint32_t len = 1 + (uint32_t)spey_rng_below(&rng, TEXT - 1);
        for (uint32_t k = 0; k < len; k++)
            texts[i][k] = (char)("abc\xe2"[spey_rng_below(&rng, 4)]);
        keys[i] = sorted[i] = (spey_trie_key){ texts[i], len, i };
    }
    spey_trie_node *nodes;
    uint32_t count;
    assert_int_equal(spey_trie_build(sorted, KEYS, &nodes, &count), SPEY_OK);
    spey_trie trie = { nodes, count };
    for (int round = 0; round < 3000; round++) {
        char text[12];
        for (size_t k = 0; k < sizeof text; k++)
            text[k] = (char)("abc\xe2"[spey_rng_below(&rng, 4)]);
        int32_t want = -1, got = -1;
        uint32_t longest = 0;
        for (int32_t i = 0; i < KEYS; i++)
            if (keys[i].len >= longest && !memcmp(keys[i].text, text, keys[i].len)) {
                longest = keys[i].len;
                want = i;
            }
        assert_int_equal(spey_trie_longest(&trie, text, sizeof text, &got), longest);
        assert_int_equal(got, want);
    }
    spey_free(nodes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_key_is_found),
        cmocka_unit_test(no_keys_make_a_trie_that_finds_nothing),
        cmocka_unit_test(random_keys_are_found_as_a_list_finds_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
