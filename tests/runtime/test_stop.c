/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "runtime/stop.h"

/* Push `text` in pieces of `step` bytes; returns whether it stopped, the output in `out`. */
static bool flow(const char *const *strings, size_t n, const char *text, size_t step,
                 spey_strbuf *out)
{
    spey_stop stop;
    assert_int_equal(spey_stop_init(&stop, strings, n), SPEY_OK);
    size_t len = strlen(text);
    bool stopped = false;
    for (size_t i = 0; i < len && !stopped; i += step)
        stopped = spey_stop_push(&stop, text + i, len - i < step ? len - i : step, out);
    if (!stopped) spey_stop_flush(&stop, out);
    spey_stop_deinit(&stop);
    return stopped;
}

static void expect(const char *const *strings, size_t n, const char *text, const char *wanted,
                   bool stops)
{
    for (size_t step = 1; step <= strlen(text); step++) {
        spey_strbuf out = { 0 };
        assert_int_equal(flow(strings, n, text, step, &out), stops);
        assert_string_equal(out.data ? out.data : "", wanted);
        spey_strbuf_deinit(&out);
    }
}

static void text_ends_before_the_stop_string_however_it_is_cut(void **state)
{
    (void)state;
    const char *strings[] = { "\n\nHuman:", "STOP" };
    expect(strings, 2, "I am well.\n\nHuman: and you", "I am well.", true);
    expect(strings, 2, "SSTOP", "S", true);
    expect(strings, 2, "nothing here ST\n\nHuman", "nothing here ST\n\nHuman", false);
    expect(strings, 2, "STOP", "", true);
}

static void of_two_stop_strings_the_earlier_counts(void **state)
{
    (void)state;
    const char *strings[] = { "cde", "b" };
    expect(strings, 2, "abcde", "a", true);
}

static void what_could_begin_a_stop_string_is_held_back(void **state)
{
    (void)state;
    const char *strings[] = { "aab" };
    spey_stop stop;
    spey_strbuf out = { 0 };
    assert_int_equal(spey_stop_init(&stop, strings, 1), SPEY_OK);
    assert_false(spey_stop_push(&stop, "xaa", 3, &out));
    assert_string_equal(out.data, "x");
    assert_false(spey_stop_push(&stop, "a", 1, &out)); /* xaaa: one a is certain */
    assert_string_equal(out.data, "xa");
    assert_false(spey_stop_push(&stop, "c", 1, &out));
    assert_string_equal(out.data, "xaaac");
    spey_stop_deinit(&stop);
    spey_strbuf_deinit(&out);
}

static void random_text_stops_where_a_plain_search_finds_it(void **state)
{
    (void)state;
    const char *strings[] = { "abab", "bba", "aaaa" };
    spey_rng rng = { .seed = 5 };
    for (int round = 0; round < 500; round++) {
        char text[41];
        for (int i = 0; i < 40; i++)
            text[i] = (char)('a' + spey_rng_below(&rng, 2));
        text[40] = 0;
        /* The one that is complete first ends the text; of several then, the one that began first. */
        size_t begin = 40;
        for (size_t end = 1; end <= 40 && begin == 40; end++)
            for (int s = 0; s < 3; s++) {
                size_t len = strlen(strings[s]);
                if (end >= len && !memcmp(text + end - len, strings[s], len) && end - len < begin)
                    begin = end - len;
            }
        spey_strbuf out = { 0 };
        assert_int_equal(flow(strings, 3, text, 1, &out), begin < 40);
        assert_int_equal(out.len, begin);
        spey_strbuf_deinit(&out);
    }
}

static void pushing_allocates_nothing_once_there_is_room(void **state)
{
    (void)state;
    const char *strings[] = { "never comes" };
    spey_stop stop;
    spey_strbuf out = { 0 };
    assert_int_equal(spey_stop_init(&stop, strings, 1), SPEY_OK);
    assert_int_equal(spey_strbuf_reserve(&out, 100000), SPEY_OK);
    static char text[50000];
    memset(text, 'n', sizeof text);
    spey_alloc_seal(true);
    assert_false(spey_stop_push(&stop, text, sizeof text, &out));
    spey_alloc_seal(false);
    assert_int_equal(out.len, sizeof text - 1);
    spey_stop_deinit(&stop);
    spey_strbuf_deinit(&out);
}

static void empty_or_huge_stop_strings_are_refused(void **state)
{
    (void)state;
    static char huge[SPEY_STOP_BYTES_MAX + 2];
    memset(huge, 'x', sizeof huge - 1);
    const char *bad[] = { "", huge };
    spey_stop stop;
    assert_int_equal(spey_stop_init(&stop, &bad[0], 1), SPEY_INVALID);
    assert_int_equal(spey_stop_init(&stop, &bad[1], 1), SPEY_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_ends_before_the_stop_string_however_it_is_cut),
        cmocka_unit_test(of_two_stop_strings_the_earlier_counts),
        cmocka_unit_test(what_could_begin_a_stop_string_is_held_back),
        cmocka_unit_test(random_text_stops_where_a_plain_search_finds_it),
        cmocka_unit_test(pushing_allocates_nothing_once_there_is_room),
        cmocka_unit_test(empty_or_huge_stop_strings_are_refused),
    };
    return cmocka_run_group_tests_name("stop", tests, NULL, NULL);
}
