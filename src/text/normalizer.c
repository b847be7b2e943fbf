#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_run.h"
#include "text/utf8.h"

/* What a step that maps character by character does with one. */
typedef void (*char_map)(spey_strbuf *out, uint32_t c, const char *text, size_t len, uint32_t x);

static void each_char(char_map map, uint32_t x, const char *text, size_t n, spey_strbuf *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        uint32_t c = spey_utf8_get(text + i, &len);
        map(out, c, text + i, len, x);
    }
}

static void map_lowercase(spey_strbuf *out, uint32_t c, const char *text, size_t len, uint32_t x)
{
    (void)text, (void)len, (void)x;
    /* The only character whose lower case is two characters in every language. */
    if (c == 0x130)
        spey_strbuf_append(out, "i\xcc\x87", 3);
    else
        spey_strbuf_put_utf8(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

static void map_strip_class(spey_strbuf *out, uint32_t c, const char *text, size_t len, uint32_t x)
{
    if (!(spey_char_class(c) & x)) spey_strbuf_append(out, text, len);
}

static void map_nmt(spey_strbuf *out, uint32_t c, const char *text, size_t len, uint32_t x)
{
    (void)x;
    bool removed = (c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f ||
                   c == 0x8f || c == 0x9f;
    bool space = c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                 (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                 c == 0xfeff || c == 0xfffd;
    if (space)
        spey_strbuf_putc(out, ' ');
    else if (!removed)
        spey_strbuf_append(out, text, len);
}

static bool is_chinese(uint32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

static void map_bert_clean(spey_strbuf *out, uint32_t c, const char *text, size_t len, uint32_t x)
{
    (void)x;
    unsigned bits = spey_char_class(c);
    bool blank = c == '\t' || c == '\n' || c == '\r';
    if (c == 0 || c == SPEY_UTF8_REPLACEMENT || ((bits & SPEY_CHAR_OTHER) && !blank)) return;
    if (blank || (bits & SPEY_CHAR_SPACE))
        spey_strbuf_putc(out, ' ');
    else
        spey_strbuf_append(out, text, len);
}

static void map_bert_chinese(spey_strbuf *out, uint32_t c, const char *text, size_t len, uint32_t x)
{
    (void)x;
    if (is_chinese(c)) spey_strbuf_putc(out, ' ');
    spey_strbuf_append(out, text, len);
    if (is_chinese(c)) spey_strbuf_putc(out, ' ');
}

/* ---- bytes as characters ---- */

/* GPT-2's table: printable Latin-1 stands for itself, the rest for U+0100 and up in order. */
static uint32_t byte_char(unsigned char b)
{
    if ((b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae) return b;
    if (b <= ' ') return 256u + b;
    if (b <= 0xa0) return 256u + 33 + (b - 0x7fu);
    return 256 + 67; /* 0xad */
}

void spey_tok_put_byte_level(spey_strbuf *out, const char *text, size_t n)
{
    if (spey_strbuf_reserve(out, 2 * n)) return;
    char *to = out->data + out->len;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = byte_char((unsigned char)text[i]);
        if (c < 0x80) {
            *to++ = (char)c;
        } else {
            *to++ = (char)(0xc0 | c >> 6);
            *to++ = (char)(0x80 | (c & 63));
        }
    }
    out->len = (size_t)(to - out->data);
    *to = 0;
}

int spey_tok_byte_of(uint32_t c)
{
    if (c > 256 + 67) return -1;
    if (c == 256 + 67) return 0xad;
    if (c >= 256 + 33) return (int)(c - 256 - 33 + 0x7f);
    if (c >= 256) return (int)(c - 256);
    return byte_char((unsigned char)c) == c ? (int)c : -1;
}

/* ---- steps ---- */

static void strip(const spey_tok_step *step, const char *text, size_t n, spey_strbuf *out,
                  bool *from_start)
{
    size_t begin = 0, len;
    while ((step->op.x & 1) && begin < n &&
           (spey_char_class(spey_utf8_get(text + begin, &len)) & SPEY_CHAR_SPACE))
        begin += len;
    while ((step->op.x & 2) && n > begin) {
        size_t last = spey_utf8_before(text, n);
        if (!(spey_char_class(spey_utf8_get(text + last, &len)) & SPEY_CHAR_SPACE)) break;
        n = last;
    }
    if (begin > 0) *from_start = false;
    spey_strbuf_append(out, text + begin, n - begin);
}

static void replace_text(const spey_tok_step *step, const char *text, size_t n, spey_strbuf *out)
{
    size_t done = 0;
    while (step->op.a_len) {
        const char *found = memmem(text + done, n - done, step->a, step->op.a_len);
        if (!found) break;
        spey_strbuf_append(out, text + done, (size_t)(found - text) - done);
        spey_strbuf_append(out, step->b, step->op.b_len);
        done = (size_t)(found - text) + step->op.a_len;
    }
    spey_strbuf_append(out, text + done, n - done);
}

static spey_status replace_regex(const spey_tok_step *step, spey_regex_scratch *regex,
                                 const char *text, size_t n, spey_strbuf *out)
{
    spey_regex_cursor cursor = { 0 };
    size_t done = 0, begin, end;
    for (bool found = n > 0; found;) {
        SPEY_TRY(spey_regex_next(step->regex, regex, text, n, &cursor, &found, &begin, &end));
        if (!found) break;
        spey_strbuf_append(out, text + done, begin - done);
        spey_strbuf_append(out, step->b, step->op.b_len);
        done = end;
    }
    spey_strbuf_append(out, text + done, n - done);
    return SPEY_OK;
}

static spey_status swap_text(spey_status status, spey_strbuf *text)
{
    spey_strbuf other = text[0];
    text[0] = text[1];
    text[1] = other;
    spey_strbuf_reset(&text[1]);
    return status;
}

static spey_status bert(const spey_tok_step *step, spey_strbuf *text)
{
    uint32_t x = step->op.x;
    if (x & 1) {
        each_char(map_bert_clean, 0, text[0].data, text[0].len, &text[1]);
        SPEY_TRY(swap_text(text[1].status, text));
    }
    if (x & 2) {
        each_char(map_bert_chinese, 0, text[0].data, text[0].len, &text[1]);
        SPEY_TRY(swap_text(text[1].status, text));
    }
    if (x & 4) {
        SPEY_TRY(
            spey_tok_normalize_unicode(SPEY_TOK_NORM_NFD, text[0].data, text[0].len, &text[1]));
        SPEY_TRY(swap_text(text[1].status, text));
        each_char(map_strip_class, SPEY_CHAR_NONSPACING, text[0].data, text[0].len, &text[1]);
        SPEY_TRY(swap_text(text[1].status, text));
    }
    each_char(x & 8 ? map_lowercase : map_strip_class, 0, text[0].data, text[0].len, &text[1]);
    return SPEY_OK;
}

/* Run one step from scratch->text[0] to scratch->text[1]. */
static spey_status run_step(spey_tok_scratch *scratch, const spey_tok_step *step)
{
    const char *text = scratch->text[0].data;
    size_t n = scratch->text[0].len;
    spey_strbuf *out = &scratch->text[1];
    switch ((spey_tok_op_kind)step->op.kind) {
    case SPEY_TOK_NORM_NFC:
    case SPEY_TOK_NORM_NFD:
    case SPEY_TOK_NORM_NFKC:
    case SPEY_TOK_NORM_NFKD:
        return spey_tok_normalize_unicode((spey_tok_op_kind)step->op.kind, text, n, out);
    case SPEY_TOK_NORM_LOWERCASE: each_char(map_lowercase, 0, text, n, out); return SPEY_OK;
    case SPEY_TOK_NORM_STRIP: strip(step, text, n, out, &scratch->from_start); return SPEY_OK;
    case SPEY_TOK_NORM_STRIP_ACCENTS:
        each_char(map_strip_class, SPEY_CHAR_MARK, text, n, out);
        return SPEY_OK;
    case SPEY_TOK_NORM_REPLACE: replace_text(step, text, n, out); return SPEY_OK;
    case SPEY_TOK_NORM_REPLACE_REGEX: return replace_regex(step, scratch->regex, text, n, out);
    case SPEY_TOK_NORM_PREPEND:
    case SPEY_TOK_NORM_APPEND: {
        bool before = step->op.kind == SPEY_TOK_NORM_PREPEND;
        if (n && before) spey_strbuf_append(out, step->a, step->op.a_len);
        spey_strbuf_append(out, text, n);
        if (n && !before) spey_strbuf_append(out, step->a, step->op.a_len);
        return SPEY_OK;
    }
    case SPEY_TOK_NORM_CHARSMAP: return spey_tok_normalize_charsmap(step, text, n, out);
    case SPEY_TOK_NORM_NMT: each_char(map_nmt, 0, text, n, out); return SPEY_OK;
    case SPEY_TOK_NORM_BERT: return bert(step, scratch->text);
    case SPEY_TOK_NORM_BYTE_LEVEL: spey_tok_put_byte_level(out, text, n); return SPEY_OK;
    case SPEY_TOK_NORM_SENTENCEPIECE:
        return spey_tok_normalize_sentencepiece(scratch->tokenizer, step, text, n, out);
    default: return SPEY_FAIL(SPEY_INTERNAL, "normalizer step %u", step->op.kind);
    }
}

spey_status spey_tok_normalize(spey_tok_scratch *scratch, const char *text, size_t n)
{
    const spey_tokenizer *t = scratch->tokenizer;
    spey_strbuf_reset(&scratch->text[0]);
    spey_strbuf_append(&scratch->text[0], text, n);
    SPEY_TRY(spey_strbuf_status(&scratch->text[0]));
    for (uint32_t i = 0; i < t->meta->n_normalizers; i++) {
        spey_strbuf_reset(&scratch->text[1]);
        SPEY_TRY(run_step(scratch, &t->normalizers[i]));
        SPEY_TRY(swap_text(spey_strbuf_status(&scratch->text[1]), scratch->text));
        if (!scratch->text[0].data) SPEY_TRY(spey_strbuf_reserve(&scratch->text[0], 0));
    }
    return SPEY_OK;
}
