/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "tiny_engine.h"

enum { TOKENS_MAX = 64, VOCAB = 50 };

typedef struct record {
    int32_t ids[TOKENS_MAX];
    float logprobs[TOKENS_MAX];
    int n;
    int n_ends;
    spey_finish finish;
    char error[128];
    int cancel_after; /* tokens; 0: never */
    float prompt_logprobs[TOKENS_MAX];
    int n_prompt;
} record;

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    assert_int_equal(r->n_ends, 0); /* nothing comes after the end */
    if (event->token >= 0) {
        r->logprobs[r->n] = event->logprob;
        r->ids[r->n++] = event->token;
    }
    for (int32_t i = 0; i < event->n_prompt; i++)
        r->prompt_logprobs[i] = event->prompt_logprobs[i];
    if (event->n_prompt) r->n_prompt = event->n_prompt;
    r->finish = event->finish;
    r->n_ends += event->finish != SPEY_FINISH_NONE;
    if (event->error) strncpy(r->error, event->error, sizeof r->error - 1);
    return r->cancel_after && r->n == r->cancel_after;
}

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

/* Until close_encoder, tests run on a model with an encoder. */
static spey_engine *open_encoder(void)
{
    spey_engine_file *file;
    spey_engine *before = engine;
    tiny_shape shape = tiny_default;
    shape.encodes = true;
    assert_int_equal(tiny_engine_new(&shape, &file), SPEY_OK);
    assert_int_equal(spey_engine_from_file(file, &engine), SPEY_OK);
    return before;
}

static void close_encoder(spey_engine *before)
{
    spey_engine_close(engine);
    engine = before;
}

static spey_context *context_of(int32_t sequences, int64_t step_tokens)
{
    spey_context_options options;
    spey_context_options_init(&options);
    options.sequences_max = sequences;
    options.step_tokens_max = step_tokens;
    options.threads = 1;
    spey_context *context;
    assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
    return context;
}

/* A request with settings that depend on i. */
static void submit(spey_context *context, int i, record *r)
{
    spey_rng rng = { .seed = 100 + (uint64_t)i };
    int32_t prompt[20];
    size_t n = 1 + (size_t)spey_rng_below(&rng, 20);
    for (size_t t = 0; t < n; t++)
        prompt[t] = (int32_t)spey_rng_below(&rng, VOCAB);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 1 + (int32_t)spey_rng_below(&rng, 20);
    s.temperature = i % 2 ? 1.2 : 0;
    s.repetition_penalty = i % 3 ? 1 : 1.3;
    s.top_p = i % 5 ? 1 : 0.9;
    s.seed = (uint64_t)i;
    s.logprobs = 2;
    s.ignore_eos = true;
    assert_int_equal(spey_context_submit(context, prompt, n, &s, on_output, r, NULL), SPEY_OK);
}

