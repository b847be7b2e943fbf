/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "runtime/engine_handle.h"
#include "spey/executor.h"
#include "tiny_engine.h"

enum { TOKENS_MAX = 64, VOCAB = 50 };

static const int32_t prompt[] = { 3, 1, 4, 1, 5, 9, 2, 6 };
static spey_engine *engine;

static int open_engine(void **state)
{
    (void)state;
    spey_engine_file *file;
    if (tiny_engine_new(&tiny_default, &file)) return -1;
    return spey_engine_from_file(file, &engine) ? -1 : 0;
}

static int close_engine(void **state)
{
    (void)state;
    spey_engine_close(engine);
    return 0;
}

static spey_executor *executor_of(int32_t sequences, int32_t queue)
{
    spey_executor_options options;
    spey_executor_options_init(&options);
    options.context.sequences_max = sequences;
    options.context.queue_max = queue;
    options.context.threads = 1;
    options.context.kv_block_tokens = 8;
    spey_executor *executor;
    assert_int_equal(spey_executor_new(engine, &options, &executor), SPEY_OK);
    return executor;
}

typedef struct record {
    int32_t ids[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    int n, n_ends;
    spey_finish finish;
} record;

static void add(record *r, const spey_output *event)
{
    if (event->token >= 0) {
        r->ids[r->n] = event->token;
        r->logprobs[r->n++] = event->logprob;
    }
    r->n_ends += event->last;
    r->finish = event->finish;
}

static int on_output(void *user, const spey_output *event)
{
    add(user, event);
    return 0;
}

static void ordinary(spey_request_options *o, spey_sampling *s, int i)
{
    spey_sampling_init(s);
    s->temperature = 1.1;
    s->seed = (uint64_t)i;
    s->max_tokens = 4 + i % 20;
    s->logprobs = 2;
    s->ignore_eos = true;
    spey_request_options_init(o);
    o->prompt = prompt;
    o->n_prompt = 1 + (size_t)i % 8;
    o->sampling = s;
}

static void run_alone(int i, record *r)
{
    spey_context_options options;
    spey_context_options_init(&options);
    options.threads = 1;
    spey_context *context;
    assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
    spey_request_options o;
    spey_sampling s;
    ordinary(&o, &s, i);
    o.on_output = on_output;
    o.user = r;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    spey_context_free(context);
}

/* All events of a request, as they come. */
static void await_all(spey_executor *x, uint64_t request, record *r)
{
    for (spey_output *event; !r->n_ends; spey_output_free(event)) {
        assert_int_equal(spey_executor_await(x, request, -1, &event), SPEY_OK);
        assert_int_equal(event->request, request);
        assert_int_equal(event->n_top, 2);
        assert_true(event->top[0].logprob >= event->top[1].logprob);
        add(r, event);
    }
}

static void callbacks_and_awaited_events_say_what_a_context_says(void **state)
{
    (void)state;
    enum { N = 12 };
    static record alone[N], called[N], awaited[N];
    uint64_t ids[N];
    spey_executor *x = executor_of(4, 0);
    for (int i = 0; i < N; i++) {
        run_alone(i, &alone[i]);
        spey_request_options o;
        spey_sampling s;
        ordinary(&o, &s, i);
        assert_int_equal(spey_executor_submit(x, &o, &ids[i]), SPEY_OK);
        o.on_output = on_output;
        o.user = &called[i];
        assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    }
    for (int i = N - 1; i >= 0; i--)
        await_all(x, ids[i], &awaited[i]);
    assert_int_equal(spey_executor_drain(x, -1), SPEY_OK);
    assert_memory_equal(called, alone, sizeof alone);
    assert_memory_equal(awaited, alone, sizeof alone);
    spey_output *event;
    assert_int_equal(spey_executor_await(x, ids[0], 0, &event), SPEY_NOT_FOUND);
    assert_int_equal(spey_executor_await(x, 0, 0, &event), SPEY_NOT_FOUND);
    spey_executor_free(x);
}

/* ---- many threads ---- */

enum { THREADS = 4, EACH = 40 };

typedef struct client {
    spey_executor *x;
    int number;
    record records[EACH];
} client;

static void *submit_and_cancel(void *user)
{
    client *c = user;
    for (int i = 0; i < EACH; i++) {
        spey_request_options o;
        spey_sampling s;
        ordinary(&o, &s, c->number * EACH + i);
        o.on_output = on_output;
        o.user = &c->records[i];
        o.tenant = (uint64_t)c->number;
        uint64_t id;
        if (spey_executor_submit(c->x, &o, &id)) return c;
        if (i % 3 == 0 && spey_executor_cancel(c->x, id)) return c;
    }
    return NULL;
}

static void threads_submit_and_cancel_and_every_request_ends_once(void **state)
{
    (void)state;
    static client clients[THREADS];
    pthread_t threads[THREADS];
    spey_executor *x = executor_of(8, 0);
    for (int i = 0; i < THREADS; i++) {
        clients[i] = (client){ .x = x, .number = i };
        assert_int_equal(pthread_create(&threads[i], NULL, submit_and_cancel, &clients[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        void *failure;
        pthread_join(threads[i], &failure);
        assert_null(failure);
    }
    assert_int_equal(spey_executor_drain(x, -1), SPEY_OK);
    for (int t = 0; t < THREADS; t++)
        for (int i = 0; i < EACH; i++) {
            const record *r = &clients[t].records[i];
            assert_int_equal(r->n_ends, 1);
            if (i % 3) assert_int_equal(r->finish, SPEY_FINISH_LENGTH);
            if (r->finish == SPEY_FINISH_LENGTH)
                assert_int_equal(r->n, 4 + (t * EACH + i) % 20);
            else
                assert_int_equal(r->finish, SPEY_FINISH_CANCELLED);
        }
    assert_int_equal(spey_executor_cancel(x, 1), SPEY_OK); /* it has ended: nothing happens */
    assert_int_equal(spey_executor_cancel(x, 1u << 20), SPEY_NOT_FOUND);
    spey_executor_free(x);
}

/* ---- overload ---- */

static int count_ends(void *user, const spey_output *event)
{
    atomic_fetch_add((atomic_int *)user, event->last);
    return 0;
}

static void ten_thousand_into_a_queue_of_a_thousand(void **state)
{
    (void)state;
    spey_executor *x = executor_of(8, 1000);
    size_t before = spey_alloc_read_stats().n_live;
    atomic_int n_ends = 0;
    int n_taken = 0;
    for (int i = 0; i < 10000; i++) {
        spey_request_options o;
        spey_sampling s;
        ordinary(&o, &s, 0);
        s.max_tokens = 1;
        s.logprobs = -1;
        o.on_output = count_ends;
        o.user = &n_ends;
        spey_status status = spey_executor_submit(x, &o, NULL);
        if (status) assert_int_equal(status, SPEY_LIMIT);
        n_taken += status == SPEY_OK;
        /* A request has some ten pieces of memory: what waits and runs is all there ever is. */
        assert_true(spey_alloc_read_stats().n_live - before < 20 * 1020);
    }
    assert_in_range(n_taken, 1000, 10000);
    assert_int_equal(spey_executor_drain(x, -1), SPEY_OK);
    assert_int_equal(atomic_load(&n_ends), n_taken);
    assert_int_equal(spey_alloc_read_stats().n_live, before);
    spey_executor_free(x);
}

/* Rows and ids of request i. */
static void bring_rows(int i, float rows[2][32], int32_t ids[6])
{
    for (int k = 0; k < 64; k++)
        rows[k / 32][k % 32] = (float)((k * 7 + i * 13) % 41) * 0.05f - 1;
    for (int k = 0; k < 6; k++)
        ids[k] = k % 2 ? VOCAB + k / 2 % 2 : k + i / 2;
}

static void what_requests_bring_is_copied_and_theirs_alone(void **state)
{
    (void)state;
    enum { N = 12 };
    record wanted[N] = { 0 }, got[N] = { 0 };
    float rows[2][32];
    int32_t ids[6];
    uint64_t requests[N];
    const spey_prompt_table table = { rows, 2, 32, NULL };
    const spey_retention_range keep = { .priority = 80, .duration_ms = 60000 };
    spey_executor_options options;
    spey_executor_options_init(&options);
    options.context.sequences_max = 4;
    options.context.threads = 1;
    options.context.kv_block_tokens = 4;
    options.context.prompt_table_tokens_max = 2;
    spey_executor *x;
    spey_context *context;
    assert_int_equal(spey_executor_new(engine, &options, &x), SPEY_OK);
    for (int i = 0; i < 2 * N; i++) {
        spey_request_options o;
        spey_sampling s;
        ordinary(&o, &s, i / 2);
        bring_rows(i / 2, rows, ids);
        o.prompt = ids;
        o.n_prompt = 6;
        o.prompt_table = &table;
        if (i % 2) {
            o.retention = &keep;
            o.n_retention = 1;
            assert_int_equal(spey_executor_submit(x, &o, &requests[i / 2]), SPEY_OK);
            memset(rows, 0xff, sizeof rows);
            continue;
        }
        o.on_output = on_output;
        o.user = &wanted[i / 2];
        assert_int_equal(spey_context_new(engine, &options.context, &context), SPEY_OK);
        assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        spey_context_free(context);
    }
    for (int i = 0; i < N; i++)
        await_all(x, requests[i], &got[i]);
    assert_memory_equal(got, wanted, sizeof got);
    assert_memory_not_equal(got[0].logprobs, got[1].logprobs, 4 * sizeof(float));
    spey_executor_free(x);
}

static void a_full_queue_refuses_at_once(void **state)
{
    (void)state;
    spey_executor *x = executor_of(1, 2);
    int refused = 0;
    for (int i = 0; i < 50; i++) {
        spey_request_options o;
        spey_sampling s;
        ordinary(&o, &s, 19);
        refused += spey_executor_submit(x, &o, NULL) == SPEY_LIMIT;
    }
    assert_true(refused > 0);
    assert_non_null(strstr(spey_last_error(), "queue is full"));
    spey_executor_free(x); /* with requests in it, and events that nobody took */
}

/* ---- faults ---- */

static int fail_at_once(void *user, uint64_t request, int32_t sequence, const int32_t *ids,
                        size_t n, float *logits, size_t vocab_size)
{
    (void)user, (void)request, (void)sequence, (void)ids, (void)n, (void)logits, (void)vocab_size;
    return 1;
}

static int refuse(void *user, const spey_output *event)
{
    add(user, event);
    return 1;
}

static void faults_end_their_own_requests(void **state)
{
    (void)state;
    record good = { 0 }, refused = { 0 }, failed = { 0 }, alone = { 0 };
    run_alone(5, &alone);
    spey_executor *x = executor_of(4, 0);
    spey_request_options o;
    spey_sampling s;
    ordinary(&o, &s, 5);
    o.on_output = on_output;
    o.user = &good;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    o.user = &failed;
    o.process_logits = fail_at_once;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    o.process_logits = NULL;
    o.on_output = refuse;
    o.user = &refused;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    o.n_prompt = 0;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_INVALID);
    assert_int_equal(spey_executor_drain(x, -1), SPEY_OK);
    assert_memory_equal(&good, &alone, sizeof alone);
    assert_int_equal(failed.finish, SPEY_FINISH_ERROR);
    assert_int_equal(failed.n_ends, 1);
    assert_int_equal(refused.finish, SPEY_FINISH_CANCELLED);
    assert_int_equal(refused.n, 1);
    spey_executor_free(x);
}

/* ---- the end ---- */

/* Holds the engine thread until it is let go. */
static int hold(void *user, const spey_output *event)
{
    (void)event;
    while (!atomic_load((atomic_int *)user)) {
        struct timespec nap = { .tv_nsec = 100000 };
        nanosleep(&nap, NULL);
    }
    return 0;
}

static void draining_refuses_waits_and_can_time_out(void **state)
{
    (void)state;
    atomic_int go = 0;
    spey_executor *x = executor_of(1, 0);
    spey_request_options o;
    spey_sampling s;
    ordinary(&o, &s, 1);
    o.on_output = hold;
    o.user = &go;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    assert_int_equal(spey_executor_drain(x, 0), SPEY_LIMIT);
    assert_int_equal(spey_executor_drain(x, 3), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "1 requests are left"));
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_CANCELLED);
    atomic_store(&go, 1);
    assert_int_equal(spey_executor_drain(x, -1), SPEY_OK);
    spey_executor_free(x);
}

static void awaiting_times_out_and_freeing_cancels(void **state)
{
    (void)state;
    atomic_int go = 0;
    record r = { 0 };
    spey_executor *x = executor_of(1, 0);
    spey_request_options o;
    spey_sampling s;
    ordinary(&o, &s, 1);
    o.on_output = hold;
    o.user = &go;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    uint64_t waits;
    o.on_output = NULL;
    assert_int_equal(spey_executor_submit(x, &o, &waits), SPEY_OK);
    o.on_output = on_output;
    o.user = &r;
    assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    spey_output *event;
    assert_int_equal(spey_executor_await(x, waits, 0, &event), SPEY_OK);
    assert_null(event);
    assert_int_equal(spey_executor_await(x, 0, 2, &event), SPEY_OK);
    assert_null(event);
    atomic_store(&go, 1);
    spey_executor_free(x);
    assert_int_equal(r.n_ends, 1);
}

/* ---- statistics ---- */

static void statistics_add_up(void **state)
{
    (void)state;
    enum { N = 10, STEPS = 400 };
    static spey_iteration_stats steps[STEPS];
    spey_executor *x = executor_of(3, 0);
    int64_t prompts = 0, tokens = 0;
    for (int i = 0; i < N; i++) {
        spey_request_options o;
        spey_sampling s;
        ordinary(&o, &s, i);
        o.cache_salt = (uint64_t)i; /* nothing is reused */
        o.on_output = count_ends;
        static atomic_int ends;
        o.user = &ends;
        prompts += (int64_t)o.n_prompt;
        tokens += s.max_tokens;
        assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_OK);
    }
    assert_int_equal(spey_executor_drain(x, -1), SPEY_OK);
    size_t n = spey_executor_read_iterations(x, steps, STEPS);
    assert_in_range(n, 20, STEPS - 1);
    assert_int_equal(spey_executor_read_iterations(x, steps, 1), 0);
    int64_t context_tokens = 0, begun = 0, completed = 0;
    double decoded = 0;
    for (size_t i = 0; i < n; i++) {
        const spey_iteration_stats *step = &steps[i];
        const spey_inflight_batching_stats *batch = &step->inflight_batching_stats;
        assert_int_equal(step->iter, i + 1);
        assert_in_range(step->num_active_requests, 1, 3);
        assert_int_equal(batch->num_scheduled_requests,
                         batch->num_context_requests + batch->num_gen_requests);
        assert_true(step->iter_latency_ms > 0);
        context_tokens += batch->num_ctx_tokens;
        begun += step->num_new_active_requests;
        completed += step->num_completed_requests;
        decoded += batch->avg_num_decoded_tokens_per_iter * batch->num_scheduled_requests;
    }
    assert_int_equal(context_tokens, prompts);
    assert_int_equal(begun, N);
    assert_int_equal(completed, N);
    assert_int_equal((int64_t)(decoded + 0.5), tokens);
    const spey_kv_cache_stats *kv = &steps[n - 1].kv_cache_stats;
    assert_int_equal(kv->tokens_per_block, 8);
    assert_true(kv->max_num_blocks > 0 && kv->alloc_total_blocks >= N);
    spey_executor_free(x);
}

