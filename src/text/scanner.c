/* Hand-written scanners for the pre-tokenizer patterns of GPT-2, Llama 3 (cl100k) and Qwen 2. Each splits as the
 * regex in `patterns` does; test_scanner checks that against PCRE2. The alternatives of these patterns cover
 * every character, so the words cover the text. */
#include <string.h>

#include "text/tokenizer_run.h"
#include "text/utf8.h"

/* clang-format off */
static const struct {
    spey_tok_scanner scanner;
    const char *pattern;
} patterns[] = {
    { SPEY_TOK_SCAN_GPT2,
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+" },
    { SPEY_TOK_SCAN_GPT2,
      "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+" },
    { SPEY_TOK_SCAN_LLAMA3,
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
    { SPEY_TOK_SCAN_QWEN2,
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
      " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
};
/* clang-format on */

enum { LETTER = 1, NUMBER = 2, SPACE = 4, OTHER = 8, NEWLINE = 16 };

/* Classes of ASCII: L letters, N digits, S spaces, R line ends (spaces too), O the rest. */
#define O OTHER
#define L LETTER
#define N NUMBER
#define S SPACE
#define R (SPACE | NEWLINE)
/* clang-format off */
static const uint8_t ascii_classes[128] = {
    O, O, O, O, O, O, O, O, O, S, R, S, S, R, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
};
/* clang-format on */
#undef O
#undef L
#undef N
#undef S
#undef R

typedef struct scan {
    const char *text;
    uint32_t end;
} scan;

/* Class of the character at `at`, 0 at the end; its length in *len. */
static unsigned class_at(const scan *s, uint32_t at, uint32_t *len)
{
    *len = 1;
    if (at >= s->end) return 0;
    unsigned char b = (unsigned char)s->text[at];
    if (b < 0x80) return ascii_classes[b];
    size_t bytes;
    uint32_t c = spey_utf8_get(s->text + at, &bytes);
    *len = (uint32_t)bytes;
    if ((c >= 0x4e00 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3)) return LETTER;
    unsigned bits = spey_char_class(c);
    return bits & SPEY_CHAR_LETTER   ? LETTER
           : bits & SPEY_CHAR_NUMBER ? NUMBER
           : bits & SPEY_CHAR_SPACE  ? SPACE
                                     : OTHER;
}

/* End of the run of characters of `classes` from `at`. */
static uint32_t run_end(const scan *s, uint32_t at, unsigned classes)
{
    uint32_t len;
    while (class_at(s, at, &len) & classes)
        at += len;
    return at;
}

static bool is_letter(char c, char lower, bool any_case)
{
    return c == lower || (any_case && c == lower - 'a' + 'A');
}

/* End of 's 't 're 've 'm 'll 'd at the apostrophe `at`; `at` when there is none. Without regard to case,
 * U+017F (long s) is an s. */
static uint32_t contraction(const scan *s, uint32_t at, bool any_case)
{
    const char *p = s->text + at + 1;
    uint32_t left = s->end - at - 1;
    if (left >= 1 && (is_letter(*p, 's', any_case) || is_letter(*p, 't', any_case) ||
                      is_letter(*p, 'm', any_case) || is_letter(*p, 'd', any_case)))
        return at + 2;
    if (left >= 2 && is_letter(p[1], 'e', any_case) &&
        (is_letter(*p, 'r', any_case) || is_letter(*p, 'v', any_case)))
        return at + 3;
    if (left >= 2 && is_letter(*p, 'l', any_case) && is_letter(p[1], 'l', any_case)) return at + 3;
    if (any_case && left >= 2 && !memcmp(p, "\xc5\xbf", 2)) return at + 3;
    return at;
}

/* \s+(?!\S)|\s+: all but the last space before a word; all at the end. */
static uint32_t spaces(const scan *s, uint32_t at, uint32_t end)
{
    if (end == s->end) return end;
    uint32_t last = (uint32_t)spey_utf8_before(s->text, end);
    return last > at ? last : end;
}

static uint32_t gpt2_word(const scan *s, uint32_t at)
{
    uint32_t len;
    unsigned class = class_at(s, at, &len);
    if (s->text[at] == '\'') {
        uint32_t end = contraction(s, at, false);
        if (end > at) return end;
    }
    if (s->text[at] == ' ') {
        unsigned next = class_at(s, at + 1, &len);
        if (next && !(next & SPACE)) return run_end(s, at + 1, next);
    }
    if (class & SPACE) return spaces(s, at, run_end(s, at, SPACE));
    return run_end(s, at, class);
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static uint32_t blank_word(const scan *s, uint32_t at)
{
    uint32_t end = run_end(s, at, SPACE);
    for (uint32_t i = end; i > at; i--)
        if (s->text[i - 1] == '\n' || s->text[i - 1] == '\r') return i;
    return spaces(s, at, end);
}

static uint32_t number_end(const scan *s, uint32_t at, int digits_max)
{
    uint32_t len;
    for (int i = 0; i < digits_max && (class_at(s, at, &len) & NUMBER); i++)
        at += len;
    return at;
}

static uint32_t llama3_word(const scan *s, uint32_t at, int digits_max)
{
    uint32_t len, next_len;
    unsigned class = class_at(s, at, &len);
    if (class & LETTER) return run_end(s, at + len, LETTER);
    if (class & NUMBER) return number_end(s, at, digits_max);
    if (s->text[at] == '\'') {
        uint32_t end = contraction(s, at, true);
        if (end > at) return end;
    }
    unsigned next = class_at(s, at + len, &next_len);
    if (!(class & NEWLINE) && (next & LETTER)) return run_end(s, at + len, LETTER);
    bool spaced = s->text[at] == ' ' && (next & OTHER);
    if (spaced || (class & OTHER))
        return run_end(s, run_end(s, spaced ? at + 1 : at, OTHER), NEWLINE);
    return blank_word(s, at);
}

spey_status spey_tok_scan(spey_tok_scanner scanner, const char *text, uint32_t begin, uint32_t end,
                          spey_tok_spans *out)
{
    scan s = { text, end };
    int digits_max = scanner == SPEY_TOK_SCAN_QWEN2 ? 1 : 3;
    while (begin < end) {
        uint32_t next = scanner == SPEY_TOK_SCAN_GPT2 ? gpt2_word(&s, begin)
                                                      : llama3_word(&s, begin, digits_max);
        SPEY_TRY(spey_tok_spans_push(out, begin, next));
        begin = next;
    }
    return SPEY_OK;
}

spey_tok_scanner spey_tok_scanner_of(const char *pattern, size_t n)
{
    for (size_t i = 0; i < sizeof patterns / sizeof patterns[0]; i++)
        if (n == strlen(patterns[i].pattern) && !memcmp(pattern, patterns[i].pattern, n))
            return patterns[i].scanner;
    return SPEY_TOK_SCAN_NONE;
}
