#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

void spey_strbuf_deinit(spey_strbuf *buf)
{
    spey_free(buf->data);
    *buf = (spey_strbuf){ .max = buf->max };
}

void spey_strbuf_reset(spey_strbuf *buf)
{
    buf->len = 0;
    buf->status = SPEY_OK;
    if (buf->data) buf->data[0] = 0;
}

spey_status spey_strbuf_reserve(spey_strbuf *buf, size_t n)
{
    if (buf->status) return buf->status;
    size_t need;
    if (!spey_add_size(buf->len, n, &need) || !spey_add_size(need, 1, &need))
        return buf->status = SPEY_FAIL(SPEY_NOMEM, "out of memory: text of %zu bytes", n);
    if (buf->max && need - 1 > buf->max)
        return buf->status =
                   SPEY_FAIL(SPEY_LIMIT, "text grows beyond its limit of %zu bytes", buf->max);
    if (need <= buf->cap) return SPEY_OK;
    size_t cap = buf->cap ? buf->cap : 64;
    while (cap < need)
        cap = cap > SIZE_MAX / 4 ? need : cap > need / 2 ? need + need / 2 : cap * 2;
    char *grown = spey_realloc(SPEY_PURPOSE_GENERAL, buf->data, cap);
    if (!grown) return buf->status = SPEY_NOMEM;
    buf->data = grown;
    buf->cap = cap;
    return SPEY_OK;
}

void spey_strbuf_append(spey_strbuf *buf, const void *bytes, size_t n)
{
    if (spey_strbuf_reserve(buf, n)) return;
    if (n) memcpy(buf->data + buf->len, bytes, n);
    buf->len += n;
    buf->data[buf->len] = 0;
}

void spey_strbuf_puts(spey_strbuf *buf, const char *text)
{
    spey_strbuf_append(buf, text, strlen(text));
}

void spey_strbuf_putc(spey_strbuf *buf, char c)
{
    spey_strbuf_append(buf, &c, 1);
}

void spey_strbuf_printf(spey_strbuf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0 && !spey_strbuf_reserve(buf, (size_t)n)) {
        vsnprintf(buf->data + buf->len, (size_t)n + 1, format, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

spey_status spey_strbuf_status(const spey_strbuf *buf)
{
    return buf->status;
}

spey_status spey_strbuf_take(spey_strbuf *buf, char **out, size_t *out_len)
{
    SPEY_TRY(spey_strbuf_reserve(buf, 0));
    buf->data[buf->len] = 0;
    *out = buf->data;
    if (out_len) *out_len = buf->len;
    *buf = (spey_strbuf){ .max = buf->max };
    return SPEY_OK;
}

void spey_strbuf_put_utf8(spey_strbuf *buf, uint32_t code)
{
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) code = 0xfffd;
    char bytes[4];
    size_t n = 0;
    if (code < 0x80) {
        bytes[n++] = (char)code;
    } else if (code < 0x800) {
        bytes[n++] = (char)(0xc0 | code >> 6);
        bytes[n++] = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        bytes[n++] = (char)(0xe0 | code >> 12);
        bytes[n++] = (char)(0x80 | (code >> 6 & 63));
        bytes[n++] = (char)(0x80 | (code & 63));
    } else {
        bytes[n++] = (char)(0xf0 | code >> 18);
        bytes[n++] = (char)(0x80 | (code >> 12 & 63));
        bytes[n++] = (char)(0x80 | (code >> 6 & 63));
        bytes[n++] = (char)(0x80 | (code & 63));
    }
    spey_strbuf_append(buf, bytes, n);
}
