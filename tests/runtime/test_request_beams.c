/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "runtime/context.h"
#include "runtime/engine_handle.h"
#include "tiny_engine.h"

/* That beams choose as transformers does is test_beam's matter, and test_reference.py's on the demo model; here is what the
 * context adds: caches that follow the beams, events, faults. */

enum { TOKENS_MAX = 64, VOCAB = 50, N_MAX = 4 };

typedef struct record {
    int32_t ids[N_MAX][TOKENS_MAX];
    double score[N_MAX], sum[N_MAX];
    int n[N_MAX];
    spey_finish finish[N_MAX];
    int n_ends, n_last;
    char error[128];
} record;

static int on_output(void *user, const spey_output *event)
{
    record *r = user;
    int i = event->sequence;
    assert_int_equal(r->n_last, 0);
    if (event->token >= 0) r->ids[i][r->n[i]++] = event->token;
    r->score[i] = event->score;
    r->sum[i] = event->cumulative_logprob;
    r->finish[i] = event->finish;
    r->n_ends += event->finish != SPEY_FINISH_NONE;
    r->n_last += event->last;
    if (event->error) strncpy(r->error, event->error, sizeof r->error - 1);
    return 0;
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

static spey_context *context_of(int32_t sequences)
{
    spey_context_options options;
    spey_context_options_init(&options);
    options.sequences_max = sequences;
    options.threads = 1;
    spey_context *context;
    assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
    return context;
}

static spey_sampling beams(int32_t width, int32_t n)
{
    spey_sampling s;
    spey_sampling_init(&s);
    s.beams = width;
    s.n = n;
    s.max_tokens = 12;
    s.ignore_eos = true;
    return s;
}

/* A search whose settings depend on i. */
static void submit(spey_context *context, int i, record *r)
{
    spey_rng rng = { .seed = 40 + (uint64_t)i };
    int32_t prompt[20];
    size_t n = 1 + (size_t)spey_rng_below(&rng, 20);
    for (size_t t = 0; t < n; t++)
        prompt[t] = (int32_t)spey_rng_below(&rng, VOCAB);
    const int32_t stop[] = { 7, 23, 41 };
    spey_sampling s = beams(2 + i % 3, 1 + i % 2);
    s.max_tokens = 1 + (int32_t)spey_rng_below(&rng, 20);
    s.no_repeat_ngram = i % 2 ? 2 : 0;
    s.length_penalty = i % 4 ? 1 : 2;
    s.stop_ids = stop;
    s.n_stop_ids = i % 2 ? 3 : 0;
    if (i % 5 == 4) {
        s.beams = 4;
        s.beam_groups = 2;
        s.diversity_penalty = 0.5;
    }
    if (i % 6 == 5) s.beams = 0; /* one among the others that does not search */
    if (i % 6 == 5) s.n = 1;
    assert_int_equal(spey_context_submit(context, prompt, n, &s, on_output, r, NULL), SPEY_OK);
}

static bool same_scores(const record *a, const record *b)
{
    for (int k = 0; k < N_MAX; k++)
        if (a->score[k] != b->score[k] && !(isnan(a->score[k]) && isnan(b->score[k]))) return false;
    return true;
}

/* Alone, in a crowd, and with so little room that searches are paused and their beams computed again. */
static void beams_do_not_depend_on_what_runs_beside_them(void **state)
{
    (void)state;
    enum { N = 18 };
    static record alone[N], crowd[2][N];
    memset(alone, 0, sizeof alone);
    memset(crowd, 0, sizeof crowd);
    uint64_t block_bytes = 0;
    for (int i = 0; i < N; i++) {
        spey_context *context = context_of(4);
        submit(context, i, &alone[i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        assert_int_equal(alone[i].n_last, 1);
        spey_context_free(context);
    }
    for (int tight = 0; tight < 2; tight++) {
        spey_context_options options;
        spey_context_options_init(&options);
        options.sequences_max = 12;
        options.threads = 1;
        options.kv_block_tokens = 4;
        options.step_tokens_max = tight ? 17 : 0;
        options.policy = SPEY_MAX_UTILIZATION;
        options.kv_bytes = tight ? 28 * block_bytes : 0;
        spey_context *context;
        assert_int_equal(spey_context_new(engine, &options, &context), SPEY_OK);
        block_bytes = spey_runner_get_plan(spey_context_runner(context))->kv_block_bytes;
        for (int i = 0; i < N; i++)
            submit(context, i, &crowd[tight][i]);
        assert_int_equal(spey_context_run(context), SPEY_OK);
        if (tight) assert_true(spey_context_counts(context).pauses > 0);
        spey_context_free(context);
        for (int i = 0; i < N; i++) {
            assert_memory_equal(crowd[tight][i].ids, alone[i].ids, sizeof alone[i].ids);
            assert_true(same_scores(&crowd[tight][i], &alone[i]));
        }
    }
}

typedef struct rows {
    const int32_t *ids;
    size_t first;
    double sum;
} rows;

static void add_logprob(void *user, size_t position, float *logits)
{
    rows *r = user;
    if (position < r->first) return;
    r->sum += (double)logits[r->ids[position + 1]] - spey_log_sum_exp(logits, VOCAB);
}

static void scores_are_those_of_the_hypotheses(void **state)
{
    (void)state;
    const int32_t prompt[] = { 3, 14, 15 };
    spey_context *context = context_of(4);
    spey_sampling s = beams(4, 3);
    s.logprobs = 0;
    s.length_penalty = 1.5;
    static record r;
    memset(&r, 0, sizeof r);
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r, NULL), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r.n_ends, 3);
    for (int i = 0; i < 3; i++) {
        int32_t ids[TOKENS_MAX] = { 3, 14, 15 };
        memcpy(ids + 3, r.ids[i], (size_t)r.n[i] * sizeof *ids);
        rows check = { ids, 2, 0 };
        size_t n = (size_t)r.n[i] + 2;
        assert_int_equal(spey_context_logits(context, ids, n, add_logprob, &check), SPEY_OK);
        assert_true(fabs(check.sum - r.sum[i]) < 1e-4);
        assert_true(fabs(r.sum[i] / pow(r.n[i], 1.5) - r.score[i]) < 1e-5);
        assert_true(i == 0 || r.score[i] <= r.score[i - 1]);
    }
    spey_context_free(context);
}

static void a_cancelled_search_ends_once_without_tokens(void **state)
{
    (void)state;
    const int32_t prompt[] = { 3, 14, 15 };
    spey_context *context = context_of(4);
    spey_sampling s = beams(4, 2);
    static record r;
    memset(&r, 0, sizeof r);
    uint64_t id;
    int32_t active;
    assert_int_equal(spey_context_submit(context, prompt, 3, &s, on_output, &r, &id), SPEY_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(spey_context_step(context, &active), SPEY_OK);
    assert_int_equal(spey_context_cancel(context, id), SPEY_OK);
    assert_int_equal(spey_context_run(context), SPEY_OK);
    assert_int_equal(r.n_last, 1);
    assert_int_equal(r.n[0] + r.n[1], 0);
    assert_int_equal(r.finish[0], SPEY_FINISH_CANCELLED);
    spey_context_free(context);
}

/* Each step one of two tokens: fewer ways than beams at first, which must not stay few. */
static int two_ways(void *user, uint64_t request, int32_t sequence, const int32_t *ids, size_t n,
                    float *logits, size_t vocab_size)
{
    (void)user, (void)request, (void)sequence, (void)ids, (void)n;
    for (size_t i = 2; i < vocab_size; i++)
        logits[i] = -INFINITY;
    return 0;
}

static int no_way(void *user, uint64_t request, int32_t sequence, const int32_t *ids, size_t n,
                  float *logits, size_t vocab_size)
{
    (void)user, (void)request, (void)sequence, (void)ids;
    for (size_t i = 0; n == 5 && i < vocab_size; i++)
        logits[i] = -INFINITY;
    return 0;
}

static spey_status run_with(spey_process_logits_fn process, const spey_sampling *s, record *r)
{
    const int32_t prompt[] = { 3, 14, 15 };
    spey_context *context = context_of(8);
    spey_request_options o;
    spey_request_options_init(&o);
    o.prompt = prompt;
    o.n_prompt = 3;
    o.sampling = s;
    o.on_output = on_output;
    o.user = r;
    o.process_logits = process;
    memset(r, 0, sizeof *r);
    spey_status status = spey_context_submit_request(context, &o, NULL);
    if (!status) {
        spey_alloc_seal(true);
        status = spey_context_run(context);
        spey_alloc_seal(false);
    }
    spey_context_free(context);
    return status;
}

static void few_ways_become_many_again(void **state)
{
    (void)state;
    static record r;
    spey_sampling s = beams(8, 4);
    s.max_tokens = 3; /* eight outputs in all, and as many beams */
    assert_int_equal(run_with(two_ways, &s, &r), SPEY_OK);
    assert_int_equal(r.n_ends, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r.n[i], 3);
        for (int k = 0; k < i; k++)
            assert_memory_not_equal(r.ids[i], r.ids[k], 3 * sizeof(int32_t));
    }
}

static void a_search_without_a_way_on_is_a_fault(void **state)
{
    (void)state;
    static record r;
    spey_sampling s = beams(3, 2);
    assert_int_equal(run_with(no_way, &s, &r), SPEY_OK);
    assert_int_equal(r.n_last, 1);
    assert_int_equal(r.finish[0], SPEY_FINISH_ERROR);
    assert_non_null(strstr(r.error, "every token is banned"));
}

static void what_beams_do_not_go_with_is_refused(void **state)
{
    (void)state;
    static record r;
    const char *stop = "x";
    spey_sampling s = beams(3, 4);
    assert_int_equal(run_with(NULL, &s, &r), SPEY_INVALID);
    s = beams(3, 1);
    s.temperature = 1;
    assert_int_equal(run_with(NULL, &s, &r), SPEY_INVALID);
    s = beams(3, 1);
    s.stop = &stop;
    s.n_stop = 1;
    assert_int_equal(run_with(NULL, &s, &r), SPEY_INVALID);
    s = beams(3, 1);
    s.logprobs = 2;
    assert_int_equal(run_with(NULL, &s, &r), SPEY_INVALID);
    s = beams(9, 1);
    assert_int_equal(run_with(NULL, &s, &r), SPEY_LIMIT); /* eight sequences */
    s = beams(3, 1);
    s.guide = SPEY_GUIDE_REGEX;
    s.guide_text = "a";
    assert_int_equal(run_with(NULL, &s, &r), SPEY_UNSUPPORTED); /* no tokenizer */
    assert_int_equal(r.n_last, 0);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    spey_context *context = context_of(4);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    for (uint64_t nth = 1; status; nth++) {
        const int32_t prompt[] = { 1, 2 };
        spey_sampling s = beams(4, 2);
        spey_request_options o;
        spey_request_options_init(&o);
        o.prompt = prompt;
        o.n_prompt = 2;
        o.sampling = &s;
        spey_alloc_fail_nth(nth);
        status = spey_context_submit_request(context, &o, NULL);
        spey_alloc_fail_nth(0);
        if (status) assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    spey_context_free(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(beams_do_not_depend_on_what_runs_beside_them),
        cmocka_unit_test(scores_are_those_of_the_hypotheses),
        cmocka_unit_test(a_cancelled_search_ends_once_without_tokens),
        cmocka_unit_test(few_ways_become_many_again),
        cmocka_unit_test(a_search_without_a_way_on_is_a_fault),
        cmocka_unit_test(what_beams_do_not_go_with_is_refused),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