static void a_crowd_gets_what_each_gets_alone(void **state)
{
    (void)state;
    enum { N = 24 };
    static record alone[N], crowd[N];
    memset(alone, 0, sizeof alone);
    memset(crowd, 0, sizeof crowd);
    for (int i = 0; i < N; i++) {
        spey_context *context = context_of(1, 0);
        submit(context, i, &alone[i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        spey_context_free(context);
    }
    /* Five at once, seven tokens a step: prompts are cut, decodes and prefills share steps, requests queue. */
    spey_context *context = context_of(5, 7);
    for (int i = 0; i < N; i++)
        submit(context, i, &crowd[i]);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    spey_context_free(context);
    for (int i = 0; i < N; i++) {
        assert_int_equal(crowd[i].n_ends, 1);
        assert_int_equal(crowd[i].finish, SPEY_FINISH_LENGTH);
        assert_int_equal(crowd[i].n, alone[i].n);
        assert_memory_equal(crowd[i].ids, alone[i].ids, sizeof crowd[i].ids);
        assert_memory_equal(crowd[i].logprobs, alone[i].logprobs, sizeof crowd[i].logprobs);
    }
}

/* Little room for many: requests are paused, and prompts wait. `step` tokens at once. */
static void check_policies(int64_t step)
{
    enum { N = 24 };
    static record crowd[4][N];
    memset(crowd, 0, sizeof crowd);
    uint64_t block_bytes = 0;
    for (int p = 3; p >= 0; p--) {
        spey_context_options options;
        spey_context_options_init(&options);
        options.sequences_max = 6;
        options.threads = 1;
        options.kv_block_tokens = 4;
        options.step_tokens_max = p == 3 ? 0 : step;
        options.step_prefill_max = p == 2 ? 3 : 0;
        options.policy = p < 3 ? (spey_policy)p : SPEY_GUARANTEED_NO_EVICT;
        options.kv_bytes = 18 * block_bytes; /* a full sequence has 16; 0 means enough */
        spey_context *context;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
        block_bytes = spey_runner_get_plan(spey_context_runner(context))->kv_block_bytes;
        for (int i = 0; i < N; i++)
            submit(context, i, &crowd[p][i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        uint64_t pauses = spey_context_counts(context).pauses;
        assert_true(p == SPEY_MAX_UTILIZATION ? pauses > 0 : pauses == 0);
        spey_context_free(context);
        assert_memory_equal(crowd[p], crowd[3], sizeof crowd[3]);
    }
}

static void outputs_do_not_depend_on_the_policy(void **state)
{
    (void)state;
    check_policies(9);
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    static record r[6];
    memset(r, 0, sizeof r);
    spey_context *context = context_of(3, 8);
    for (int i = 0; i < 6; i++)
        submit(context, i, &r[i]);
    spey_alloc_seal(true);
    spey_status status = spey_context_run(context);
    spey_alloc_seal(false);
    assert_int_equal(status, SPEY_OK);
    for (int i = 0; i < 6; i++)
        assert_int_equal(r[i].n_ends, 1);
    spey_context_free(context);
}

static void a_request_can_be_cancelled_queued_running_or_by_its_callback(void **state)
{
    (void)state;
    record r[4] = { 0 };
    spey_context *context = context_of(2, 0);
    uint64_t ids[4];
    const int32_t prompt[] = { 1, 2, 3 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 30;
    r[3].cancel_after = 2;
    for (int i = 0; i < 4; i++)
        assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r[i], &ids[i]),
                         SPEY_OK);
    assert_int_equal(spey_context_cancel(context, ids[2]), SPEY_OK); /* still queued */
    int32_t active;
    assert_int_equal(spey_context_step(context, &active), SPEY_OK);
    assert_int_equal(active, 3);
    assert_int_equal(spey_context_cancel(context, ids[0]), SPEY_OK); /* running */
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r[0].finish, SPEY_FINISH_CANCELLED);
    assert_int_equal(r[0].n, 1);
    assert_int_equal(r[1].finish, SPEY_FINISH_LENGTH);
    assert_int_equal(r[1].n, 30);
    assert_int_equal(r[2].finish, SPEY_FINISH_CANCELLED);
    assert_int_equal(r[2].n, 0);
    assert_int_equal(r[3].finish, SPEY_FINISH_CANCELLED);
    assert_int_equal(r[3].n, 2);
    for (int i = 0; i < 4; i++)
        assert_int_equal(r[i].n_ends, 1);
    assert_int_equal(spey_context_cancel(context, ids[0]), SPEY_NOT_FOUND);
    assert_int_equal(spey_kv_free_blocks(spey_runner_kv(spey_context_runner(context))),
                     spey_runner_get_plan(spey_context_runner(context))->kv_blocks);
    spey_context_free(context);
}

/* The same requests with and without reuse, one after the other and side by side. */
static void reuse_changes_nothing_but_the_work(void **state)
{
    (void)state;
    enum { N = 6, PROMPT = 30 };
    record records[2][N] = { 0 };
    for (int off = 0; off < 2; off++) {
        spey_context_options options;
        spey_context_options_init(&options);
        options.threads = 1;
        options.sequences_max = 2;
        options.kv_block_tokens = 4;
        options.no_kv_reuse = off;
        spey_context *context;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
        for (int i = 0; i < N; i++) {
            int32_t prompt[PROMPT];
            for (int k = 0; k < PROMPT; k++)
                prompt[k] = 3 + (k < 5 * i ? k : k * i) % 40;
            spey_sampling s;
            spey_sampling_init(&s);
            s.max_tokens = 12;
            s.prompt_logprobs = i == 4 ? 1 : -1;
            assert_int_equal(
                spey_context_submit(context, prompt, PROMPT, &s, on_output, &records[off][i], NULL),
                SPEY_OK);
            if (i % 2) assert_int_equal(spey_context_run(context), SPEY_OK);
        }
        const spey_kv_cache *kv = spey_runner_kv(spey_context_runner(context));
        spey_kv_stats stats;
        spey_kv_read_stats(kv, &stats);
        if (off) assert_int_equal(stats.reused_tokens, 0);
        if (!off) assert_true(stats.reused_tokens > 30);
        assert_int_equal(spey_kv_check(kv), SPEY_OK);
        spey_context_free(context);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(records[0][i].n, 12);
        assert_memory_equal(records[0][i].ids, records[1][i].ids, 12 * sizeof(int32_t));
    }
}

typedef struct records {
    record by_sequence[4];
    int n_last;
} records;

static int on_any(void *user, const spey_output *event)
{
    records *all = user;
    assert_int_equal(all->n_last, 0);
    all->n_last += event->last;
    return on_output(&all->by_sequence[event->sequence], event);
}

static void submit_options(spey_context *context, const spey_sampling *s, spey_output_fn fn,
                           void *user)
{
    static const int32_t prompt[] = { 3, 1, 4, 1, 5, 9, 2 };
    assert_int_equal(spey_context_submit(context, prompt, 7, s, fn, user, NULL), SPEY_OK);
}

/* One request's blocks: n tokens from `first` on. */
static void run_kept(spey_context *context, int32_t first, size_t n,
                     const spey_retention_range *range)
{
    int32_t prompt[40];
    record r = { 0 };
    spey_sampling s;
    spey_request_options o;
    for (size_t i = 0; i < n; i++)
        prompt[i] = (first + (int32_t)i * 3) % VOCAB;
    spey_sampling_init(&s);
    s.max_tokens = 1;
    spey_request_options_init(&o);
    o.prompt = prompt;
    o.n_prompt = n;
    o.sampling = &s;
    o.on_output = on_output;
    o.user = &r;
    o.retention = range;
    o.n_retention = range != NULL;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r.n_ends, 1);
}

/* Tokens of a request that the cache still has, after others have needed its room. */
static int64_t tokens_kept(const spey_retention_range *range, int wait_ms)
{
    spey_context_options options;
    spey_context_options_init(&options);
    options.threads = 1;
    options.kv_block_tokens = 4;
    options.sequence_tokens_max = 36;
    spey_context *context;
    assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
    run_kept(context, 0, 16, range);
    const struct timespec pause = { .tv_nsec = wait_ms * 1000000L };
    if (wait_ms) nanosleep(&pause, NULL);
    run_kept(context, 1, 16, NULL);
    run_kept(context, 2, 32, NULL);
    spey_kv_stats before, after;
    spey_kv_read_stats(spey_runner_kv(spey_context_runner(context)), &before);
    run_kept(context, 0, 16, NULL);
    spey_kv_read_stats(spey_runner_kv(spey_context_runner(context)), &after);
    spey_context_free(context);
    return after.reused_tokens - before.reused_tokens;
}

static void requests_say_how_their_blocks_are_kept(void **state)
{
    (void)state;
    const spey_retention_range all = { .priority = 80 }, half = { 0, 4, 80, 0 },
                               brief = { .priority = 80, .duration_ms = 1 },
                               long_enough = { .priority = 80, .duration_ms = 3600000 };
    int64_t kept = tokens_kept(&all, 0);
    assert_int_equal(tokens_kept(NULL, 0), 0);
    assert_true(kept >= 4);
    assert_int_equal(tokens_kept(&half, 0), 4);
    assert_int_equal(tokens_kept(&brief, 20), 0);
    assert_int_equal(tokens_kept(&long_enough, 20), kept);
}

static void senseless_retention_is_refused(void **state)
{
    (void)state;
    const struct {
        spey_retention_range range;
        const char *text;
    } cases[] = {
        { { -1, 4, 50, 0 }, "of tokens -1 to 4" }, { { 4, 4, 50, 0 }, "of tokens 4 to 4" },
        { { 0, 4, 101, 0 }, "priority 101" },      { { 0, 4, -1, 0 }, "priority -1" },
        { { 0, 4, 50, -1 }, "lasts -1 ms" },       { { 0, 4, 50, INT64_MAX }, "lasts 9223" },
    };
    spey_context *context = context_of(1, 0);
    const int32_t prompt[] = { 1, 2 };
    spey_request_options o;
    spey_request_options_init(&o);
    o.prompt = prompt;
    o.n_prompt = 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        o.retention = &cases[i].range;
        o.n_retention = 1;
        assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
        assert_non_null(strstr(spey_last_error(), cases[i].text));
    }
    static const spey_retention_range many[SPEY_RETENTION_RANGES_MAX + 1];
    o.retention = many;
    o.n_retention = SPEY_RETENTION_RANGES_MAX + 1;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
    spey_context_free(context);
}

