#include "device/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/limits.h"

enum { ITEMS = 1003, THREADS = 4 };

/* ---- what lanes do ---- */

typedef struct shared {
    _Atomic int visits[ITEMS];
    _Atomic int lanes_seen;
    _Atomic int arrived;
    _Atomic int early; /* lanes that passed a barrier before all had come */
    int64_t grain;
} shared;

static void take_chunks(void *context, const spey_lane *lane)
{
    shared *s = context;
    atomic_fetch_add(&s->lanes_seen, 1 << 8 * lane->index);
    int64_t begin, end;
    while (spey_lane_chunk(lane, ITEMS, s->grain, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            atomic_fetch_add(&s->visits[i], 1);
}

static void meet_often(void *context, const spey_lane *lane)
{
    shared *s = context;
    for (int round = 1; round <= 200; round++) {
        atomic_fetch_add(&s->arrived, 1);
        spey_lane_barrier(lane);
        if (atomic_load(&s->arrived) < round * lane->count) atomic_fetch_add(&s->early, 1);
        spey_lane_barrier(lane);
    }
}

static void loop_twice(void *context, const spey_lane *lane)
{
    take_chunks(context, lane);
    spey_lane_barrier(lane);
    take_chunks(context, lane);
}

/* ---- tests, each with 1 … THREADS lanes: more than the CPUs of a small machine ---- */

static void with_every_team(void (*test)(spey_pool *pool))
{
    for (int n = 1; n <= THREADS; n++) {
        spey_pool *pool;
        assert_int_equal(spey_pool_new(n, &pool), SPEY_OK);
        assert_int_equal(spey_pool_threads(pool), n);
        test(pool);
        spey_pool_free(pool);
    }
}

static void check_chunks(spey_pool *pool)
{
    static const int64_t grains[] = { 1, 7, 64, ITEMS, 5000 };
    for (size_t g = 0; g < sizeof(grains) / sizeof(grains[0]); g++) {
        shared s = { .grain = grains[g] };
        spey_pool_run(pool, take_chunks, &s);
        for (int i = 0; i < ITEMS; i++)
            assert_int_equal(s.visits[i], 1);
        for (int lane = 0; lane < spey_pool_threads(pool); lane++)
            assert_int_equal(s.lanes_seen >> 8 * lane & 255, 1);
    }
}

static void chunks_cover_everything_once(void **state)
{
    (void)state;
    with_every_team(check_chunks);
}

static void check_second_loop(spey_pool *pool)
{
    shared s = { .grain = 16 };
    spey_pool_run(pool, loop_twice, &s);
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(s.visits[i], 2);
}

static void a_barrier_resets_the_counter(void **state)
{
    (void)state;
    with_every_team(check_second_loop);
}

static void check_barrier(spey_pool *pool)
{
    shared s = { 0 };
    spey_pool_run(pool, meet_often, &s);
    assert_int_equal(s.early, 0);
    assert_int_equal(s.arrived, 200 * spey_pool_threads(pool));
}

static void nobody_passes_a_barrier_early(void **state)
{
    (void)state;
    with_every_team(check_barrier);
}

static void check_many_runs(spey_pool *pool)
{
    shared s = { .grain = 400 };
    for (int i = 0; i < 2000; i++)
        spey_pool_run(pool, take_chunks, &s);
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(s.visits[i], 2000);
}

static void many_small_runs_lose_nothing(void **state)
{
    (void)state;
    with_every_team(check_many_runs);
}

/* ---- steps ---- */

static void run_add_one(const void *args, const spey_lane *lane)
{
    int64_t begin, end;
    int *const *values = args;
    while (spey_lane_chunk(lane, ITEMS, 10, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            (*values)[i] += 1;
}

static void run_double(const void *args, const spey_lane *lane)
{
    int64_t begin, end;
    int *const *values = args;
    while (spey_lane_chunk(lane, ITEMS, 33, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            (*values)[i] *= 2;
}

/* The values are plain ints: two steps that overlap would race, here and under the thread sanitizer. */
static void check_steps(spey_pool *pool)
{
    static const spey_kernel add_one = { .name = "test/add_one", .run = run_add_one };
    static const spey_kernel twice = { .name = "test/double", .run = run_double };
    static int values[ITEMS];
    for (int i = 0; i < ITEMS; i++)
        values[i] = i;
    int *p = values;
    const spey_step steps[] = { { &add_one, &p }, { &twice, &p }, { &add_one, &p } };
    spey_pool_run_steps(pool, steps, 3);
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(values[i], 2 * (i + 1) + 1);
    spey_pool_run_steps(pool, steps, 0);
    assert_int_equal(values[1], 5);
}

static void steps_run_in_order(void **state)
{
    (void)state;
    with_every_team(check_steps);
}

/* ---- edges ---- */

static void a_solo_lane_takes_every_chunk(void **state)
{
    (void)state;
    int64_t counter = 0;
    const spey_lane lane = spey_lane_solo(&counter);
    shared s = { .grain = 7 };
    take_chunks(&s, &lane);
    take_chunks(&s, &lane); /* a finished loop leaves the counter at 0 */
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(s.visits[i], 2);
    int64_t begin, end;
    assert_true(spey_lane_chunk(&lane, 10, 4, &begin, &end));
    spey_lane_barrier(&lane);
    assert_true(spey_lane_chunk(&lane, 10, 4, &begin, &end));
    assert_int_equal(begin, 0);
    assert_int_equal(end, 4);
    assert_false(spey_lane_chunk(&lane, 0, 4, &begin, &end));
}

static void absurd_numbers_of_threads_are_refused(void **state)
{
    (void)state;
    spey_pool *pool;
    assert_int_equal(spey_pool_new(SPEY_THREADS_MAX + 1, &pool), SPEY_LIMIT);
    assert_null(pool);
    assert_int_equal(spey_pool_new(-1, &pool), SPEY_LIMIT);
    spey_pool_free(NULL);
}

static void no_memory_means_no_pool(void **state)
{
    (void)state;
    spey_pool *pool;
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_pool_new(2, &pool), SPEY_NOMEM);
    spey_alloc_fail_nth(0);
    assert_null(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_cover_everything_once),
        cmocka_unit_test(a_barrier_resets_the_counter),
        cmocka_unit_test(nobody_passes_a_barrier_early),
        cmocka_unit_test(many_small_runs_lose_nothing),
        cmocka_unit_test(steps_run_in_order),
        cmocka_unit_test(a_solo_lane_takes_every_chunk),
        cmocka_unit_test(absurd_numbers_of_threads_are_refused),
        cmocka_unit_test(no_memory_means_no_pool),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
