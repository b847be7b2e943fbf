/* NFC, NFD, NFKC, NFKD over utf8proc's tables. Text that is normal by inspection is copied; only the spans
 * around other characters are decomposed, ordered and composed. Ordering is a stable sort, not utf8proc's
 * insertion sort, so that a megabyte of combining marks stays linear. */
#include <string.h>
#include <utf8proc.h>

#include "base/alloc.h"
#include "text/tokenizer_run.h"
#include "text/utf8.h"

typedef struct codes {
    int32_t *data;
    size_t len, cap;
} codes;

/* Characters that no form changes and that never combine with what precedes them (a conservative choice;
 * the others go the long way). */
static bool is_stable(spey_tok_op_kind form, uint32_t c)
{
    if (c < 0x80 || (c >= 0x4e00 && c <= 0x9fff)) return true;
    if (form == SPEY_TOK_NORM_NFD || form == SPEY_TOK_NORM_NFKD) return false;
    if ((c >= 0xc0 && c <= 0xff) || (c >= 0xac00 && c <= 0xd7a3)) return true;
    if ((c >= 0x3041 && c <= 0x3096) || (c >= 0x30a1 && c <= 0x30fa)) return true;
    if (form == SPEY_TOK_NORM_NFKC) return false;
    return c < 0x300 || (c >= 0x400 && c <= 0x482) || (c >= 0x2010 && c <= 0x2027) ||
           (c >= 0x1f300 && c <= 0x1f6ff);
}

static uint8_t combining_class(int32_t c)
{
    return (uint8_t)utf8proc_get_property(c)->combining_class;
}

static spey_status push_decomposed(codes *out, uint32_t c, spey_tok_op_kind form)
{
    int32_t parts[32];
    bool compat = form == SPEY_TOK_NORM_NFKC || form == SPEY_TOK_NORM_NFKD;
    int last_class = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char(
        (int32_t)c, parts, 32, UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0), &last_class);
    if (n < 0 || n > 32) {
        parts[0] = (int32_t)c;
        n = 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        void *data = out->data;
        if (out->len == out->cap) {
            spey_status status = spey_tok_grow(&data, &out->cap, out->len, sizeof parts[0]);
            out->data = data;
            if (status) return status;
        }
        out->data[out->len++] = parts[i];
    }
    return SPEY_OK;
}

static void insertion_sort(int32_t *run, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        int32_t c = run[i];
        size_t j = i;
        for (; j > 0 && combining_class(run[j - 1]) > combining_class(c); j--)
            run[j] = run[j - 1];
        run[j] = c;
    }
}

static spey_status counting_sort(int32_t *run, size_t n)
{
    size_t begin[257] = { 0 };
    int32_t *sorted = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, n);
    if (!sorted) return SPEY_NOMEM;
    for (size_t i = 0; i < n; i++)
        begin[combining_class(run[i]) + 1]++;
    for (size_t i = 1; i < 257; i++)
        begin[i] += begin[i - 1];
    for (size_t i = 0; i < n; i++)
        sorted[begin[combining_class(run[i])]++] = run[i];
    memcpy(run, sorted, n * sizeof *run);
    spey_free(sorted);
    return SPEY_OK;
}

static spey_status order_marks(codes *text)
{
    for (size_t i = 0; i < text->len;) {
        size_t end = i;
        while (end < text->len && combining_class(text->data[end]))
            end++;
        if (end - i > 32)
            SPEY_TRY(counting_sort(text->data + i, end - i));
        else if (end - i > 1)
            insertion_sort(text->data + i, end - i);
        i = end == i ? i + 1 : end;
    }
    return SPEY_OK;
}

static spey_status normalize_span(spey_tok_op_kind form, const char *text, size_t n, codes *work,
                                  spey_strbuf *out)
{
    work->len = 0;
    for (size_t i = 0, len; i < n; i += len)
        SPEY_TRY(push_decomposed(work, spey_utf8_get(text + i, &len), form));
    SPEY_TRY(order_marks(work));
    if (form == SPEY_TOK_NORM_NFC || form == SPEY_TOK_NORM_NFKC) {
        utf8proc_ssize_t len = utf8proc_normalize_utf32(work->data, (utf8proc_ssize_t)work->len,
                                                        UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (len >= 0) work->len = (size_t)len;
    }
    SPEY_ASSERT(work->data || work->len == 0);
    for (size_t i = 0; i < work->len; i++)
        spey_strbuf_put_utf8(out, (uint32_t)work->data[i]);
    return SPEY_OK;
}

/* [*begin, result): the next span to normalise: the stable character before it, for marks may join it, and
 * all that is not stable. n when there is none. */
static size_t next_span(spey_tok_op_kind form, const char *text, size_t n, size_t from,
                        size_t *begin)
{
    size_t i = from, len, last = from;
    for (; i < n; i += len) {
        if ((unsigned char)text[i] < 0x80)
            len = 1;
        else if (!is_stable(form, spey_utf8_get(text + i, &len)))
            break;
        last = i;
    }
    *begin = i == n ? n : last;
    for (; i < n; i += len)
        if (is_stable(form, spey_utf8_get(text + i, &len))) break;
    return i;
}

spey_status spey_tok_normalize_unicode(spey_tok_op_kind form, const char *text, size_t n,
                                       spey_strbuf *out)
{
    codes work = { 0 };
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < n && !status;) {
        size_t begin;
        size_t end = next_span(form, text, n, i, &begin);
        spey_strbuf_append(out, text + i, begin - i);
        if (begin < end) status = normalize_span(form, text + begin, end - begin, &work, out);
        i = end;
    }
    spey_free(work.data);
    return status ? status : spey_strbuf_status(out);
}