static void requests_tell_where_they_are(void **state)
{
    (void)state;
    spey_executor *x = executor_of(1, 0);
    spey_request_stats stats[4];
    size_t n;
    assert_int_equal(spey_executor_read_requests(x, stats, 4, &n), SPEY_OK);
    assert_int_equal(n, 0);
    spey_request_options o;
    spey_sampling s;
    ordinary(&o, &s, 1);
    s.max_tokens = -1;
    uint64_t ids[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(spey_executor_submit(x, &o, &ids[i]), SPEY_OK);
    assert_int_equal(spey_executor_read_requests(x, stats, 2, &n), SPEY_OK);
    assert_in_range(n, 0, 3);
    for (size_t i = 0; i < (n < 2 ? n : 2); i++) {
        assert_in_range(stats[i].id, ids[0], ids[2]);
        assert_true(stats[i].context_prefill_position <= 2);
        if (stats[i].stage == SPEY_STAGE_QUEUED) assert_false(stats[i].scheduled);
        if (stats[i].stage == SPEY_STAGE_GENERATION) assert_true(stats[i].num_generated_tokens > 0);
    }
    spey_executor_free(x);
}

/* ---- memory ---- */

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        spey_executor_options options;
        spey_executor_options_init(&options);
        options.context.threads = 1;
        spey_executor *x;
        spey_alloc_fail_nth(nth);
        status = spey_executor_new(engine, &options, &x);
        spey_alloc_fail_nth(0);
        spey_executor_free(x);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_true(nth < 2000);
    }
}

