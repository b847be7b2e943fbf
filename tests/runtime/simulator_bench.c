#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/rng.h"
#include "runtime/driver.h"
#include "runtime/scheduler.h"
#include "simulator.h"

/* A crowd that renews itself: prompts of 64 to 1,087 tokens, outputs of 64 to 575, over a cache that holds as many at the
 * average of their longest lengths, so that admission has to think. */
enum { WARM_STEPS = 2000, TIMED_STEPS = 2000, LONGEST = 1664, BLOCK = 64 };

typedef struct bench {
    spey_scheduler *scheduler;
    spey_kv_cache *kv;
    spey_schedule schedules[2]; /* of steps by turns */
    spey_growth *growths;
    int32_t *lengths; /* by ticket */
    int32_t ids[LONGEST];
    spey_rng rng;
} bench;

static int32_t between(bench *b, int32_t low, int32_t high)
{
    return low + (int32_t)spey_rng_below(&b->rng, (uint64_t)(high - low + 1));
}

static void submit_until_full(bench *b)
{
    for (;;) {
        int32_t n_prompt = between(b, 64, 1087);
        spey_job job = { .ids = b->ids,
                         .salt = spey_rng_next(&b->rng), /* the cache finds nothing */
                         .n_prompt = n_prompt,
                         .n_max = n_prompt + between(b, 64, 575),
                         .width = 1,
                         .tenant = spey_rng_below(&b->rng, 16) };
        spey_ticket ticket;
        if (spey_scheduler_submit(b->scheduler, &job, &ticket)) return;
        b->lengths[2 * ticket] = n_prompt;
        b->lengths[2 * ticket + 1] = (int32_t)job.n_max;
    }
}

/* Of this thread alone: others may want the core. */
static uint64_t thread_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int begin(bench *b, spey_schedule *s)
{
    spey_scheduler_plan(b->scheduler, b->kv, thread_ns(), s);
    if (spey_scheduler_commit(b->scheduler, b->kv, s)) return 1;
    spey_scheduler_launch(b->scheduler, s);
    spey_kv_copies_done(b->kv);
    return 0;
}

static void finish(bench *b, const spey_schedule *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_items; i++) {
        const spey_schedule_item *item = &s->items[i];
        if (!spey_scheduler_serves(b->scheduler, item)) continue;
        spey_kv_advance(b->kv, item->seq, b->ids, item->n_tokens);
        if (!item->n_outputs) continue;
        int32_t known = ++b->lengths[2 * item->ticket];
        b->growths[n++] =
            (spey_growth){ item->ticket, 0, 0, known == b->lengths[2 * item->ticket + 1] };
    }
    spey_scheduler_take(b->scheduler, b->kv, s, b->growths, n);
    for (int32_t i = 0; i < n; i++)
        if (b->growths[i].ended) spey_scheduler_end(b->scheduler, b->kv, b->growths[i].ticket);
}

static int step(bench *b, uint64_t *ns)
{
    uint64_t start = thread_ns();
    if (begin(b, &b->schedules[0])) return 1;
    finish(b, &b->schedules[0]);
    *ns = thread_ns() - start;
    submit_until_full(b);
    return 0;
}

/* ---- beside a device ---- */

enum { DEVICE_NS = 200000, PAIRS = 9, PAIR_STEPS = 500 };

/* A step that takes none of the host's CPUs. */
static void sleep_a_step(void *user, uint64_t number)
{
    (void)user;
    if (number == 1) prctl(PR_SET_TIMERSLACK, 1); /* wake up in time */
    nanosleep(&(struct timespec){ .tv_nsec = DEVICE_NS }, NULL);
}

