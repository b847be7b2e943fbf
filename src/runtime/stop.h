/* Stop strings at text level: text flows through, and what might be the beginning of a stop string is held back until it
 * is decided. Nothing allocates after init. */
#ifndef SPEY_RUNTIME_STOP_H
#define SPEY_RUNTIME_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/status.h"
#include "base/strbuf.h"

typedef struct spey_stop {
    char *strings[SPEY_STOP_STRINGS_MAX];
    size_t lengths[SPEY_STOP_STRINGS_MAX];
    size_t n;
    spey_strbuf held; /* the undecided end of the text */
} spey_stop;

/* Copies the strings. Empty, too many or too long ones are SPEY_INVALID. */
spey_status spey_stop_init(spey_stop *stop, const char *const *strings, size_t n);
void spey_stop_deinit(spey_stop *stop);

/* Add text; append to `out` what can no longer become a stop string. True: one appeared; `out` got the text before the
 * earliest, the rest is dropped. */
bool spey_stop_push(spey_stop *stop, const char *text, size_t n, spey_strbuf *out);
/* The end of the text: what was held back after all. */
void spey_stop_flush(spey_stop *stop, spey_strbuf *out);

#endif
