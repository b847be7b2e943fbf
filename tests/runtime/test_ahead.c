/* Contexts and executors whose steps begin before the results of the last one are there: what comes out is the same.
 *
 *   test_ahead [PATTERN] [--device cuda]
 *
 * On a device it may differ as recorder.h says. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "recorder.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "tiny_engine.h"

enum { REQUESTS = 48, WIDTH_MAX = 2, VOCAB = 50, HIDDEN = 32, TABLE_ROWS = 3 };

/* With windows; and with a state, which cannot go back. */
enum { ENGINES = 2 };
static spey_engine *engines[ENGINES];
static int chosen;
static const char *on_device; /* NULL: the CPU */

static int open_engines(void **state)
{
    (void)state;
    for (int i = 0; i < ENGINES; i++) {
        spey_engine_file *file;
        tiny_shape shape = tiny_default;
        shape.two_groups = i == 0;
        shape.window = i == 0 ? 6 : 0;
        shape.scans = i == 1;
        if (tiny_engine_new(&shape, &file)) return -1;
        if (spey_engine_from_file(file, &engines[i])) return -1;
    }
    return 0;
}

static int close_engines(void **state)
{
    (void)state;
    for (int i = 0; i < ENGINES; i++)
        spey_engine_close(engines[i]);
    return 0;
}

typedef struct ask {
    spey_request_options options;
    spey_sampling sampling;
    int32_t prompt[20], stops[4];
    float rows[TABLE_ROWS][HIDDEN];
    spey_prompt_table table;
} ask;

/* Some prompts begin with rows of their own. */
static void draw_table(spey_rng *rng, ask *a, size_t n)
{
    for (int i = 0; i < TABLE_ROWS * HIDDEN; i++)
        a->rows[i / HIDDEN][i % HIDDEN] = (float)spey_rng_below(rng, 200) / 100 - 1;
    for (size_t i = 0; i < n && i < TABLE_ROWS; i++)
        a->prompt[i] = VOCAB + (int32_t)i;
    a->table = (spey_prompt_table){ a->rows, TABLE_ROWS, HIDDEN, "f32" };
    a->options.prompt_table = &a->table;
}

/* Most want nothing but the likeliest tokens, until a stop id or a limit; every sixth needs the host. */
static void draw(int number, ask *a, record *r)
{
    spey_rng rng = { .seed = 900 + (uint64_t)number };
    size_t n = 1 + (size_t)spey_rng_below(&rng, 20);
    spey_rng family = { .seed = (uint64_t)number % 3 };
    for (size_t i = 0; i < n; i++)
        a->prompt[i] = (int32_t)spey_rng_below(i < n / 2 ? &family : &rng, VOCAB);
    for (int i = 0; i < 4; i++)
        a->stops[i] = (int32_t)spey_rng_below(&rng, VOCAB);
    spey_sampling *s = &a->sampling;
    spey_sampling_init(s);
    s->max_tokens = 1 + (int32_t)spey_rng_below(&rng, 30);
    s->ignore_eos = true;
    s->stop_ids = a->stops;
    s->n_stop_ids = number % 3 ? 4 : 0;
    s->n = number % 16 == 7 ? WIDTH_MAX : 1;
    if (number % 6 == 5) {
        s->temperature = number % 4 == 1 ? 1.1 : 0;
        s->seed = (uint64_t)number;
        s->logprobs = 0;
        s->repetition_penalty = number % 5 ? 1 : 1.3;
    }
    r->cancel_after = number % 9 == 4 ? 3 : 0;
    spey_request_options_init(&a->options);
    a->options.prompt = a->prompt;
    a->options.n_prompt = n;
    a->options.sampling = s;
    a->options.on_output = record_output;
    a->options.user = r;
    if (number % 8 == 3) draw_table(&rng, a, n);
}

static uint64_t submit(spey_context *context, int number, record *r)
{
    ask a;
    uint64_t id;
    draw(number, &a, r);
    assert_int_equal(spey_context_submit_request(context, &a.options, &id), SPEY_OK);
    return id;
}