static void sequence_i_is_a_request_with_seed_plus_i(void **state)
{
    (void)state;
    records together = { 0 }, alone = { 0 };
    spey_context *context = context_of(4, 0);
    spey_sampling s;
    spey_sampling_init(&s);
    s.temperature = 1.3;
    s.max_tokens = 12;
    s.repetition_penalty = 1.2;
    s.seed = 40;
    s.logprobs = 1;
    s.prompt_logprobs = 0;
    s.n = 3;
    submit_options(context, &s, on_any, &together);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(together.n_last, 1);
    s.n = 1;
    for (int i = 0; i < 3; i++) {
        s.seed = 40 + (uint64_t)i;
        s.prompt_logprobs = i ? -1 : 0;
        submit_options(context, &s, on_output, &alone.by_sequence[i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
    }
    assert_memory_equal(together.by_sequence, alone.by_sequence, sizeof alone.by_sequence);
    assert_memory_not_equal(together.by_sequence[0].ids, together.by_sequence[1].ids,
                            sizeof together.by_sequence[0].ids);
    spey_context_free(context);
}

static double mean(const record *r)
{
    double sum = 0;
    for (int i = 0; i < r->n; i++)
        sum += (double)r->logprobs[i];
    return sum / r->n;
}

static void best_of_tells_the_likeliest_in_order(void **state)
{
    (void)state;
    records all = { 0 }, best = { 0 };
    spey_context *context = context_of(4, 0);
    spey_sampling s;
    spey_sampling_init(&s);
    s.temperature = 1.5;
    s.max_tokens = 10;
    s.logprobs = 0;
    s.n = 4;
    submit_options(context, &s, on_any, &all);
    s.n = 2;
    s.best_of = 4;
    submit_options(context, &s, on_any, &best);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(best.n_last, 1);
    int better[2] = { 0, 0 };
    for (int rank = 0; rank < 2; rank++) {
        const record *r = &best.by_sequence[rank];
        assert_int_equal(r->n_ends, 1);
        bool found = false;
        for (int i = 0; i < 4; i++) {
            better[rank] += mean(&all.by_sequence[i]) > mean(r) + 1e-6;
            found = found || !memcmp(&all.by_sequence[i], r, sizeof *r);
        }
        assert_true(found);
        assert_int_equal(better[rank], rank);
    }
    assert_int_equal(best.by_sequence[2].n, 0);
    spey_context_free(context);
}

static int drop_a_sequence(void *user, const spey_output *event)
{
    on_any(user, event);
    return event->sequence == 1;
}

static void cancelling_ends_every_sequence_once(void **state)
{
    (void)state;
    records r = { 0 };
    spey_context *context = context_of(4, 0);
    spey_sampling s;
    spey_sampling_init(&s);
    s.n = 4;
    submit_options(context, &s, drop_a_sequence, &r);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r.by_sequence[i].n_ends, 1);
        assert_int_equal(r.by_sequence[i].finish, SPEY_FINISH_CANCELLED);
        assert_int_equal(r.by_sequence[i].n, 1);
    }
    spey_context_free(context);
}

