/* Status codes: what every fallible function of Spey returns, and the text that explains a failure. */
#ifndef SPEY_STATUS_H
#define SPEY_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* clang-format off */
/* X(name, number, text). The numbers are ABI: append only. */
#define SPEY_STATUS_LIST(X)                                        \
    X(OK,          0, "ok")                                        \
    X(INVALID,     1, "invalid argument")                          \
    X(FORMAT,      2, "malformed input")                           \
    X(UNSUPPORTED, 3, "not supported")                             \
    X(LIMIT,       4, "a configured limit was reached")            \
    X(NOMEM,       5, "out of memory")                             \
    X(IO,          6, "input/output error")                        \
    X(NOT_FOUND,   7, "not found")                                 \
    X(CANCELLED,   8, "cancelled")                                 \
    X(DEVICE,      9, "device error")                              \
    X(INTERNAL,   10, "internal error")
/* clang-format on */

typedef enum spey_status {
#define SPEY_STATUS_ENUM(name, number, text) SPEY_##name = number,
    SPEY_STATUS_LIST(SPEY_STATUS_ENUM)
#undef SPEY_STATUS_ENUM
} spey_status;

/* Static text for a code, e.g. "malformed input". Never NULL. Any thread. */
const char *spey_status_text(spey_status status);

/* One line that explains the last failure on the calling thread: what was found, what was expected,
 * where. Valid until the next failure on this thread; "" when nothing has failed yet. */
const char *spey_last_error(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
