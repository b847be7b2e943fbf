#include "text/utf8.h"

#include <string.h>
#include <utf8proc.h>

spey_utf8_kind spey_utf8_classify(const char *text, size_t n, size_t *len)
{
    const unsigned char *p = (const unsigned char *)text;
    *len = 1;
    if (p[0] < 0x80) return SPEY_UTF8_VALID;
    if (p[0] < 0xc2 || p[0] > 0xf4) return SPEY_UTF8_INVALID;
    size_t need = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    /* The second byte alone decides about overlong forms, surrogates and the end of Unicode. */
    unsigned char low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < need; i++) {
        *len = i;
        if (i == n) return SPEY_UTF8_PARTIAL;
        if (p[i] < low || p[i] > high) return SPEY_UTF8_INVALID;
        low = 0x80;
        high = 0xbf;
    }
    *len = need;
    return SPEY_UTF8_VALID;
}

/* Bytes of plain ASCII at the start of text. */
static size_t ascii_prefix(const char *text, size_t n)
{
    size_t i = 0;
    for (uint64_t word; i + 8 <= n; i += 8) {
        memcpy(&word, text + i, 8);
        if (word & 0x8080808080808080u) break;
    }
    while (i < n && (unsigned char)text[i] < 0x80)
        i++;
    return i;
}

bool spey_utf8_is_valid(const char *text, size_t n)
{
    for (size_t i = 0;;) {
        i += ascii_prefix(text + i, n - i);
        for (; i < n && (unsigned char)text[i] >= 0x80;) {
            size_t len;
            if (spey_utf8_classify(text + i, n - i, &len) != SPEY_UTF8_VALID) return false;
            i += len;
        }
        if (i >= n) return true;
    }
}

void spey_utf8_append_lossy(spey_strbuf *out, const char *text, size_t n)
{
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        size_t len;
        if (spey_utf8_classify(text + i, n - i, &len) != SPEY_UTF8_VALID) {
            spey_strbuf_append(out, text + done, i - done);
            spey_strbuf_put_utf8(out, SPEY_UTF8_REPLACEMENT);
            done = i + len;
        }
        i += len;
    }
    spey_strbuf_append(out, text + done, n - done);
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

/* Symbols (So) that are Alphabetic, and the two joiners. */
static bool is_other_word(uint32_t c)
{
    return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c ||
           c == 0x200d;
}

static unsigned category_class(uint32_t c)
{
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return SPEY_CHAR_LETTER | SPEY_CHAR_WORD;
    case UTF8PROC_CATEGORY_MN: return SPEY_CHAR_MARK | SPEY_CHAR_NONSPACING | SPEY_CHAR_WORD;
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME: return SPEY_CHAR_MARK | SPEY_CHAR_WORD;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: return SPEY_CHAR_NUMBER | SPEY_CHAR_WORD;
    case UTF8PROC_CATEGORY_NO: return SPEY_CHAR_NUMBER;
    case UTF8PROC_CATEGORY_PC: return SPEY_CHAR_PUNCTUATION | SPEY_CHAR_WORD;
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return SPEY_CHAR_PUNCTUATION;
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CO: return SPEY_CHAR_OTHER;
    default: return 0;
    }
}

typedef struct code_range {
    uint32_t first, last;
} code_range;

/* Letters and numbers of Unicode 15.1 and 16, which utf8proc 2.8 (Unicode 15) does not know and Oniguruma does. */
/* clang-format off */
static const code_range new_letters[] = {
    { 0x1c89, 0x1c8a },   { 0xa7cb, 0xa7cd },   { 0xa7da, 0xa7dc },   { 0x105c0, 0x105f3 }, { 0x10d4a, 0x10d65 },
    { 0x10d6f, 0x10d85 }, { 0x10ec2, 0x10ec4 }, { 0x11380, 0x11389 }, { 0x1138b, 0x1138b }, { 0x1138e, 0x1138e },
    { 0x11390, 0x113b5 }, { 0x113b7, 0x113b7 }, { 0x113d1, 0x113d1 }, { 0x113d3, 0x113d3 }, { 0x11bc0, 0x11be0 },
    { 0x13460, 0x143fa }, { 0x16100, 0x1611d }, { 0x16d40, 0x16d6c }, { 0x18cff, 0x18cff }, { 0x1e5d0, 0x1e5ed },
    { 0x1e5f0, 0x1e5f0 }, { 0x2ebf0, 0x2ee5d },
};
static const code_range new_numbers[] = {
    { 0x10d40, 0x10d49 }, { 0x116d0, 0x116e3 }, { 0x11bf0, 0x11bf9 }, { 0x16130, 0x16139 },
    { 0x16d70, 0x16d79 }, { 0x1ccf0, 0x1ccf9 }, { 0x1e5f1, 0x1e5fa },
};
/* clang-format on */

static bool in_ranges(const code_range *ranges, size_t n, uint32_t c)
{
    for (size_t i = 0; i < n; i++)
        if (c >= ranges[i].first && c <= ranges[i].last) return true;
    return false;
}

static unsigned new_class(uint32_t c)
{
    if (in_ranges(new_letters, sizeof new_letters / sizeof new_letters[0], c))
        return SPEY_CHAR_LETTER | SPEY_CHAR_WORD;
    if (in_ranges(new_numbers, sizeof new_numbers / sizeof new_numbers[0], c))
        return SPEY_CHAR_NUMBER | SPEY_CHAR_WORD;
    return SPEY_CHAR_OTHER;
}

unsigned spey_char_class(uint32_t c)
{
    unsigned bits = category_class(c);
    if (bits == SPEY_CHAR_OTHER) bits = new_class(c);
    if (is_space(c)) bits |= SPEY_CHAR_SPACE;
    if (c < 0x80 && strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", (int)c) && c)
        bits |= SPEY_CHAR_PUNCTUATION;
    if (is_other_word(c)) bits |= SPEY_CHAR_WORD;
    return bits;
}
