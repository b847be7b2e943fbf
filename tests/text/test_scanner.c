#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

/* clang-format off */
static const char *const patterns[] = {
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
};
/* clang-format on */

/* Characters that the patterns tell apart, with many of the rare ones. */
static void random_text(spey_rng *rng, spey_strbuf *out)
{
    static const uint32_t common[] = { ' ',     ' ',    ' ',   '\n',   '\r',   '\t', '\'',   '\'',
                                       's',     'S',    't',   'l',    'L',    'r',  'e',    'v',
                                       'E',     'd',    'm',   'x',    '1',    '2',  '3',    '.',
                                       '-',     '/',    0,     0x17f,  0x85,   0xa0, 0x2028, 0x3000,
                                       0x200b,  0xe9,   0x301, 0x4e00, 0xac00, 0xbd, 0x660,  0x2160,
                                       0x1f600, 0x212a, 0x1c5, 0xaa };
    spey_strbuf_reset(out);
    uint64_t n = spey_rng_below(rng, 30);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t c = common[spey_rng_below(rng, sizeof common / sizeof common[0])];
        /* PCRE2 may know an older Unicode: no characters that are newer. */
        if (spey_rng_below(rng, 12) == 0) c = (uint32_t)spey_rng_below(rng, 0x1c00);
        if (c == 0x180e) c = 'x'; /* white space to PCRE2 alone */
        spey_strbuf_put_utf8(out, c);
    }
    spey_strbuf_reserve(out, 0);
}

static void scanners_split_as_their_regex_does(void **state)
{
    (void)state;
    enum { SEED = 99 };
    spey_rng rng = { .seed = SEED };
    spey_strbuf text = { 0 };
    spey_regex_scratch *scratch;
    assert_int_equal(spey_regex_scratch_new(&scratch), SPEY_OK);
    for (size_t p = 0; p < sizeof patterns / sizeof patterns[0]; p++) {
        spey_tok_scanner scanner = spey_tok_scanner_of(patterns[p], strlen(patterns[p]));
        assert_int_not_equal(scanner, SPEY_TOK_SCAN_NONE);
        spey_regex *regex;
        assert_int_equal(spey_regex_new("test", patterns[p], strlen(patterns[p]), &regex), SPEY_OK);
        for (int round = 0; round < 30000; round++) {
            random_text(&rng, &text);
            spey_tok_spans words = { 0 };
            assert_int_equal(spey_tok_scan(scanner, text.data, 0, (uint32_t)text.len, &words),
                             SPEY_OK);
            spey_regex_cursor cursor = { 0 };
            for (size_t i = 0;; i++) {
                bool found;
                size_t begin, end;
                assert_int_equal(spey_regex_next(regex, scratch, text.data, text.len, &cursor,
                                                 &found, &begin, &end),
                                 SPEY_OK);
                if (!found && i == words.len) break;
                if (found != (i < words.len) || words.data[i].begin != begin ||
                    words.data[i].end != end)
                    fail_msg("seed %d, pattern %zu, round %d, word %zu", SEED, p, round, i);
            }
            spey_free(words.data);
        }
        spey_regex_free(regex);
    }
    spey_regex_scratch_free(scratch);
    spey_strbuf_deinit(&text);
}

static void an_unknown_pattern_has_no_scanner(void **state)
{
    (void)state;
    assert_int_equal(spey_tok_scanner_of("\\s+", 3), SPEY_TOK_SCAN_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scanners_split_as_their_regex_does),
        cmocka_unit_test(an_unknown_pattern_has_no_scanner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
