/* A progress bar on stderr, only when stderr is a terminal and the work lasts longer than half a second. */
#ifndef SPEY_BASE_PROGRESS_H
#define SPEY_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct spey_progress {
    const char *title; /* borrowed until end */
    uint64_t total;
    uint64_t start_ns;
    uint64_t drawn_ns;
    bool enabled;
    bool drawn;
} spey_progress;

/* `total` in any unit; 0 means unknown. `bytes`-like units read best as bytes. */
void spey_progress_begin(spey_progress *progress, const char *title, uint64_t total);
void spey_progress_update(spey_progress *progress, uint64_t done);
/* Erase the bar. */
void spey_progress_end(spey_progress *progress);

#endif
