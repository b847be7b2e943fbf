#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

static _Thread_local char error_text[SPEY_ERROR_BYTES_MAX];

const char *spey_status_text(spey_status status)
{
    switch (status) {
#define STATUS_CASE(name, number, text) \
    case SPEY_##name: return text;
        SPEY_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

const char *spey_last_error(void)
{
    return error_text;
}

spey_status spey_error_set(spey_status status, const char *format, ...)
{
    /* The arguments may point into the old text, so the new one is made beside it. */
    char text[SPEY_ERROR_BYTES_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(error_text, text, sizeof text);
    return status;
}

spey_status spey_error_context(spey_status status, const char *format, ...)
{
    char text[SPEY_ERROR_BYTES_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    snprintf(text + used, sizeof text - used, ": %.*s", (int)(sizeof text - used), error_text);
    memcpy(error_text, text, sizeof text);
    return status;
}

_Noreturn void spey_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "spey: internal error: %s does not hold (%s:%d)\n", condition, file, line);
    abort();
}