static void ordinary(spey_context_options *o, bool ahead)
{
    spey_context_options_init(o);
    o->threads = 1;
    o->device = on_device;
    o->sequences_max = 6;
    o->kv_block_tokens = 4;
    o->prompt_table_tokens_max = TABLE_ROWS;
    o->ahead = ahead ? SPEY_AHEAD_ON : SPEY_AHEAD_OFF;
}

static spey_context *open_context(const spey_context_options *options)
{
    spey_context *context;
    assert_int_equal(spey_context_new(engines[chosen], options, &context), SPEY_OK);
    return context;
}

static const record *alone(void)
{
    static record of_engines[ENGINES][REQUESTS];
    record *records = of_engines[chosen];
    for (int i = 0; i < REQUESTS && !records[REQUESTS - 1].n_ends; i++) {
        spey_context_options options;
        ordinary(&options, false);
        options.no_kv_reuse = true;
        spey_context *context = open_context(&options);
        submit(context, i, &records[i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        spey_context_free(context);
    }
    return records;
}

static int count_finishes(const record *records, spey_finish finish)
{
    int n = 0;
    for (int i = 0; i < REQUESTS; i++)
        n += records[i].finish[0] == finish;
    return n;
}

/* Returns how many steps began ahead. */
static int run_crowd(const spey_context_options *options)
{
    static record crowd[REQUESTS];
    memset(crowd, 0, sizeof crowd);
    spey_context *context = open_context(options);
    spey_kv_cache *kv = spey_runner_kv(spey_context_runner(context));
    int32_t n_blocks = spey_kv_free_blocks(kv), n_ahead = 0;
    for (int i = 0; i < REQUESTS; i++)
        submit(context, i, &crowd[i]);
    uint64_t n_allocations = spey_alloc_read_stats().n_allocations;
    spey_iteration_stats step = { 0 };
    for (int32_t active = 1; active > 0;) {
        assert_int_equal(spey_context_step(context, &active), SPEY_OK);
        if (!spey_context_read_iteration(context, step.iter, &step)) continue;
        n_ahead += step.began_ahead;
        assert_true(step.host_ms >= 0 && step.hidden_host_ms >= 0 && step.model_ms > 0);
        assert_true(step.hidden_host_ms <= step.host_ms);
        if (!step.began_ahead) assert_true(step.hidden_host_ms <= 0);
    }
    assert_int_equal(spey_alloc_read_stats().n_allocations, n_allocations); /* on no thread */
    assert_int_equal(spey_kv_free_blocks(kv), n_blocks);
    assert_int_equal(spey_kv_check(kv), SPEY_OK);
    spey_context_free(context);
    record_compare(crowd, alone(), REQUESTS, !on_device);
    return n_ahead;
}

static void check_crowds(void)
{
    assert_true(count_finishes(alone(), SPEY_FINISH_STOP) > 1);
    assert_true(count_finishes(alone(), SPEY_FINISH_LENGTH) > 5);
    assert_true(count_finishes(alone(), SPEY_FINISH_CANCELLED) > 2);
    for (int ahead = 0; ahead < 2; ahead++) {
        for (int kind = 0; kind < 5; kind++) {
            spey_context_options options;
            ordinary(&options, ahead);
            options.no_kv_reuse = kind == 1;
            options.step_tokens_max = kind == 1 ? 8 : kind == 2 ? 11 : 0;
            options.step_prefill_max = kind == 2 ? 3 : 0;
            if (kind == 2 && !on_device) options.device = "fake:0";
            options.sequence_tokens_max = 52;
            if (kind > 2) options.kv_bytes = 150000; /* two and a half of the longest */
            if (kind == 3) options.policy = SPEY_MAX_UTILIZATION;
            if (kind == 4) options.kv_host_bytes = 1 << 20;
            assert_int_equal(run_crowd(&options) > 0, ahead);
        }
    }
}

static void a_crowd_gets_what_each_gets_alone(void **state)
{
    (void)state;
    for (chosen = ENGINES - 1; chosen > 0; chosen--)
        check_crowds();
    check_crowds();
}

static void nobody_asks_for_it_where_the_device_queues_steps(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options, true);
    options.ahead = SPEY_AHEAD_QUEUED;
    assert_int_equal(run_crowd(&options) > 0, on_device != NULL);
    if (!on_device) options.device = "fake:0";
    assert_true(run_crowd(&options) > 0);
    options.ahead = SPEY_AHEAD_OFF;
    assert_int_equal(run_crowd(&options), 0);
}

/* Every request draws, under penalties; returns which part of the steps began ahead. */
static double run_drawing(const char *device, bool ahead, record *records)
{
    static const int32_t word[] = { 7, 8, 9 };
    static const spey_id_list words[] = { { word, 2 }, { word, 3 } };
    spey_context_options options;
    ordinary(&options, ahead);
    options.device = device;
    options.step_tokens_max = 13;
    spey_context *context = open_context(&options);
    memset(records, 0, REQUESTS * sizeof *records);
    for (int i = 0; i < REQUESTS; i++) {
        ask a;
        draw(i, &a, &records[i]);
        spey_sampling *s = &a.sampling;
        s->n = 1;
        s->temperature = 0.5 + 0.1 * (i % 8);
        s->seed = (uint64_t)i;
        s->top_p = i % 2 ? 0.9 : 1;
        s->top_k = i % 3 ? 0 : 12;
        s->repetition_penalty = i % 5 ? 1.2 : 1;
        s->frequency_penalty = i % 7 ? 0 : 0.3;
        s->min_tokens = i % 4 ? 0 : 6;
        s->logprobs = i % 2 ? i % 8 : -1;
        s->no_repeat_ngram = i % 5 ? 0 : 2 + i % 2;
        s->bad_words = words;
        s->n_bad_words = i % 6 ? 0 : 2;
        s->forced_eos_id = i % 7 ? -1 : 9;
        assert_int_equal(spey_context_submit_request(context, &a.options, NULL), SPEY_OK);
    }
    spey_alloc_seal(true);
    int n = 0, n_ahead = 0;
    spey_iteration_stats step = { 0 };
    for (int32_t active = 1; active > 0;) {
        assert_int_equal(spey_context_step(context, &active), SPEY_OK);
        if (!spey_context_read_iteration(context, step.iter, &step)) continue;
        n_ahead += step.began_ahead;
        n++;
    }
    spey_alloc_seal(false);
    spey_context_free(context);
    return (double)n_ahead / n;
}

static void drawing_steps_begin_ahead_where_the_device_draws(void **state)
{
    (void)state;
    static record wanted[REQUESTS], got[REQUESTS];
    const char *device = on_device ? on_device : "fake:0";
    assert_true(run_drawing(on_device, false, wanted) <= 0);
    assert_true(run_drawing(device, true, got) > 0.9);
    record_compare(got, wanted, REQUESTS, !on_device);
    if (on_device) return;
    assert_true(run_drawing(NULL, true, got) < 0.5); /* prompts are read ahead */
    record_compare(got, wanted, REQUESTS, true);
}

/* ---- ends at any moment ---- */

/* What came is how the output of the request alone begins. */
static void check_beginning(const record *r, const record *wanted, spey_finish finish)
{
    assert_int_equal(r->n_ends, 1);
    for (int s = 0; s < WIDTH_MAX; s++) {
        bool whole = r->finish[s] == wanted->finish[s] && r->n[s] == wanted->n[s];
        assert_true(whole || (r->finish[s] == finish && r->n[s] <= wanted->n[s]));
        assert_memory_equal(r->ids[s], wanted->ids[s], (size_t)r->n[s] * sizeof(int32_t));
    }
}

static void cancels_at_any_step_leave_what_came_before(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options, true);
    spey_context *context = open_context(&options);
    spey_kv_cache *kv = spey_runner_kv(spey_context_runner(context));
    int32_t n_blocks = spey_kv_free_blocks(kv);
    for (int when = 0; when < 25; when++) {
        static record crowd[REQUESTS];
        uint64_t ids[12];
        memset(crowd, 0, sizeof crowd);
        for (int i = 0; i < 12; i++)
            ids[i] = submit(context, i, &crowd[i]);
        for (int i = 0; i < when; i++)
            assert_int_equal(spey_context_step(context, NULL), SPEY_OK);
        for (int i = 0; i < 12; i += 2)
            if (!crowd[i].n_ends) assert_int_equal(spey_context_cancel(context, ids[i]), SPEY_OK);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        for (int i = 0; i < 12; i++)
            check_beginning(&crowd[i], &alone()[i],
                            i % 2 ? SPEY_FINISH_NONE : SPEY_FINISH_CANCELLED);
        assert_int_equal(spey_kv_free_blocks(kv), n_blocks);
        assert_int_equal(spey_kv_check(kv), SPEY_OK);
    }
    spey_context_free(context);
}

