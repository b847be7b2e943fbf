/* UTF-8 and the Unicode classes that tokenizers ask for. Pure functions, any thread.
 *
 * Categories are utf8proc's plus a table of the letters and numbers that Unicode 16 added, so that they are those
 * of the Oniguruma in Hugging Face tokenizers 0.23. White space is the property White_Space, as Rust and Oniguruma have it. */
#ifndef SPEY_TEXT_UTF8_H
#define SPEY_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/strbuf.h"

enum { SPEY_UTF8_REPLACEMENT = 0xfffd };

typedef enum spey_utf8_kind {
    SPEY_UTF8_VALID,   /* a character */
    SPEY_UTF8_INVALID, /* a maximal ill-formed part: one U+FFFD stands for it */
    SPEY_UTF8_PARTIAL, /* the bytes end inside a character that is well-formed so far */
} spey_utf8_kind;

/* What starts at p (n > 0), and its length in *len. */
spey_utf8_kind spey_utf8_classify(const char *p, size_t n, size_t *len);
bool spey_utf8_is_valid(const char *text, size_t n);
/* Append text with each maximal ill-formed part replaced by U+FFFD, as Python's errors="replace" and Rust's
 * from_utf8_lossy do. */
void spey_utf8_append_lossy(spey_strbuf *out, const char *text, size_t n);

/* Length of the character that starts with byte `lead` of valid UTF-8. */
static inline size_t spey_utf8_lead_length(char lead)
{
    unsigned char b = (unsigned char)lead;
    return b < 0x80 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
}

/* The character at p of valid UTF-8; its length in *len. */
static inline uint32_t spey_utf8_get(const char *text, size_t *len)
{
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *len = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *len = 2;
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    }
    if (p[0] < 0xf0) {
        *len = 3;
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    *len = 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

/* Start of the character that ends before text[end] (end > 0) of valid UTF-8. */
static inline size_t spey_utf8_before(const char *text, size_t end)
{
    end--;
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    return end;
}

/* Bits of spey_char_class. */
enum {
    SPEY_CHAR_LETTER = 1,       /* category L */
    SPEY_CHAR_NUMBER = 2,       /* category N */
    SPEY_CHAR_SPACE = 4,        /* White_Space */
    SPEY_CHAR_MARK = 8,         /* category M */
    SPEY_CHAR_PUNCTUATION = 16, /* category P, or ASCII punctuation */
    SPEY_CHAR_WORD = 32,        /* \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control */
    SPEY_CHAR_OTHER = 64,       /* categories Cc, Cf, Cn, Co */
    SPEY_CHAR_NONSPACING = 128, /* category Mn */
};
unsigned spey_char_class(uint32_t c);

#endif
