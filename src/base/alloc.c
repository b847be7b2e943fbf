#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"

/* Sits before each block, one alignment unit wide, so that the block stays 64-byte aligned. */
typedef union alloc_header {
    struct {
        size_t bytes;
        spey_purpose purpose;
    } info;
    char pad[64];
} alloc_header;

static _Atomic size_t live_bytes[SPEY_PURPOSE_COUNT];
static _Atomic size_t total_bytes;
static _Atomic size_t peak_bytes;
static _Atomic uint64_t n_allocations;
static _Atomic uint64_t n_live;
static _Atomic uint64_t fail_countdown;
static _Thread_local bool thread_is_sealed;

static void count_add(spey_purpose purpose, size_t bytes)
{
    atomic_fetch_add(&live_bytes[purpose], bytes);
    size_t total = atomic_fetch_add(&total_bytes, bytes) + bytes;
    size_t peak = atomic_load(&peak_bytes);
    while (total > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, total)) {
    }
}

static void count_sub(spey_purpose purpose, size_t bytes)
{
    atomic_fetch_sub(&live_bytes[purpose], bytes);
    atomic_fetch_sub(&total_bytes, bytes);
}

static bool torture_says_fail(void)
{
    if (atomic_load(&fail_countdown) == 0) return false;
    return atomic_fetch_sub(&fail_countdown, 1) == 1;
}

static void *no_memory(size_t bytes)
{
    spey_error_set(SPEY_NOMEM, "out of memory: %zu bytes wanted", bytes);
    return NULL;
}

static void *allocate(spey_purpose purpose, size_t bytes)
{
    SPEY_ASSERT(!thread_is_sealed);
    SPEY_ASSERT(purpose < SPEY_PURPOSE_COUNT);
    atomic_fetch_add(&n_allocations, 1);
    size_t with_header;
    if (torture_says_fail() || bytes > PTRDIFF_MAX ||
        !spey_add_size(bytes, 2 * sizeof(alloc_header), &with_header))
        return no_memory(bytes);
    with_header &= ~(sizeof(alloc_header) - 1); /* aligned_alloc wants a multiple */
    alloc_header *header = aligned_alloc(sizeof(alloc_header), with_header);
    if (!header) return no_memory(bytes);
    header->info.bytes = bytes;
    header->info.purpose = purpose;
    count_add(purpose, bytes);
    atomic_fetch_add(&n_live, 1);
    return header + 1;
}

void *spey_alloc(spey_purpose purpose, size_t bytes)
{
    void *p = allocate(purpose, bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *spey_alloc_array(spey_purpose purpose, size_t n, size_t item_bytes)
{
    size_t bytes;
    if (!spey_mul_size(n, item_bytes, &bytes)) {
        spey_error_set(SPEY_NOMEM, "out of memory: %zu items of %zu bytes wanted", n, item_bytes);
        return NULL;
    }
    return spey_alloc(purpose, bytes);
}

void *spey_realloc(spey_purpose purpose, void *p, size_t bytes)
{
    if (!p) return spey_alloc(purpose, bytes);
    const alloc_header *old = (const alloc_header *)p - 1;
    void *moved = allocate(purpose, bytes);
    if (!moved) return NULL;
    size_t kept = old->info.bytes < bytes ? old->info.bytes : bytes;
    memcpy(moved, p, kept);
    memset((char *)moved + kept, 0, bytes - kept);
    spey_free(p);
    return moved;
}

char *spey_strndup(spey_purpose purpose, const char *text, size_t n)
{
    char *copy = spey_alloc(purpose, n + 1);
    if (copy) memcpy(copy, text, n);
    return copy;
}

char *spey_strdup(spey_purpose purpose, const char *text)
{
    return spey_strndup(purpose, text, strlen(text));
}

void spey_free(void *p)
{
    if (!p) return;
    alloc_header *header = (alloc_header *)p - 1;
    count_sub(header->info.purpose, header->info.bytes);
    atomic_fetch_sub(&n_live, 1);
    free(header);
}

bool spey_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product)) return false;
    *out = product;
    return true;
}

bool spey_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum)) return false;
    *out = sum;
    return true;
}

spey_alloc_stats spey_alloc_read_stats(void)
{
    spey_alloc_stats stats = { .peak_bytes = atomic_load(&peak_bytes),
                               .n_allocations = atomic_load(&n_allocations),
                               .n_live = atomic_load(&n_live) };
    for (int i = 0; i < SPEY_PURPOSE_COUNT; i++)
        stats.bytes[i] = atomic_load(&live_bytes[i]);
    return stats;
}

const char *spey_purpose_text(spey_purpose purpose)
{
    static const char *const text[] = {
#define PURPOSE_TEXT(name, text) text,
        SPEY_PURPOSE_LIST(PURPOSE_TEXT)
#undef PURPOSE_TEXT
    };
    SPEY_ASSERT(purpose < SPEY_PURPOSE_COUNT);
    return text[purpose];
}

void spey_alloc_fail_nth(uint64_t n)
{
    atomic_store(&fail_countdown, n);
}

void spey_alloc_seal(bool sealed)
{
    thread_is_sealed = sealed;
}