static void deadlines_end_what_is_under_way(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options, true);
    spey_context *context = open_context(&options);
    for (int nap = 0; nap < 20; nap++) {
        static record crowd[8];
        memset(crowd, 0, sizeof crowd);
        for (int i = 0; i < 8; i++) {
            ask a;
            draw(i, &a, &crowd[i]);
            a.options.deadline_ms = 1 + nap % 3;
            assert_int_equal(spey_context_submit_request(context, &a.options, NULL), SPEY_OK);
        }
        for (int i = 0; i < nap; i++)
            assert_int_equal(spey_context_step(context, NULL), SPEY_OK);
        nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        for (int i = 0; i < 8; i++)
            check_beginning(&crowd[i], &alone()[i], SPEY_FINISH_TIMEOUT);
    }
    spey_context_free(context);
}

static void freeing_with_steps_under_way_is_fine(void **state)
{
    (void)state;
    spey_context_options options;
    ordinary(&options, true);
    for (int n_steps = 0; n_steps < 8; n_steps++) {
        record r[3] = { 0 };
        spey_context *context = open_context(&options);
        for (int i = 0; i < 3; i++)
            submit(context, i, &r[i]);
        for (int i = 0; i < n_steps; i++)
            assert_int_equal(spey_context_step(context, NULL), SPEY_OK);
        spey_context_free(context);
    }
}