static int only_even_ids(void *user, uint64_t request, int32_t sequence, const int32_t *ids,
                         size_t n, float *logits, size_t vocab_size)
{
    (void)request, (void)sequence, (void)ids;
    for (size_t i = 1; i < vocab_size; i += 2)
        logits[i] = -INFINITY;
    return user && n == 9; /* with the third token it fails, when asked to */
}

static void not_a_number(float *logits, size_t vocab_size)
{
    for (size_t i = 0; i < vocab_size; i++)
        logits[i] = NAN;
}

static int spoil(void *user, uint64_t request, int32_t sequence, const int32_t *ids, size_t n,
                 float *logits, size_t vocab_size)
{
    (void)user, (void)request, (void)sequence, (void)ids, (void)n;
    not_a_number(logits, vocab_size);
    return 0;
}

static void faults_of_a_logits_processor_end_its_request_alone(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 3, 1, 4, 1, 5, 9, 2 };
    static const spey_process_logits_fn processors[] = { only_even_ids, only_even_ids, spoil };
    record r[3] = { 0 };
    spey_context *context = context_of(3, 0);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 6;
    for (int i = 0; i < 3; i++) {
        spey_request_options o;
        spey_request_options_init(&o);
        o.prompt = prompt;
        o.n_prompt = 7;
        o.sampling = &s;
        o.on_output = on_output;
        o.user = &r[i];
        o.process_logits = processors[i];
        o.process_user = i == 1 ? &r[i] : NULL;
        assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    }
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r[0].n, 6);
    for (int i = 0; i < 6; i++)
        assert_int_equal(r[0].ids[i] % 2, 0);
    assert_int_equal(r[1].n, 2);
    assert_int_equal(r[1].finish, SPEY_FINISH_ERROR);
    assert_non_null(strstr(r[1].error, "processor"));
    assert_int_equal(r[2].n, 0);
    assert_int_equal(r[2].finish, SPEY_FINISH_ERROR);
    spey_context_free(context);
}

static void the_kv_cache_can_be_a_part_of_what_is_free(void **state)
{
    (void)state;
    uint64_t blocks[2];
    for (int i = 0; i < 2; i++) {
        spey_context_options options;
        spey_context_options_init(&options);
        options.threads = 1;
        options.memory_bytes_max = 16 << 20;
        options.kv_fraction = i ? 0.5 : 0.25;
        options.batch_invariant = true; /* nothing to lose on a CPU */
        spey_context *context;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
        const spey_plan *plan = spey_runner_get_plan(spey_context_runner(context));
        blocks[i] = (uint64_t)plan->kv_blocks;
        assert_true(plan->total_bytes <= options.memory_bytes_max);
        spey_context_free(context);
        options.kv_fraction = i ? 1.5 : -1;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_INVALID);
        options.kv_fraction = 0.5;
        options.kv_bytes = 1 << 20;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_INVALID);
    }
    assert_in_range(blocks[1], 2 * blocks[0] - 1, 2 * blocks[0] + 1);
}