/* Steps per second, submitting and all; ahead, a step begins before the last one's results are there. */
static int run_beside(bench *b, bool ahead, double *rate)
{
    spey_driver *driver;
    if (spey_driver_new(sleep_a_step, NULL, &driver)) return 1;
    uint64_t start = spey_clock_ns();
    int failed = 0;
    const uint64_t lag = ahead, n = PAIR_STEPS;
    for (uint64_t i = 1; i <= n + lag && !failed; i++) {
        if (i <= n) {
            failed = begin(b, &b->schedules[i % 2]);
            spey_driver_start(driver);
        }
        if (i - lag == 0) continue;
        spey_driver_wait(driver, i - lag);
        finish(b, &b->schedules[(i - lag) % 2]);
        submit_until_full(b);
    }
    *rate = PAIR_STEPS / ((double)(spey_clock_ns() - start) * 1e-9);
    spey_driver_free(driver);
    return failed;
}

static int by_rate(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* By turns, as the machine may be busy; medians. */
static int measure_ahead(bench *b)
{
    double rates[2][PAIRS];
    for (int i = 0; i < 2 * PAIRS; i++)
        if (run_beside(b, i % 2, &rates[i % 2][i / 2])) return 1;
    for (int ahead = 0; ahead < 2; ahead++)
        qsort(rates[ahead], PAIRS, sizeof rates[ahead][0], by_rate);
    printf("  with a device that takes %d us a step: %.0f steps/s, one step ahead %.0f\n",
           DEVICE_NS / 1000, rates[0][PAIRS / 2], rates[1][PAIRS / 2]);
    return 0;
}

static int by_time(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static int measure(bench *b, int32_t n_sequences)
{
    static uint64_t ns[TIMED_STEPS];
    uint64_t total = 0, tokens = 0, sequences = 0;
    submit_until_full(b);
    for (int i = 0; i < WARM_STEPS; i++)
        if (step(b, &ns[0])) return 1;
    spey_alloc_seal(true);
    for (int i = 0; i < TIMED_STEPS; i++) {
        if (step(b, &ns[i])) return 1;
        total += ns[i];
        tokens += (uint64_t)b->schedules[0].n_tokens;
        sequences += (uint64_t)b->schedules[0].n_items;
    }
    spey_alloc_seal(false);
    qsort(ns, TIMED_STEPS, sizeof ns[0], by_time);
    printf("%d sequences at most, %.0f and %.0f tokens a step: host %.1f us a step, median %.1f, "
           "p99 %.1f\n",
           n_sequences, (double)sequences / TIMED_STEPS, (double)tokens / TIMED_STEPS,
           (double)total / TIMED_STEPS * 1e-3, (double)ns[TIMED_STEPS / 2] * 1e-3,
           (double)ns[TIMED_STEPS * 99 / 100] * 1e-3);
    return measure_ahead(b);
}

int sim_bench(int32_t n_sequences)
{
    static bench b;
    b = (bench){ .rng = { .seed = 1 } };
    spey_scheduler_limits limits = { .policy = SPEY_GUARANTEED_NO_EVICT,
                                     .sequences_max = n_sequences,
                                     .queue_max = 256,
                                     .step_tokens_max = n_sequences + 8192,
                                     .step_outputs_max = n_sequences,
                                     .ahead = true };
    limits.kv = (spey_kv_limits){ .sequences_max = n_sequences,
                                  .sequence_tokens_max = LONGEST,
                                  .step_tokens_max = limits.step_tokens_max,
                                  .block_tokens = BLOCK,
                                  .n_groups = 1 };
    limits.kv.groups[0].n_blocks = n_sequences * 895 / BLOCK;
    b.lengths = calloc(2 * ((size_t)n_sequences + 256), sizeof(int32_t));
    b.growths = calloc((size_t)n_sequences, sizeof(spey_growth));
    int failed = !b.lengths || !b.growths || spey_kv_cache_new(&limits.kv, &b.kv) ||
                 spey_scheduler_new(&limits, &b.scheduler) ||
                 spey_schedule_init(&b.schedules[0], &limits) ||
                 spey_schedule_init(&b.schedules[1], &limits) || measure(&b, n_sequences);
    spey_schedule_deinit(&b.schedules[0]);
    spey_schedule_deinit(&b.schedules[1]);
    spey_scheduler_free(b.scheduler);
    spey_kv_cache_free(b.kv);
    free(b.lengths);
    free(b.growths);
    return failed;
}
