/* Persistent worker threads that run lists of steps together (SPMD).
 *
 * Workers are pinned to the CPUs this process may use, spin shortly for new work, then sleep. The calling thread
 * is lane 0; it is not pinned, only moved off a worker's CPU. With more threads than CPUs nothing is pinned and
 * nobody spins. One thread at a time may call run. */
#ifndef SPEY_DEVICE_POOL_H
#define SPEY_DEVICE_POOL_H

#include "base/status.h"
#include "device/kernel.h"

typedef struct spey_pool spey_pool;

/* n_threads 0: spey_cpu_cores(). More than SPEY_THREADS_MAX is SPEY_LIMIT. */
spey_status spey_pool_new(int n_threads, spey_pool **out);
void spey_pool_free(spey_pool *pool);
int spey_pool_threads(const spey_pool *pool);

/* Run fn on all lanes; returns when all have returned. */
void spey_pool_run(spey_pool *pool, void (*fn)(void *context, const spey_lane *lane),
                   void *context);

/* Run the steps in order on all lanes, with a barrier between steps. */
void spey_pool_run_steps(spey_pool *pool, const spey_step *steps, int n_steps);

/* Wait until all lanes of the team arrive; resets the chunk counter. No-op for a team of one. */
void spey_lane_barrier(const spey_lane *lane);

/* Dynamic sharing: take the next chunk [*begin, *end) of [0, total), `grain` items long; false when none is left.
 * All lanes pass the same total and grain. The counter starts at 0 after each barrier and at the start of each row;
 * a second shared loop inside one row needs a barrier before it. */
bool spey_lane_chunk(const spey_lane *lane, int64_t total, int64_t grain, int64_t *begin,
                     int64_t *end);

/* A lane alone, for tests and small work on the calling thread; keeps `counter`, its chunk counter (start at 0; a
 * shared loop that ran to its end leaves 0). */
spey_lane spey_lane_solo(int64_t *counter);

#endif