static void keep_row(void *user, size_t position, float *logits)
{
    memcpy((float *)user + position * VOCAB, logits, VOCAB * sizeof *logits);
}

static void evaluation_waits_for_what_is_under_way(void **state)
{
    (void)state;
    static float wanted[5][VOCAB], got[5][VOCAB];
    static const int32_t ids[] = { 3, 1, 4, 1, 5 };
    for (int ahead = 0; ahead < 2; ahead++) {
        record r = { 0 };
        spey_context_options options;
        ordinary(&options, ahead);
        spey_context *context = open_context(&options);
        float *rows = ahead ? got[0] : wanted[0];
        uint64_t id = submit(context, 0, &r);
        assert_int_equal(spey_context_step(context, NULL), SPEY_OK);
        assert_int_equal(spey_context_logits(context, ids, 5, keep_row, rows), SPEY_INVALID);
        assert_int_equal(spey_context_cancel(context, id), SPEY_OK);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        assert_int_equal(spey_context_logits(context, ids, 5, keep_row, rows), SPEY_OK);
        spey_context_free(context);
    }
    assert_memory_equal(got, wanted, sizeof wanted);
}

/* ---- faults ---- */

static void a_failed_step_ends_the_context(void **state)
{
    (void)state;
    if (on_device) skip(); /* checkcuda has its faults */
    uint64_t live = spey_alloc_read_stats().n_live;
    for (int when = 1; when < 40; when++) {
        static record crowd[12];
        char device[16];
        memset(crowd, 0, sizeof crowd);
        snprintf(device, sizeof device, "fake:%d", when);
        spey_context_options options;
        ordinary(&options, true);
        options.device = device;
        spey_context *context = open_context(&options);
        for (int i = 0; i < 12; i++)
            submit(context, i, &crowd[i]);
        assert_int_equal(spey_context_run(context), SPEY_DEVICE);
        assert_non_null(strstr(spey_last_error(), "fails"));
        assert_int_not_equal(spey_context_step(context, NULL), SPEY_OK); /* it stays so */
        spey_context_end_all(context, SPEY_FINISH_ERROR, "the device is gone");
        for (int i = 0; i < 12; i++)
            check_beginning(&crowd[i], &alone()[i], SPEY_FINISH_ERROR);
        spey_context_free(context);
    }
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

/* ---- an executor ---- */

typedef struct client {
    spey_executor *executor;
    pthread_t thread;
    int first;
    record records[REQUESTS / 4];
} client;

static void *be_a_client(void *user)
{
    client *c = user;
    spey_rng rng = { .seed = (uint64_t)c->first };
    for (int i = 0; i < REQUESTS / 4; i++) {
        ask a;
        uint64_t id;
        draw(c->first + i, &a, &c->records[i]);
        if (spey_executor_submit(c->executor, &a.options, &id)) return NULL;
        if (i % 3) continue;
        nanosleep(&(struct timespec){ .tv_nsec = (long)spey_rng_below(&rng, 400000) }, NULL);
        if (spey_executor_cancel(c->executor, id)) return NULL;
    }
    return c;
}

static void clients_of_an_executor_submit_and_cancel(void **state)
{
    (void)state;
    static client clients[4];
    memset(clients, 0, sizeof clients);
    alone();
    spey_executor_options options;
    spey_executor_options_init(&options);
    ordinary(&options.context, true);
    spey_executor *executor;
    assert_int_equal(spey_executor_new(engines[chosen], &options, &executor), SPEY_OK);
    for (int i = 0; i < 4; i++) {
        clients[i].executor = executor;
        clients[i].first = i * REQUESTS / 4;
        assert_int_equal(pthread_create(&clients[i].thread, NULL, be_a_client, &clients[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *done;
        pthread_join(clients[i].thread, &done);
        assert_non_null(done);
    }
    assert_int_equal(spey_executor_drain(executor, -1), SPEY_OK);
    spey_executor_free(executor);
    for (int i = 0; i < REQUESTS; i++) {
        const client *c = &clients[i / (REQUESTS / 4)];
        check_beginning(&c->records[i % (REQUESTS / 4)], &alone()[i],
                        i % (REQUESTS / 4) % 3 ? SPEY_FINISH_NONE : SPEY_FINISH_CANCELLED);
    }
}

/* "[PATTERN] [--device DEVICE]" */
static void read_arguments(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--device") && i + 1 < argc)
            on_device = argv[++i];
        else
            cmocka_set_test_filter(argv[i]);
    }
}

int main(int argc, char **argv)
{
    read_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crowd_gets_what_each_gets_alone),
        cmocka_unit_test(nobody_asks_for_it_where_the_device_queues_steps),
        cmocka_unit_test(drawing_steps_begin_ahead_where_the_device_draws),
        cmocka_unit_test(cancels_at_any_step_leave_what_came_before),
        cmocka_unit_test(deadlines_end_what_is_under_way),
        cmocka_unit_test(freeing_with_steps_under_way_is_fine),
        cmocka_unit_test(evaluation_waits_for_what_is_under_way),
        cmocka_unit_test(a_failed_step_ends_the_context),
        cmocka_unit_test(clients_of_an_executor_submit_and_cancel),
    };
    return cmocka_run_group_tests_name("ahead", tests, open_engines, close_engines);
}
