/* What this machine can do at best, measured: the 100 % of the bench. */
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "check_impl.h"
#include "device/cpu.h"

/* CPU time of this thread, so that other programs on the machine do not lower the ceiling. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct ceiling_work {
    const uint64_t *words;
    size_t n_words;
    double (*fma)(int64_t n_loops, float *sink);
    uint64_t sums[SPEY_THREADS_MAX];
    double rates[SPEY_THREADS_MAX]; /* bytes or flops per second of each lane */
} ceiling_work;

static void read_share(void *context, const spey_lane *lane)
{
    ceiling_work *work = context;
    size_t lanes = (size_t)lane->count, index = (size_t)lane->index;
    size_t begin = work->n_words * index / lanes & ~(size_t)63;
    size_t end = work->n_words * (index + 1) / lanes & ~(size_t)63;
    uint64_t sum = 0;
    double start = cpu_seconds();
    /* One load a cache line is enough to move it; four streams keep more misses in flight. */
    size_t quarter = (end - begin) / 4 & ~(size_t)7;
    const uint64_t *p = work->words + begin;
    for (size_t i = 0; i < quarter; i += 8)
        sum += p[i] + p[quarter + i] + p[2 * quarter + i] + p[3 * quarter + i];
    work->sums[lane->index] = sum;
    work->rates[lane->index] = (double)(end - begin) * 8 / (cpu_seconds() - start);
}

static void fma_share(void *context, const spey_lane *lane)
{
    ceiling_work *work = context;
    float sink;
    double start = cpu_seconds(), flops = work->fma(2000000, &sink);
    work->rates[lane->index] = flops / (cpu_seconds() - start);
    work->sums[lane->index] += sink > 0;
}

static double sum_of_rates(const ceiling_work *work, const spey_pool *pool)
{
    double sum = 0;
    for (int i = 0; i < spey_pool_threads(pool); i++)
        sum += work->rates[i];
    return sum;
}

void check_ceiling_measure(spey_pool *pool, check_ceiling *out)
{
    *out = (check_ceiling){ 0 };
    const size_t bytes = (size_t)128 << 20;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) check_die("cannot map %zu bytes", bytes);
    madvise(map, bytes, MADV_HUGEPAGE);
    memset(map, 1, bytes);
    static ceiling_work work;
    work.words = map;
    work.n_words = bytes / 8;
    work.fma = check_ceiling_fma_plain;
#if defined(__x86_64__)
    if (spey_cpu_features() & SPEY_CPU_AVX512)
        work.fma = check_ceiling_fma_avx512;
    else if (spey_cpu_features() & SPEY_CPU_AVX2)
        work.fma = check_ceiling_fma_avx2;
#endif
    for (int i = 0; i < 5; i++) {
        spey_pool_run(pool, read_share, &work);
        out->read_bytes = fmax(out->read_bytes, sum_of_rates(&work, pool));
        spey_pool_run(pool, fma_share, &work);
        out->fma_flops = fmax(out->fma_flops, sum_of_rates(&work, pool));
    }
    munmap(map, bytes);
}

double check_ceiling_fma_plain(int64_t n_loops, float *sink)
{
    float sums[16] = { 0 };
    for (int64_t i = 0; i < n_loops; i++)
        for (int k = 0; k < 16; k++)
            sums[k] = sums[k] * 0.5f + 1.0f;
    *sink = 0;
    for (int k = 0; k < 16; k++)
        *sink += sums[k];
    return (double)n_loops * 16 * 2;
}