static void a_submit_without_memory_leaves_nothing(void **state)
{
    (void)state;
    spey_executor *x = executor_of(1, 0);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_request_options o;
    spey_sampling s;
    ordinary(&o, &s, 1);
    for (uint64_t nth = 1; nth <= 4; nth++) {
        spey_alloc_fail_nth(nth);
        assert_int_equal(spey_executor_submit(x, &o, NULL), SPEY_NOMEM);
        spey_alloc_fail_nth(0);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    spey_executor_free(x);
    spey_executor_options raw = { 0 };
    assert_int_equal(spey_executor_new(engine, &raw, &x), SPEY_INVALID);
    assert_null(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callbacks_and_awaited_events_say_what_a_context_says),
        cmocka_unit_test(threads_submit_and_cancel_and_every_request_ends_once),
        cmocka_unit_test(ten_thousand_into_a_queue_of_a_thousand),
        cmocka_unit_test(what_requests_bring_is_copied_and_theirs_alone),
        cmocka_unit_test(a_full_queue_refuses_at_once),
        cmocka_unit_test(faults_end_their_own_requests),
        cmocka_unit_test(draining_refuses_waits_and_can_time_out),
        cmocka_unit_test(awaiting_times_out_and_freeing_cancels),
        cmocka_unit_test(statistics_add_up),
        cmocka_unit_test(requests_tell_where_they_are),
        cmocka_unit_test(failing_allocations_leak_nothing),
        cmocka_unit_test(a_submit_without_memory_leaves_nothing),
    };
    return cmocka_run_group_tests_name("executor", tests, open_engine, close_engine);
}
