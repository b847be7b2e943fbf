/* Decode steps are captured and replayed: driven against a device that only counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/replay.h"

/* What the device was asked for. A graph is the address of its number of steps. */
struct spey_device {
    int n_runs, n_captures, n_replays, n_freed;
    bool capturing;
    spey_status run_fails, replay_fails;
    int graphs[256];
};

static spey_status fake_run(spey_device *d, const spey_step *steps, int n_steps)
{
    (void)steps;
    (void)n_steps;
    d->n_runs += !d->capturing;
    return d->run_fails ? SPEY_FAIL(d->run_fails, "the kernel refuses") : SPEY_OK;
}

static spey_status fake_begin(spey_device *d)
{
    assert_false(d->capturing);
    d->capturing = true;
    return SPEY_OK;
}

static spey_status fake_end(spey_device *d, void **out)
{
    assert_true(d->capturing);
    d->capturing = false;
    *out = &d->graphs[d->n_captures++];
    return SPEY_OK;
}

static spey_status fake_replay(spey_device *d, void *graph)
{
    assert_non_null(graph);
    d->n_replays++;
    return d->replay_fails ? SPEY_FAIL(d->replay_fails, "the device is lost") : SPEY_OK;
}

static void fake_free(spey_device *d, void *graph)
{
    assert_non_null(graph);
    d->n_freed++;
}

static const spey_backend fake = { .run = fake_run,
                                   .capture_begin = fake_begin,
                                   .capture_end = fake_end,
                                   .replay = fake_replay,
                                   .graph_free = fake_free };

static spey_status step(spey_replay *replay, const spey_backend *backend, spey_device *d, int seqs,
                        int tokens, int outputs)
{
    const spey_ragged batch = { .n_seqs = seqs, .n_tokens = tokens, .n_outputs = outputs };
    const spey_step steps[1] = { { 0 } };
    return spey_replay_run(replay, backend, d, &batch, steps, 1);
}

static void decode(spey_replay *replay, spey_device *d, int seqs)
{
    assert_int_equal(step(replay, &fake, d, seqs, seqs, seqs), SPEY_OK);
}

static void a_size_is_captured_when_it_comes_again(void **state)
{
    (void)state;
    spey_replay replay = { 0 };
    spey_device d = { 0 };
    decode(&replay, &d, 3);
    assert_int_equal(d.n_runs, 1);
    assert_int_equal(d.n_captures, 0);
    for (int i = 0; i < 5; i++)
        decode(&replay, &d, 3);
    assert_int_equal(d.n_runs, 1);
    assert_int_equal(d.n_captures, 1);
    assert_int_equal(d.n_replays, 5);
    decode(&replay, &d, 4);
    assert_int_equal(d.n_runs, 2);
    spey_replay_deinit(&replay, &fake, &d);
    assert_int_equal(d.n_freed, 1);
}

static void prompts_are_not_captured(void **state)
{
    (void)state;
    spey_replay replay = { 0 };
    spey_device d = { 0 };
    for (int i = 0; i < 3; i++) {
        assert_int_equal(step(&replay, &fake, &d, 2, 9, 2), SPEY_OK);
        assert_int_equal(step(&replay, &fake, &d, 2, 2, 1), SPEY_OK);
    }
    assert_int_equal(d.n_runs, 6);
    assert_int_equal(d.n_captures, 0);
}

static void a_backend_without_graphs_runs_steps(void **state)
{
    (void)state;
    spey_replay replay = { 0 };
    spey_device d = { 0 };
    const spey_backend plain = { .run = fake_run };
    for (int i = 0; i < 3; i++)
        assert_int_equal(step(&replay, &plain, &d, 1, 1, 1), SPEY_OK);
    assert_int_equal(d.n_runs, 3);
    spey_replay_deinit(&replay, &plain, &d);
}

static void the_size_that_was_away_longest_makes_room(void **state)
{
    (void)state;
    spey_replay replay = { 0 };
    spey_device d = { 0 };
    for (int n = 1; n <= SPEY_REPLAY_GRAPHS; n++) {
        decode(&replay, &d, n);
        decode(&replay, &d, n);
    }
    decode(&replay, &d, 1); /* so that 2 is the oldest */
    decode(&replay, &d, SPEY_REPLAY_GRAPHS + 1);
    assert_int_equal(d.n_freed, 1);
    int n_runs = d.n_runs;
    decode(&replay, &d, 1);
    assert_int_equal(d.n_runs, n_runs);
    decode(&replay, &d, 2);
    assert_int_equal(d.n_runs, n_runs + 1);
    spey_replay_deinit(&replay, &fake, &d);
    assert_int_equal(d.n_freed, d.n_captures);
}

static void a_capture_that_fails_is_ended_and_tried_again(void **state)
{
    (void)state;
    spey_replay replay = { 0 };
    spey_device d = { 0 };
    decode(&replay, &d, 2);
    d.run_fails = SPEY_DEVICE;
    assert_int_equal(step(&replay, &fake, &d, 2, 2, 2), SPEY_DEVICE);
    assert_non_null(strstr(spey_last_error(), "the kernel refuses"));
    assert_false(d.capturing);
    assert_int_equal(d.n_freed, 1);
    d.run_fails = SPEY_OK;
    for (int i = 0; i < 3; i++)
        decode(&replay, &d, 2);
    assert_int_equal(d.n_replays, 2);
    spey_replay_deinit(&replay, &fake, &d);
}

static void a_replay_that_fails_is_forgotten(void **state)
{
    (void)state;
    spey_replay replay = { 0 };
    spey_device d = { .replay_fails = SPEY_DEVICE };
    decode(&replay, &d, 2);
    assert_int_equal(step(&replay, &fake, &d, 2, 2, 2), SPEY_DEVICE);
    assert_int_equal(d.n_freed, 1);
    decode(&replay, &d, 2);
    assert_int_equal(d.n_runs, 2);
    spey_replay_deinit(&replay, &fake, &d);
    assert_int_equal(d.n_freed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_size_is_captured_when_it_comes_again),
        cmocka_unit_test(prompts_are_not_captured),
        cmocka_unit_test(a_backend_without_graphs_runs_steps),
        cmocka_unit_test(the_size_that_was_away_longest_makes_room),
        cmocka_unit_test(a_capture_that_fails_is_ended_and_tried_again),
        cmocka_unit_test(a_replay_that_fails_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
