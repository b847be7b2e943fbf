/* Growing byte string, always followed by a 0 byte (not counted). Zero-initialise to start.
 *
 * Failure is sticky: after an allocation fails, further appends do nothing and spey_strbuf_status returns
 * SPEY_NOMEM, so a writer checks once at the end. Growth beyond `max` (0: no limit) fails with SPEY_LIMIT. */
#ifndef SPEY_BASE_STRBUF_H
#define SPEY_BASE_STRBUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct spey_strbuf {
    char *data; /* NULL until the first append */
    size_t len;
    size_t cap;
    size_t max;
    spey_status status;
} spey_strbuf;

void spey_strbuf_deinit(spey_strbuf *buf);
/* Empty it, keep the memory, clear the failure. */
void spey_strbuf_reset(spey_strbuf *buf);
void spey_strbuf_append(spey_strbuf *buf, const void *bytes, size_t n);
void spey_strbuf_puts(spey_strbuf *buf, const char *text);
void spey_strbuf_putc(spey_strbuf *buf, char c);
void spey_strbuf_printf(spey_strbuf *buf, const char *format, ...) SPEY_PRINTF(2, 3);
/* Make room for n more bytes so that following appends of n bytes allocate nothing. */
spey_status spey_strbuf_reserve(spey_strbuf *buf, size_t n);
spey_status spey_strbuf_status(const spey_strbuf *buf);
/* Hand the bytes over (free with spey_free; never NULL on success); the buffer is empty after. */
spey_status spey_strbuf_take(spey_strbuf *buf, char **out, size_t *out_len);
/* Append `code` as UTF-8; an invalid code point becomes U+FFFD. */
void spey_strbuf_put_utf8(spey_strbuf *buf, uint32_t code);

#endif
