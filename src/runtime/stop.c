#include "runtime/stop.h"

#include <string.h>

#include "base/alloc.h"

/* Text is pushed and matched in pieces of this size, so that `held` has a bound known at init. */
enum { PIECE_BYTES = 4096 };

spey_status spey_stop_init(spey_stop *stop, const char *const *strings, size_t n)
{
    *stop = (spey_stop){ 0 };
    if (n > SPEY_STOP_STRINGS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "%zu stop strings, at most %d expected", n,
                         SPEY_STOP_STRINGS_MAX);
    spey_status status = spey_strbuf_reserve(&stop->held, SPEY_STOP_BYTES_MAX + PIECE_BYTES);
    for (size_t i = 0; !status && i < n; i++) {
        size_t len = strings[i] ? strlen(strings[i]) : 0;
        if (len == 0 || len > SPEY_STOP_BYTES_MAX) {
            status = SPEY_FAIL(SPEY_INVALID, "stop string %zu has %zu bytes, expected 1 to %d", i,
                               len, SPEY_STOP_BYTES_MAX);
            break;
        }
        stop->strings[i] = spey_strndup(SPEY_PURPOSE_RUNTIME, strings[i], len);
        stop->lengths[i] = len;
        stop->n = i + 1;
        if (!stop->strings[i]) status = SPEY_NOMEM;
    }
    if (status) spey_stop_deinit(stop);
    return status;
}

void spey_stop_deinit(spey_stop *stop)
{
    for (size_t i = 0; i < stop->n; i++)
        spey_free(stop->strings[i]);
    spey_strbuf_deinit(&stop->held);
    stop->n = 0;
}

/* Where the earliest stop string begins in `text`, or n. */
static size_t find_first(const spey_stop *stop, const char *text, size_t n)
{
    size_t first = n;
    for (size_t i = 0; i < stop->n; i++) {
        const char *at = n ? memmem(text, n, stop->strings[i], stop->lengths[i]) : NULL;
        if (at && (size_t)(at - text) < first) first = (size_t)(at - text);
    }
    return first;
}

/* Length of the longest end of `text` that is a proper beginning of a stop string. */
static size_t undecided(const spey_stop *stop, const char *text, size_t n)
{
    size_t longest = 0;
    for (size_t i = 0; i < stop->n; i++) {
        size_t len = stop->lengths[i] - 1 < n ? stop->lengths[i] - 1 : n;
        for (; len > longest; len--)
            if (!memcmp(text + n - len, stop->strings[i], len)) longest = len;
    }
    return longest;
}

static bool push_piece(spey_stop *stop, const char *text, size_t n, spey_strbuf *out)
{
    spey_strbuf *held = &stop->held;
    spey_strbuf_append(held, text, n);
    size_t first = find_first(stop, held->data, held->len);
    if (first < held->len) {
        spey_strbuf_append(out, held->data, first);
        spey_strbuf_reset(held);
        return true;
    }
    size_t keep = undecided(stop, held->data, held->len), sure = held->len - keep;
    spey_strbuf_append(out, held->data, sure);
    memmove(held->data, held->data + sure, keep);
    held->len = keep;
    held->data[keep] = 0;
    return false;
}

bool spey_stop_push(spey_stop *stop, const char *text, size_t n, spey_strbuf *out)
{
    if (stop->n == 0) {
        spey_strbuf_append(out, text, n);
        return false;
    }
    while (n) {
        size_t piece = n < PIECE_BYTES ? n : PIECE_BYTES;
        if (push_piece(stop, text, piece, out)) return true;
        text += piece;
        n -= piece;
    }
    return false;
}

void spey_stop_flush(spey_stop *stop, spey_strbuf *out)
{
    if (stop->held.len) spey_strbuf_append(out, stop->held.data, stop->held.len);
    spey_strbuf_reset(&stop->held);
}