static void deadlines_end_requests_and_the_queue_is_bounded(void **state)
{
    (void)state;
    static const int32_t prompt[] = { 3, 1, 4 };
    record r[4] = { 0 };
    spey_context_options options;
    spey_context_options_init(&options);
    options.threads = 1;
    options.queue_max = 2;
    spey_context *context;
    assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
    spey_request_options o;
    spey_request_options_init(&o);
    o.prompt = prompt;
    o.n_prompt = 3;
    o.on_output = on_output;
    for (int i = 0; i < 3; i++) {
        o.user = &r[i];
        o.deadline_ms = i == 0 ? 1 : 0;
        assert_int_equal(spey_context_submit_request(context, &o, NULL),
                         i < 2 ? SPEY_OK : SPEY_LIMIT);
    }
    struct timespec nap = { .tv_nsec = 3000000 };
    nanosleep(&nap, NULL);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r[0].finish, SPEY_FINISH_TIMEOUT);
    assert_int_equal(r[0].n, 0);
    assert_true(r[1].n > 0 && r[1].n_ends == 1);
    assert_int_equal(r[2].n_ends, 0);
    o.deadline_ms = -1;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
    o.deadline_ms = 0;
    o.priority = SPEY_PRIORITY_MAX + 1;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
    spey_request_options raw = { 0 };
    assert_int_equal(spey_context_submit_request(context, &raw, NULL), SPEY_INVALID);
    spey_context_free(context);
}

static void a_context_begins_with_what_another_kept(void **state)
{
    (void)state;
    record both[2] = { 0 };
    int32_t prompt[30];
    char path[64];
    snprintf(path, sizeof path, "/tmp/spey-test-context-%d", (int)getpid());
    for (int i = 0; i < 30; i++)
        prompt[i] = 3 + i;
    for (int run = 0; run < 2; run++) {
        spey_context_options options;
        spey_context_options_init(&options);
        options.threads = 1;
        options.kv_block_tokens = 4;
        options.kv_file = path;
        spey_context *context;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
        spey_sampling s;
        spey_sampling_init(&s);
        s.max_tokens = 12;
        assert_int_equal(spey_context_submit(context, prompt, 30, &s, on_output, &both[run], NULL),
                         SPEY_OK);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        spey_kv_stats stats;
        spey_kv_read_stats(spey_runner_kv(spey_context_runner(context)), &stats);
        assert_in_range(stats.reused_tokens, run ? 28 : 0, run ? 29 : 0);
        spey_context_free(context);
    }
    assert_int_equal(unlink(path), 0);
    assert_int_equal(both[0].n, 12);
    assert_memory_equal(both[0].ids, both[1].ids, 12 * sizeof(int32_t));
}

