/* How code inside Spey reports failures.
 *
 * Who detects, explains: `return SPEY_FAIL(SPEY_FORMAT, "%s: %zu bytes is too short", path, n)`. The text
 * goes to a fixed record of the calling thread (no allocation). Callers pass the code up with SPEY_TRY, or
 * `goto fail` when there is something to undo, and name where they were with SPEY_TRY_CTX at boundaries. */
#ifndef SPEY_BASE_STATUS_H
#define SPEY_BASE_STATUS_H

#include "spey/status.h"

#if defined(__GNUC__)
#define SPEY_PRINTF(format_index, args_index) \
    __attribute__((format(printf, format_index, args_index)))
#else
#define SPEY_PRINTF(format_index, args_index)
#endif

/* Set this thread's error text and return `status`. */
spey_status spey_error_set(spey_status status, const char *format, ...) SPEY_PRINTF(2, 3);

/* Put "context: " before this thread's error text and return `status`. */
spey_status spey_error_context(spey_status status, const char *format, ...) SPEY_PRINTF(2, 3);

/* Report a broken invariant and abort: for programmer errors only, never for bad input. */
__attribute__((noreturn)) void spey_assert_failed(const char *condition, const char *file,
                                                  int line);

/* The value of SPEY_FAIL is `status` itself, so that an analyser sees which one. */
static inline spey_status spey_failure(spey_status reported, spey_status status)
{
    (void)reported;
    return status;
}
#define SPEY_FAIL(status, ...) spey_failure(spey_error_set((status), __VA_ARGS__), (status))

#define SPEY_TRY(expr)                                  \
    do {                                                \
        spey_status try_status_ = (expr);               \
        if (try_status_ != SPEY_OK) return try_status_; \
    } while (0)

#define SPEY_TRY_CTX(expr, ...)                                                          \
    do {                                                                                 \
        spey_status try_status_ = (expr);                                                \
        if (try_status_ != SPEY_OK) return spey_error_context(try_status_, __VA_ARGS__); \
    } while (0)

#define SPEY_ASSERT(condition) \
    ((condition) ? (void)0 : spey_assert_failed(#condition, __FILE__, __LINE__))

#endif
