/* On the demo model: what a request gets does not depend on what runs beside it, on how its prompt is cut, on what the cache
 * had, or on the policy: the same ids, and log-probabilities of the same bits.
 *
 *   test_batching [PATTERN] [--device cuda]
 *
 * On a device ids and log-probabilities may differ as runtime/recorder.h says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../runtime/recorder.h"
#include "base/rng.h"
#include "engine_fixture.h"
#include "runtime/context.h"

enum { REQUESTS = 64, VOCAB = 8192, PROMPT_MAX = 80, OUTPUT_MAX = 32, WIDTH_MAX = 3 };

static bool mostly_plain; /* seven of eight requests ask for nothing but the likeliest tokens */

/* Lengths, beginnings in common, penalties, several sequences, cancels: all drawn from the number. */
static void submit(spey_context *context, int number, record *r)
{
    static const char *const stops[] = { "e", "a" };
    spey_rng rng = { .seed = 7000 + (uint64_t)number };
    int32_t prompt[PROMPT_MAX];
    size_t n = 1 + (size_t)spey_rng_below(&rng, PROMPT_MAX - 1),
           shared = (size_t)spey_rng_below(&rng, n + 1);
    spey_rng family = { .seed = (uint64_t)number % 4 };
    for (size_t i = 0; i < n; i++)
        prompt[i] = (int32_t)spey_rng_below(i < shared ? &family : &rng, VOCAB);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 1 + (int32_t)spey_rng_below(&rng, OUTPUT_MAX);
    s.temperature = number % 3 ? 1.0 : 0;
    s.top_k = number % 5 ? 0 : 40;
    s.repetition_penalty = number % 4 ? 1 : 1.2;
    s.presence_penalty = number % 7 ? 0 : 0.5;
    s.no_repeat_ngram = number % 6 ? 0 : 3;
    s.seed = (uint64_t)number;
    s.logprobs = 0;
    s.n = number % 8 ? 1 : WIDTH_MAX;
    if (number % 10 == 3) {
        s.temperature = 0;
        s.logprobs = -1;
        s.n = 2;
        s.beams = WIDTH_MAX;
    }
    if (mostly_plain && number % 8) {
        s.temperature = s.presence_penalty = 0;
        s.repetition_penalty = 1;
        s.no_repeat_ngram = 0;
        s.n = s.beams = 1;
        s.logprobs = -1;
        s.stop = stops;
        s.n_stop = number % 3 == 1 ? 2 : 0;
    }
    r->cancel_after = number % 9 ? 0 : 5;
    e2e_ok(spey_context_submit(context, prompt, n, &s, record_output, r, NULL), "submit");
}

static spey_context *open_context(const spey_context_options *options)
{
    spey_context *context;
    e2e_ok(spey_context_new(e2e_demo, options, &context), "context");
    return context;
}

static void run_crowd(const spey_context_options *options, record *records, uint64_t *pauses)
{
    spey_context *context = open_context(options);
    for (int i = 0; i < REQUESTS; i++)
        submit(context, i, &records[i]);
    int n_ahead = 0;
    spey_iteration_stats step = { 0 };
    for (int32_t active = 1; active > 0;) {
        e2e_ok(spey_context_step(context, &active), "step");
        if (spey_context_read_iteration(context, step.iter, &step)) n_ahead += step.began_ahead;
    }
    assert_int_equal(n_ahead > 0, options->ahead == SPEY_AHEAD_ON);
    *pauses = spey_context_counts(context).pauses;
    spey_context_free(context);
}

static void ordinary(spey_context_options *options)
{
    spey_context_options_init(options);
    options->threads = 2;
    options->sequences_max = 16;
    options->kv_block_tokens = 16;
    options->sequence_tokens_max = PROMPT_MAX + OUTPUT_MAX;
    options->batch_invariant = !e2e_device;
    options->device = e2e_device;
    options->ahead = SPEY_AHEAD_OFF;
}

static const record *alone(void)
{
    static record of_each[2][REQUESTS];
    record *records = of_each[mostly_plain];
    if (records[0].n_ends) return records;
    for (int i = 0; i < REQUESTS; i++) {
        spey_context_options options;
        ordinary(&options);
        options.sequences_max = WIDTH_MAX;
        options.no_kv_reuse = true;
        spey_context *context = open_context(&options);
        submit(context, i, &records[i]);
        e2e_ok(spey_context_run(context), "run");
        spey_context_free(context);
    }
    return records;
}

static void check(const spey_context_options *options, bool pauses_expected)
{
    static record crowd[REQUESTS];
    memset(crowd, 0, sizeof crowd);
    const record *wanted = alone();
    uint64_t pauses;
    run_crowd(options, crowd, &pauses);
    assert_int_equal(pauses > 0, pauses_expected);
    for (int i = 0; i < REQUESTS; i++)
        assert_int_equal(crowd[i].n_ends, 1);
    record_compare(crowd, wanted, REQUESTS, !e2e_device);
}

static void a_crowd_that_shares_prefixes(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    check(&options, false);
}

static void prompts_in_small_pieces_and_no_reuse(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    options.no_kv_reuse = true;
    options.step_tokens_max = 24;
    options.step_prefill_max = 5;
    check(&options, false);
}

static void little_memory(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options);
    spey_context *context = open_context(&options);
    uint64_t block_bytes = spey_runner_get_plan(spey_context_runner(context))->kv_block_bytes;
    spey_context_free(context);
    options.kv_bytes = 25 * block_bytes; /* three sequences at their longest */
    check(&options, false);
    options.policy = SPEY_MAX_UTILIZATION;
    check(&options, true);
    options.kv_host_bytes = 40 * block_bytes; /* what is paused or evicted comes back from there */
    check(&options, true);
    char path[64];
    snprintf(path, sizeof path, "/tmp/spey-test-batching-%d", (int)getpid());
    unlink(path);
    options.kv_file = path; /* or from a file, in the second run that of the first */
    options.kv_host_bytes = 20 * block_bytes;
    check(&options, true);
    check(&options, true);
    unlink(path);
    options.kv_file = NULL;
    options.kv_host_bytes = 0;
    options.no_kv_reuse = true;
    check(&options, true);
    options.policy = SPEY_STATIC_BATCH;
    check(&options, false);
}

static void one_step_ahead(void **state)
{
    (void)state;
    mostly_plain = true;
    int n_stopped = 0;
    for (int i = 0; i < REQUESTS; i++)
        n_stopped += alone()[i].finish[0] == SPEY_FINISH_STOP;
    assert_in_range(n_stopped, 5, REQUESTS - 5);
    spey_context_options options;
    ordinary(&options);
    options.ahead = SPEY_AHEAD_ON;
    check(&options, false);
    options.step_tokens_max = 24;
    options.step_prefill_max = 5;
    check(&options, false);
    spey_context *context = open_context(&options);
    uint64_t block_bytes = spey_runner_get_plan(spey_context_runner(context))->kv_block_bytes;
    spey_context_free(context);
    options.kv_bytes = 16 * block_bytes;
    options.kv_host_bytes = 40 * block_bytes;
    options.policy = SPEY_MAX_UTILIZATION;
    check(&options, true);
    mostly_plain = false;
}

int main(int argc, char **argv)
{
    if (!e2e_read_arguments(argc, argv)) return 2;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crowd_that_shares_prefixes),
        cmocka_unit_test(prompts_in_small_pieces_and_no_reuse),
        cmocka_unit_test(little_memory),
        cmocka_unit_test(one_step_ahead),
    };
    return cmocka_run_group_tests_name("batching", tests, e2e_open_demo, e2e_close_demo);
}