static void a_request_that_bans_every_token_ends_alone(void **state)
{
    (void)state;
    record bad = { 0 }, good = { 0 };
    spey_context *context = context_of(2, 0);
    spey_logit_bias bias[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        bias[i] = (spey_logit_bias){ i, -INFINITY };
    const int32_t prompt[] = { 4, 5 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 5;
    assert_int_equal(spey_context_submit(context, prompt, 2, &s, on_output, &good, NULL), SPEY_OK);
    s.logit_bias = bias;
    s.n_logit_bias = VOCAB;
    assert_int_equal(spey_context_submit(context, prompt, 2, &s, on_output, &bad, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(bad.finish, SPEY_FINISH_ERROR);
    assert_non_null(strstr(bad.error, "banned"));
    assert_int_equal(good.finish, SPEY_FINISH_LENGTH);
    assert_int_equal(good.n, 5);
    spey_context_free(context);
}

static void the_last_token_there_is_room_for_is_forced(void **state)
{
    (void)state;
    enum { FORCED = 17 };
    for (int beams = 1; beams <= 3; beams += 2) {
        spey_context *context = context_of(3, 0);
        records free_run = { 0 }, forced = { 0 };
        spey_sampling s;
        spey_sampling_init(&s);
        s.max_tokens = 6;
        s.ignore_eos = true;
        s.beams = s.n = beams;
        submit_options(context, &s, on_any, &free_run);
        s.forced_eos_id = FORCED;
        submit_options(context, &s, on_any, &forced);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        for (int i = 0; i < beams; i++) {
            const record *r = &forced.by_sequence[i];
            assert_int_equal(r->n, 6);
            assert_int_equal(r->ids[5], FORCED);
            assert_true(beams > 1 || free_run.by_sequence[i].ids[5] != FORCED);
            if (beams == 1) assert_memory_equal(r->ids, free_run.by_sequence[i].ids, 5 * 4);
        }
        spey_context_free(context);
    }
}

/* Checkpoints with a vocabulary that was cut say so. */
static void an_end_of_text_that_the_model_has_not_is_harmless(void **state)
{
    (void)state;
    spey_engine_file *file;
    spey_engine *before = engine;
    tiny_shape shape = tiny_default;
    shape.fault = TINY_EOS;
    assert_int_equal(tiny_engine_new(&shape, &file), SPEY_OK);
    assert_int_equal(spey_engine_from_file(file, &engine), SPEY_OK);
    spey_context *context = context_of(1, 0);
    const spey_logit_bias ends = { 3, 1000 };
    records r = { 0 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.min_tokens = 4;
    s.logit_bias = &ends;
    s.n_logit_bias = 1;
    submit_options(context, &s, on_any, &r);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r.by_sequence[0].n, 5);
    assert_int_equal(r.by_sequence[0].finish, SPEY_FINISH_EOS);
    spey_context_free(context);
    spey_engine_close(engine);
    engine = before;
}

static void suppressed_ids_stay_out_of_the_output(void **state)
{
    (void)state;
    spey_context *context = context_of(2, 0);
    records before = { 0 }, after = { 0 }, begin = { 0 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 12;
    s.ignore_eos = true;
    submit_options(context, &s, on_any, &before);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    int32_t first = before.by_sequence[0].ids[0];
    s.begin_suppress_ids = &first;
    s.n_begin_suppress_ids = 1;
    submit_options(context, &s, on_any, &begin);
    s.suppress_ids = before.by_sequence[0].ids;
    s.n_suppress_ids = 12;
    submit_options(context, &s, on_any, &after);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_true(begin.by_sequence[0].ids[0] != first);
    for (int i = 0; i < 12; i++)
        for (int k = 0; k < 12; k++)
            assert_true(after.by_sequence[0].ids[i] != before.by_sequence[0].ids[k]);
    spey_context_free(context);
}

static void ends_come_from_stop_ids_limits_and_full_sequences(void **state)
{
    (void)state;
    record r[3] = { 0 };
    spey_context *context = context_of(1, 0);
    const int32_t prompt[] = { 7, 8, 9 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = -1; /* until the sequence is full: 64 */
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r[0], NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r[0].finish, SPEY_FINISH_LENGTH);
    assert_int_equal(r[0].n, 61);
    const int32_t stops[] = { r[0].ids[4] };
    int first = 0;
    while (r[0].ids[first] != stops[0])
        first++;
    s.stop_ids = stops;
    s.n_stop_ids = 1;
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r[1], NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r[1].finish, SPEY_FINISH_STOP);
    assert_int_equal(r[1].n, first + 1);
    s.max_tokens = 0;
    s.prompt_logprobs = 0;
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r[2], NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r[2].finish, SPEY_FINISH_LENGTH);
    assert_int_equal(r[2].n, 0);
    assert_int_equal(r[2].n_prompt, 3);
    assert_true(isnan(r[2].prompt_logprobs[0]) && r[2].prompt_logprobs[1] < 0 &&
                r[2].prompt_logprobs[2] < 0);
    spey_context_free(context);
}

typedef struct rows {
    double logprobs[TOKENS_MAX];
    const int32_t *ids;
    size_t n;
} rows;

static void on_row(void *user, size_t position, float *logits)
{
    rows *r = user;
    assert_int_equal(position, r->n);
    double total = 0;
    for (int i = 0; i < VOCAB; i++)
        total += exp((double)logits[i]);
    r->logprobs[r->n] = (double)logits[r->ids[position + 1]] - log(total);
    r->n++;
}

static void evaluation_says_what_prompt_logprobs_say(void **state)
{
    (void)state;
    int32_t ids[40];
    for (int i = 0; i < 40; i++)
        ids[i] = i * 7 % VOCAB;
    record r = { 0 };
    spey_context *context = context_of(1, 16);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 0;
    s.prompt_logprobs = 0;
    assert_int_equal(spey_context_submit(context, ids, 40, &s, on_output, &r, NULL), SPEY_OK);
    rows all = { .ids = ids };
    assert_int_equal(spey_context_logits(context, ids, 39, on_row, &all), SPEY_OK);
    assert_int_equal(all.n, 39);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    for (int i = 0; i < 39; i++)
        assert_true(fabs(all.logprobs[i] - (double)r.prompt_logprobs[i + 1]) < 1e-5);
    spey_context_free(context);
}

/* Inputs of up to 20 tokens, three or fewer in a step of the encoder; five sequences at once. */
static void every_request_has_an_input_of_its_own(void **state)
{
    enum { N = 16 };
    static record alone[N], crowd[N];
    spey_engine *before = open_encoder();
    memset(alone, 0, sizeof alone);
    memset(crowd, 0, sizeof crowd);
    for (int i = 0; i < N; i++) {
        spey_context *context = context_of(1, 0);
        submit(context, i, &alone[i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        spey_context_free(context);
    }
    spey_context *context = context_of(5, 24);
    for (int i = 0; i < N; i++)
        submit(context, i, &crowd[i]);
    spey_alloc_seal(true);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    spey_alloc_seal(false);
    spey_context_free(context);
    assert_memory_equal(crowd, alone, sizeof alone);
    sequence_i_is_a_request_with_seed_plus_i(state);
    check_policies(20); /* who goes on after a pause is encoded again */
    close_encoder(before);
}

static void a_decoder_may_begin_with_more(void **state)
{
    (void)state;
    static const int32_t input[] = { 7, 8, 9 }, begin[] = { 1, 30, 31 }, bad[] = { VOCAB };
    spey_engine *before = open_encoder();
    spey_context *context = context_of(1, 16);
    assert_true(spey_engine_has_encoder(engine));
    record r = { 0 }, more = { 0 };
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 5;
    s.ignore_eos = true;
    s.prompt_logprobs = 0;
    spey_request_options o;
    spey_request_options_init(&o);
    o.prompt = input;
    o.n_prompt = 3;
    o.sampling = &s;
    o.on_output = on_output;
    o.user = &r;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    o.decoder_ids = begin;
    o.n_decoder_ids = 3;
    o.user = &more;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r.n_prompt, 1); /* the start id */
    assert_int_equal(more.n_prompt, 3);
    assert_int_equal(r.n, 5);
    assert_memory_not_equal(r.ids, more.ids, 5 * sizeof *r.ids);
    rows all = { .ids = begin };
    const spey_id_list source = { input, 3 }, ids = { begin, 2 }, long_source = { input, 17 };
    assert_int_equal(spey_context_decoder_logits(context, &source, &ids, on_row, &all), SPEY_OK);
    for (int i = 0; i < 2; i++)
        assert_true(fabs(all.logprobs[i] - (double)more.prompt_logprobs[i + 1]) < 1e-5);
    assert_int_equal(spey_context_decoder_logits(context, &long_source, &ids, on_row, &all),
                     SPEY_LIMIT);
    assert_int_equal(spey_context_logits(context, begin, 2, on_row, &all), SPEY_INVALID);
    o.decoder_ids = bad;
    o.n_decoder_ids = 1;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
    o.n_decoder_ids = 0;
    o.n_prompt = 17;
    static const int32_t long_input[17] = { 0 };
    o.prompt = long_input;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "17 tokens, 16 are the most"));
    o.n_prompt = 0;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
    spey_context_free(context);
    close_encoder(before);
    context = context_of(1, 0);
    assert_false(spey_engine_has_encoder(engine));
    o.n_prompt = o.n_decoder_ids = 1;
    o.decoder_ids = begin;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "the model has no encoder"));
    assert_int_equal(spey_context_decoder_logits(context, &source, &ids, on_row, &all),
                     SPEY_INVALID);
    spey_context_free(context);
}

