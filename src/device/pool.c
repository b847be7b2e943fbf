#include "device/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/limits.h"
#include "device/cpu.h"

#if defined(__x86_64__)
#define relax() __builtin_ia32_pause()
#else
#define relax() ((void)0)
#endif

/* A step of a small model lasts tens of microseconds: spinning that long saves two system calls a step. Beyond it the
 * engine waits for a request, and sleeping costs nothing. */
enum { SPIN_NS = 60000, SPINS_PER_CLOCK = 16 };

/* A word that lanes wait on until it changes: spin, then futex. */
typedef struct gate {
    _Alignas(64) _Atomic uint32_t value;
    _Atomic uint32_t sleepers;
} gate;

/* Fields that different lanes write lie on different cache lines. */
struct spey_team {
    int count;
    uint64_t spin_ns;
    gate phase; /* changes when all lanes have arrived */
    _Alignas(64) _Atomic uint32_t arrived;
    _Alignas(64) _Atomic int64_t next; /* chunk counter */
};

struct spey_pool {
    spey_team team;
    gate work; /* changes when fn and context are new */
    void (*fn)(void *context, const spey_lane *lane);
    void *context;
    bool stop;
    bool pinned;
    int n_started; /* workers that run, besides lane 0 */
    int cpus[SPEY_THREADS_MAX];
    struct worker {
        spey_pool *pool;
        pthread_t thread;
        int index;
    } workers[]; /* [team.count], entry 0 unused */
};

