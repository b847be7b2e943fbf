/* Diagnostics on stderr, one line each: "spey: warning: …". Results never go through here. Thread-safe. */
#ifndef SPEY_BASE_LOG_H
#define SPEY_BASE_LOG_H

#include "base/status.h"

typedef enum spey_log_level {
    SPEY_LOG_QUIET, /* nothing */
    SPEY_LOG_ERROR,
    SPEY_LOG_WARNING,
    SPEY_LOG_INFO, /* default */
    SPEY_LOG_DEBUG,
} spey_log_level;

/* Show messages up to `level`; initially SPEY_LOG_INFO. */
void spey_log_set_level(spey_log_level level);
spey_log_level spey_log_get_level(void);
void spey_log(spey_log_level level, const char *format, ...) SPEY_PRINTF(2, 3);

#endif
