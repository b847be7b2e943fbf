#include "device/ceiling.h"

#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/limits.h"

typedef struct read_work {
    const uint64_t *words;
    size_t n_words;
    uint64_t sums[SPEY_THREADS_MAX]; /* keeps the loads alive */
} read_work;

static void read_share(void *context, const spey_lane *lane)
{
    read_work *work = context;
    size_t lanes = (size_t)lane->count, index = (size_t)lane->index;
    size_t begin = work->n_words * index / lanes & ~(size_t)63;
    size_t end = work->n_words * (index + 1) / lanes & ~(size_t)63;
    uint64_t sum = 0;
    /* One load a cache line is enough to move it; four streams keep more misses in flight. */
    size_t quarter = (end - begin) / 4 & ~(size_t)7;
    const uint64_t *p = work->words + begin;
    for (size_t i = 0; i < quarter; i += 8)
        sum += p[i] + p[quarter + i] + p[2 * quarter + i] + p[3 * quarter + i];
    work->sums[lane->index] = sum;
}

spey_status spey_ceiling_read(spey_pool *pool, double *out)
{
    const size_t bytes = (size_t)256 << 20;
    *out = 0;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return SPEY_FAIL(SPEY_NOMEM, "cannot map %zu bytes to measure the read bandwidth", bytes);
    madvise(map, bytes, MADV_HUGEPAGE);
    memset(map, 1, bytes);
    read_work work = { .words = map, .n_words = bytes / 8 };
    for (int i = 0; i < 5; i++) {
        uint64_t start = spey_clock_ns();
        spey_pool_run(pool, read_share, &work);
        double rate = (double)bytes / spey_clock_seconds_since(start);
        *out = rate > *out ? rate : *out;
    }
    munmap(map, bytes);
    return SPEY_OK;
}
