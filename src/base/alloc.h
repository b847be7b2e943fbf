/* The only heap of the host code. Every allocation is zeroed, counted under its purpose, and can be made to
 * fail by a test. Thread-safe.
 *
 * On failure the functions return NULL and set this thread's error text; the caller returns SPEY_NOMEM. */
#ifndef SPEY_BASE_ALLOC_H
#define SPEY_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* clang-format off */
#define SPEY_PURPOSE_LIST(X) \
    X(GENERAL, "general")    \
    X(TEXT,    "tokenizer and text") \
    X(GRAPH,   "graph")      \
    X(ENGINE,  "engine file") \
    X(WEIGHTS, "weights")    \
    X(ARENA,   "activations") \
    X(KV,      "kv cache")   \
    X(RUNTIME, "runtime tables") \
    X(THREADS, "worker threads")
/* clang-format on */

typedef enum spey_purpose {
#define SPEY_PURPOSE_ENUM(name, text) SPEY_PURPOSE_##name,
    SPEY_PURPOSE_LIST(SPEY_PURPOSE_ENUM)
#undef SPEY_PURPOSE_ENUM
        SPEY_PURPOSE_COUNT
} spey_purpose;

/* Zeroed memory, 64-byte aligned; bytes == 0 gives a valid pointer. Free with spey_free. */
void *spey_alloc(spey_purpose purpose, size_t bytes);

/* The same for n items of item_bytes; an overflowing product fails. */
void *spey_alloc_array(spey_purpose purpose, size_t n, size_t item_bytes);

/* Grow or shrink; new bytes are zero. NULL `p` allocates. On failure `p` is untouched and still yours. */
void *spey_realloc(spey_purpose purpose, void *p, size_t bytes);

/* Copy of n bytes plus a final 0. */
char *spey_strndup(spey_purpose purpose, const char *text, size_t n);
char *spey_strdup(spey_purpose purpose, const char *text);

void spey_free(void *p);

#define spey_new(purpose, type) ((type *)spey_alloc((purpose), sizeof(type)))
#define spey_new_array(purpose, type, n) \
    ((type *)spey_alloc_array((purpose), (size_t)(n), sizeof(type)))

/* Checked arithmetic for sizes that come from outside: false on overflow, `out` untouched. */
bool spey_mul_size(size_t a, size_t b, size_t *out);
bool spey_add_size(size_t a, size_t b, size_t *out);

/* ---- accounting and tests ---- */

typedef struct spey_alloc_stats {
    size_t bytes[SPEY_PURPOSE_COUNT]; /* live now */
    size_t peak_bytes;                /* highest total ever */
    uint64_t n_allocations;           /* calls so far */
    uint64_t n_live;
} spey_alloc_stats;

spey_alloc_stats spey_alloc_read_stats(void);
const char *spey_purpose_text(spey_purpose purpose);

/* Torture: let the n-th allocation from now (1 = the next) fail, once. 0 switches it off. */
void spey_alloc_fail_nth(uint64_t n);

/* While sealed, an allocation on the calling thread aborts with a message: the step path allocates nothing. */
void spey_alloc_seal(bool sealed);

#endif
