#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "text/regex.h"

/* Matches joined by |, in out. */
static spey_status matches(const char *pattern, const char *text, size_t n, char *out)
{
    spey_regex *regex;
    SPEY_TRY(spey_regex_new("test", pattern, strlen(pattern), &regex));
    spey_regex_scratch *scratch;
    assert_int_equal(spey_regex_scratch_new(&scratch), SPEY_OK);
    spey_regex_cursor cursor = { 0 };
    spey_status status = SPEY_OK;
    bool found = true;
    *out = 0;
    while (!status && found) {
        size_t begin, end;
        status = spey_regex_next(regex, scratch, text, n, &cursor, &found, &begin, &end);
        if (status || !found) break;
        strncat(out, text + begin, end - begin);
        strcat(out, "|");
    }
    spey_regex_scratch_free(scratch);
    spey_regex_free(regex);
    return status;
}

static void assert_matches(const char *pattern, const char *text, const char *want)
{
    char got[512];
    if (matches(pattern, text, strlen(text), got)) fail_msg("%s: %s", pattern, spey_last_error());
    assert_string_equal(got, want);
}

static void ruby_syntax_means_what_it_means_there(void **state)
{
    (void)state;
    assert_matches("^a", "a\na", "a|a|");        /* ^ at every line */
    assert_matches("a.b", "a\nb axb", "axb|");   /* . is no newline */
    assert_matches("(?m:a.b)", "a\nb", "a\nb|"); /* m is dot-all */
    assert_matches("\\w+",
                   "a\xcc\x81 b_\xe2\x80\xbf"
                   "c",
                   "a\xcc\x81|b_\xe2\x80\xbf"
                   "c|");                                           /* marks, connectors */
    assert_matches("\\s", "a\xc2\x85 \xe1\xa0\x8e", "\xc2\x85| |"); /* White_Space: not U+180E */
    assert_matches("\\h+", "12fG \t", "12f|");                      /* hexadecimal digits */
    assert_matches("x{,2}y", "xxxy", "xxy|");
    assert_matches("a{2}+a", "aaaaa", "aaaaa|"); /* not possessive */
    assert_matches("(ab){1,2}+c", "ababababc", "ababababc|");
    assert_matches("x*", "axxb", "|xx||"); /* no empty match right after a match */
    assert_matches("[\\h&]+", "1&g", "1&|");
    assert_matches("\\p{Han}+", "\xe4\xb8\x80\xe3\x80\x81",
                   "\xe4\xb8\x80|"); /* Script, not Script_Extensions */
    assert_matches("\\p{^L}", "a1", "1|");
    assert_matches("(?i:'s)", "'S '\xc5\xbf", "'S|'\xc5\xbf|");
}

static void what_cannot_be_translated_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = { "[a&&b]", "[a[b]]",        "(?~a)", "\\",    "(",
                                       "[a",     "\\p{Nonsense}", "a**",   "[\\H]", "\\C" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        spey_regex *regex;
        uint64_t live = spey_alloc_read_stats().n_live;
        if (!strcmp(bad[i], "a**")) continue; /* both engines take it */
        assert_int_equal(spey_regex_new("where", bad[i], strlen(bad[i]), &regex), SPEY_UNSUPPORTED);
        assert_non_null(strstr(spey_last_error(), "where: regex"));
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
}

static void too_much_backtracking_is_an_error(void **state)
{
    (void)state;
    static char text[64], out[128];
    memset(text, 'a', sizeof text);
    spey_status status = matches("(?:a+)+(?:a+)+(?:a+)+[bc]", text, sizeof text, out);
    assert_int_equal(status, SPEY_LIMIT);
}

static void a_megabyte_of_alternatives_matches_or_says_why(void **state)
{
    (void)state;
    enum { N = 1 << 20 };
    char *text = spey_alloc(SPEY_PURPOSE_TEXT, N);
    memset(text, 'a', N);
    spey_regex *regex;
    spey_regex_scratch *scratch;
    assert_int_equal(spey_regex_new("test", "(?:a|b)*c|a+", 12, &regex), SPEY_OK);
    assert_int_equal(spey_regex_scratch_new(&scratch), SPEY_OK);
    spey_regex_cursor cursor = { 0 };
    bool found;
    size_t begin, end;
    spey_status status = spey_regex_next(regex, scratch, text, N, &cursor, &found, &begin, &end);
    assert_true(status == SPEY_LIMIT || (status == SPEY_OK && found && begin == 0 && end == N));
    spey_regex_scratch_free(scratch);
    spey_regex_free(regex);
    spey_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ruby_syntax_means_what_it_means_there),
        cmocka_unit_test(what_cannot_be_translated_is_refused),
        cmocka_unit_test(too_much_backtracking_is_an_error),
        cmocka_unit_test(a_megabyte_of_alternatives_matches_or_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