static void gate_wait(gate *g, uint32_t old, uint64_t spin_ns)
{
    uint64_t start = 0;
    for (;;) {
        for (int i = 0; i < SPINS_PER_CLOCK; i++) {
            if (atomic_load_explicit(&g->value, memory_order_acquire) != old) return;
            relax();
        }
        /* The clock also ends the spin of a lane that was preempted meanwhile. */
        uint64_t now = spey_clock_ns();
        if (!start) start = now;
        if (now - start >= spin_ns) break;
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->value) == old)
        syscall(SYS_futex, &g->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

/* Sequentially consistent: a sleeper raises `sleepers` before it looks at the value, we change the value before we
 * look at `sleepers`, so one of the two sees the other. */
static void gate_open(gate *g)
{
    atomic_fetch_add(&g->value, 1);
    if (atomic_load(&g->sleepers) > 0)
        syscall(SYS_futex, &g->value, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void team_barrier(spey_team *team)
{
    if (team->count == 1) {
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        return;
    }
    uint32_t phase = atomic_load_explicit(&team->phase.value, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 ==
        (uint32_t)team->count) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->next, 0, memory_order_relaxed);
        gate_open(&team->phase);
    } else {
        gate_wait(&team->phase, phase, team->spin_ns);
    }
}

static spey_lane lane_of(spey_pool *pool, int index)
{
    return (spey_lane){ .index = index, .count = pool->team.count, .team = &pool->team };
}

static void *worker_main(void *arg)
{
    const struct worker *worker = arg;
    spey_pool *pool = worker->pool;
    const spey_lane lane = lane_of(pool, worker->index);
    uint32_t seen = 0;
    for (;;) {
        gate_wait(&pool->work, seen, pool->team.spin_ns);
        seen++;
        if (pool->stop) return NULL;
        pool->fn(pool->context, &lane);
        team_barrier(&pool->team);
    }
}

static void pin(pthread_t thread, int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    pthread_setaffinity_np(thread, sizeof(set), &set); /* best effort: the mask may have shrunk */
}

static spey_status start_worker(spey_pool *pool, int index)
{
    struct worker *worker = &pool->workers[index];
    *worker = (struct worker){ .pool = pool, .index = index };
    int error = pthread_create(&worker->thread, NULL, worker_main, worker);
    if (error)
        return SPEY_FAIL(SPEY_LIMIT, "cannot start worker thread %d of %d: %s", index + 1,
                         pool->team.count, strerror(error));
    pool->n_started++;
    if (pool->pinned) pin(worker->thread, pool->cpus[index]);
    return SPEY_OK;
}

spey_status spey_pool_new(int n_threads, spey_pool **out)
{
    *out = NULL;
    if (n_threads == 0) n_threads = spey_cpu_cores();
    if (n_threads < 0 || n_threads > SPEY_THREADS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%d worker threads asked for; from 1 to %d are possible",
                         n_threads, (int)SPEY_THREADS_MAX);
    spey_pool *pool = spey_alloc(SPEY_PURPOSE_THREADS,
                                 sizeof(*pool) + (size_t)n_threads * sizeof(pool->workers[0]));
    if (!pool) return SPEY_NOMEM;
    int n_cores;
    int n_cpus = spey_cpu_list(pool->cpus, SPEY_THREADS_MAX, &n_cores);
    pool->pinned = n_threads > 1 && n_threads <= n_cpus;
    pool->team.count = n_threads;
    pool->team.spin_ns = n_threads <= n_cpus ? SPIN_NS : 0;
    for (int i = 1; i < n_threads; i++) {
        spey_status status = start_worker(pool, i);
        if (status != SPEY_OK) {
            spey_pool_free(pool);
            return status;
        }
    }
    *out = pool;
    return SPEY_OK;
}

void spey_pool_free(spey_pool *pool)
{
    if (!pool) return;
    pool->stop = true;
    gate_open(&pool->work);
    for (int i = 1; i <= pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    spey_free(pool);
}

int spey_pool_threads(const spey_pool *pool)
{
    return pool->team.count;
}

/* The scheduler may have left the caller on a pinned worker's CPU, where each would wait for the other's time slice
 * while cpus[0] idles. Moving it and giving it its mask back takes some microseconds, once in a long while. */
static void leave_workers_cpus(const spey_pool *pool)
{
    int here = sched_getcpu();
    for (int i = 1; i < pool->team.count; i++) {
        if (pool->cpus[i] != here) continue;
        cpu_set_t mask;
        if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return;
        pin(pthread_self(), pool->cpus[0]);
        sched_setaffinity(0, sizeof(mask), &mask);
        return;
    }
}

void spey_pool_run(spey_pool *pool, void (*fn)(void *context, const spey_lane *lane), void *context)
{
    const spey_lane lane = lane_of(pool, 0);
    if (pool->team.count > 1) {
        if (pool->pinned) leave_workers_cpus(pool);
        pool->fn = fn;
        pool->context = context;
        gate_open(&pool->work);
    }
    fn(context, &lane);
    team_barrier(&pool->team);
}

typedef struct step_list {
    const spey_step *steps;
    int n_steps;
} step_list;

static void run_step_list(void *context, const spey_lane *lane)
{
    const step_list *list = context;
    for (int i = 0; i < list->n_steps; i++) {
        if (i > 0) team_barrier(lane->team);
        list->steps[i].kernel->run(list->steps[i].args, lane);
    }
}

void spey_pool_run_steps(spey_pool *pool, const spey_step *steps, int n_steps)
{
    step_list list = { .steps = steps, .n_steps = n_steps };
    if (n_steps > 0) spey_pool_run(pool, run_step_list, &list);
}

void spey_lane_barrier(const spey_lane *lane)
{
    if (lane->team)
        team_barrier(lane->team);
    else
        *lane->counter = 0;
}

bool spey_lane_chunk(const spey_lane *lane, int64_t total, int64_t grain, int64_t *begin,
                     int64_t *end)
{
    SPEY_ASSERT(grain > 0);
    int64_t at;
    if (lane->team) {
        at = atomic_fetch_add_explicit(&lane->team->next, grain, memory_order_relaxed);
    } else {
        at = *lane->counter;
        *lane->counter = at < total ? at + grain : 0;
    }
    if (at >= total) return false;
    *begin = at;
    *end = total - at < grain ? total : at + grain;
    return true;
}

spey_lane spey_lane_solo(int64_t *counter)
{
    return (spey_lane){ .index = 0, .count = 1, .counter = counter };
}