typedef struct told_rows {
    float context[TOKENS_MAX][VOCAB], generation[TOKENS_MAX][VOCAB];
    int n_context, n_generation;
} told_rows;

static void on_told_row(void *user, const spey_logits_row *row)
{
    told_rows *t = user;
    assert_int_equal(row->vocab_size, VOCAB);
    assert_int_equal(row->sequence, 0);
    if (!row->generation) assert_int_equal(row->position, t->n_context++);
    if (row->generation) t->n_generation++;
    memcpy(row->generation ? t->generation[row->position] : t->context[row->position], row->logits,
           sizeof t->context[0]);
}

static void compare_row(void *user, size_t position, float *logits)
{
    const told_rows *t = user;
    const float *told = position < 9 ? t->context[position] : t->generation[position];
    assert_memory_equal(logits, told, VOCAB * sizeof *logits);
    if (position == 8) assert_memory_equal(logits, t->generation[8], VOCAB * sizeof *logits);
}

/* In chunks, after another request with the same prompt, with penalties: the rows are the model's own, every one once. */
static void told_logits_are_those_of_evaluation(void **state)
{
    (void)state;
    static told_rows told;
    static record r, before;
    memset(&told, 0, sizeof told);
    memset(&r, 0, sizeof r);
    memset(&before, 0, sizeof before);
    int32_t ids[TOKENS_MAX] = { 4, 8, 15, 16, 23, 42, 7, 9, 11 };
    spey_context *context = context_of(2, 4);
    spey_sampling s;
    spey_sampling_init(&s);
    s.max_tokens = 6;
    s.ignore_eos = true;
    s.repetition_penalty = 1.5;
    spey_request_options o;
    spey_request_options_init(&o);
    o.prompt = ids;
    o.n_prompt = 9;
    o.sampling = &s;
    o.on_output = on_output;
    o.user = &before;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    o.user = &r;
    o.context_logits = o.generation_logits = true;
    o.on_logits = on_told_row;
    o.logits_user = &told;
    assert_int_equal(spey_context_submit_request(context, &o, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(told.n_context, 9);
    assert_int_equal(told.n_generation, 6);
    assert_memory_equal(r.ids, before.ids, sizeof r.ids);
    memcpy(ids + 9, r.ids, 6 * sizeof *ids);
    assert_int_equal(spey_context_logits(context, ids, 14, compare_row, &told), SPEY_OK);
    spey_context_free(context);
}

static void what_cannot_run_is_refused_and_queues_nothing(void **state)
{
    (void)state;
    record r = { 0 };
    spey_context *context = context_of(1, 0);
    int32_t prompt[100] = { 0 };
    spey_sampling s;
    spey_sampling_init(&s);
    assert_int_equal(spey_context_submit(context, prompt, 0, &s, on_output, &r, NULL),
                     SPEY_INVALID);
    assert_int_equal(spey_context_submit(context, prompt, 64, &s, on_output, &r, NULL), SPEY_LIMIT);
    assert_non_null(strstr(spey_last_error(), "64 tokens"));
    prompt[2] = VOCAB;
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r, NULL),
                     SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "prompt token 2 is 50, expected 0 to 49"));
    prompt[2] = -1;
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r, NULL),
                     SPEY_INVALID);
    prompt[2] = 0;
    s.top_p = -1;
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r, NULL),
                     SPEY_INVALID);
    const char *stops[] = { "x" };
    spey_sampling_init(&s);
    s.stop = stops;
    s.n_stop = 1; /* this engine has no tokenizer */
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r, NULL),
                     SPEY_UNSUPPORTED);
    int32_t active = -1;
    assert_int_equal(spey_context_step(context, &active), SPEY_OK);
    assert_int_equal(active, 0);
    assert_int_equal(r.n_ends, 0);
    spey_context_free(context);

    spey_context_options options = { 0 };
    assert_int_equal(spey_context_new(engine, &options, &context), SPEY_INVALID);
    assert_null(context);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        spey_alloc_fail_nth(nth);
        spey_context_options options;
        spey_context_options_init(&options);
        options.sequences_max = 2;
        options.threads = 1;
        spey_context *context;
        const int32_t prompt[] = { 1, 2 };
        record r = { 0 };
        spey_sampling s;
        spey_sampling_init(&s);
        s.logprobs = 3;
        s.prompt_logprobs = 1;
        s.best_of = 2;
        status = spey_context_new(engine, &options, &context);
        if (!status) status = spey_context_submit(context, prompt, 2, &s, on_output, &r, NULL);
        spey_alloc_fail_nth(0);
        spey_context_free(context); /* with a request still queued, at last */
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        assert_true(nth < 2000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crowd_gets_what_each_gets_alone),
        cmocka_unit_test(outputs_do_not_depend_on_the_policy),
        cmocka_unit_test(requests_say_how_their_blocks_are_kept),
        cmocka_unit_test(senseless_retention_is_refused),
        cmocka_unit_test(sequence_i_is_a_request_with_seed_plus_i),
        cmocka_unit_test(best_of_tells_the_likeliest_in_order),
        cmocka_unit_test(cancelling_ends_every_sequence_once),
        cmocka_unit_test(faults_of_a_logits_processor_end_its_request_alone),
        cmocka_unit_test(the_kv_cache_can_be_a_part_of_what_is_free),
        cmocka_unit_test(deadlines_end_requests_and_the_queue_is_bounded),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(a_request_can_be_cancelled_queued_running_or_by_its_callback),
        cmocka_unit_test(reuse_changes_nothing_but_the_work),
        cmocka_unit_test(a_context_begins_with_what_another_kept),
        cmocka_unit_test(a_request_that_bans_every_token_ends_alone),
        cmocka_unit_test(the_last_token_there_is_room_for_is_forced),
        cmocka_unit_test(an_end_of_text_that_the_model_has_not_is_harmless),
        cmocka_unit_test(suppressed_ids_stay_out_of_the_output),
        cmocka_unit_test(ends_come_from_stop_ids_limits_and_full_sequences),
        cmocka_unit_test(evaluation_says_what_prompt_logprobs_say),
        cmocka_unit_test(every_request_has_an_input_of_its_own),
        cmocka_unit_test(a_decoder_may_begin_with_more),
        cmocka_unit_test(told_logits_are_those_of_evaluation),
        cmocka_unit_test(what_cannot_run_is_refused_and_queues_nothing),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests_name("context", tests, open_engine, close_engine);
}
