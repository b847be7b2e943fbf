#include "cli/bench_loop.h"

#include <stdlib.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/progress.h"
#include "runtime/context.h"

typedef struct bench_run bench_run;

typedef struct bench_request {
    bench_run *run;
    uint64_t arrival_ns, last_ns; /* of the clock; last_ns 0: no token yet */
} bench_request;

typedef struct samples {
    double *values;
    int64_t n, room;
} samples;

struct bench_run {
    const spey_bench_workload *workload;
    spey_context *context;
    int64_t vocab_size;
    int32_t *prompt; /* [isl_max] */
    bench_request *requests;
    int64_t n_submitted, n_started, n_ended, n_failed, n_tokens, n_steps, n_late_tokens;
    uint64_t start_ns, last_ns;
    uint64_t all_started_ns; /* every request has its first token, and none has ended; else 0 */
    samples first_ms, gaps_ms, host_us;
    int64_t n_ahead;
    double hidden_us;
    double kv_sum, kv_max;
    int64_t kv_reused; /* before the run */
    spey_progress progress;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static spey_bench_spread spread_of(samples *s)
{
    spey_bench_spread spread = { 0 };
    if (s->n == 0) return spread;
    for (int64_t i = 0; i < s->n; i++)
        spread.mean += s->values[i] / (double)s->n;
    qsort(s->values, (size_t)s->n, sizeof *s->values, by_value);
    spread.p50 = s->values[(s->n - 1) / 2];
    spread.p90 = s->values[(int64_t)(0.90 * (double)(s->n - 1) + 0.5)];
    spread.p99 = s->values[(int64_t)(0.99 * (double)(s->n - 1) + 0.5)];
    return spread;
}

static spey_status samples_init(samples *s, int64_t room)
{
    *s = (samples){ .values = spey_new_array(SPEY_PURPOSE_GENERAL, double, room), .room = room };
    return s->values ? SPEY_OK : SPEY_NOMEM;
}

/* What comes beyond the room is not sampled. */
static void add_sample(samples *s, double value)
{
    if (s->n < s->room) s->values[s->n++] = value;
}

static void take_token(bench_request *request, uint64_t now)
{
    bench_run *run = request->run;
    if (request->last_ns == 0) {
        add_sample(&run->first_ms, (double)(now - request->arrival_ns) * 1e-6);
        if (++run->n_started == run->workload->n && run->n_ended == 0) run->all_started_ns = now;
    } else {
        add_sample(&run->gaps_ms, (double)(now - request->last_ns) * 1e-6);
    }
    run->n_late_tokens += run->all_started_ns != 0;
    request->last_ns = run->last_ns = now;
    spey_progress_update(&run->progress, (uint64_t)++run->n_tokens);
}

static int on_output(void *user, const spey_output *event)
{
    bench_request *request = user;
    if (event->token >= 0) take_token(request, spey_clock_ns());
    request->run->n_ended += event->finish != SPEY_FINISH_NONE;
    request->run->n_failed += event->finish == SPEY_FINISH_ERROR;
    return 0;
}

static spey_status submit_next(bench_run *run)
{
    const spey_bench_workload *w = run->workload;
    int64_t i = run->n_submitted++;
    bench_request *request = &run->requests[i];
    *request = (bench_request){ .run = run, .arrival_ns = run->start_ns + w->items[i].arrival_ns };
    if (w->clients > 0) request->arrival_ns = spey_clock_ns();
    spey_bench_prompt(w, i, run->vocab_size, run->prompt);
    spey_sampling sampling;
    spey_sampling_init(&sampling);
    sampling.max_tokens = (int32_t)w->items[i].osl;
    sampling.ignore_eos = true;
    sampling.temperature = w->temperature;
    sampling.top_k = (int32_t)w->top_k;
    sampling.top_p = w->top_p;
    sampling.repetition_penalty = w->repetition_penalty;
    sampling.seed = w->seed + (uint64_t)i;
    return spey_context_submit(run->context, run->prompt, (size_t)w->items[i].isl, &sampling,
                               on_output, request, NULL);
}

static bool is_due(const bench_run *run, uint64_t now)
{
    const spey_bench_workload *w = run->workload;
    if (run->n_submitted == w->n) return false;
    if (w->clients > 0) return run->n_submitted - run->n_ended < w->clients;
    return run->start_ns + w->items[run->n_submitted].arrival_ns <= now;
}

static void sleep_until(uint64_t when_ns)
{
    uint64_t now = spey_clock_ns();
    if (when_ns <= now) return;
    uint64_t ns = when_ns - now;
    nanosleep(&(struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) }, NULL);
}

static void sample_step(bench_run *run, const spey_iteration_stats *step)
{
    spey_runner *runner = spey_context_runner(run->context);
    const spey_plan *plan = spey_runner_get_plan(runner);
    add_sample(&run->host_us, step->host_ms * 1e3);
    run->hidden_us += step->hidden_host_ms * 1e3;
    run->n_ahead += step->began_ahead;
    run->n_steps++;
    if (plan->kv_blocks == 0) return;
    double free = (double)spey_kv_free_blocks(spey_runner_kv(runner));
    double used = 1 - free / (double)plan->kv_blocks;
    run->kv_sum += used;
    if (used > run->kv_max) run->kv_max = used;
}

static spey_status loop(bench_run *run)
{
    const spey_bench_workload *w = run->workload;
    spey_iteration_stats step = { 0 };
    spey_context_read_iteration(run->context, 0, &step);
    while (run->n_ended < w->n) {
        while (is_due(run, spey_clock_ns()))
            SPEY_TRY(submit_next(run));
        if (run->n_submitted == run->n_ended) {
            sleep_until(run->start_ns + w->items[run->n_submitted].arrival_ns);
            continue;
        }
        SPEY_TRY(spey_context_step(run->context, NULL));
        if (spey_context_read_iteration(run->context, step.iter, &step)) sample_step(run, &step);
    }
    return SPEY_OK;
}

static int64_t reused_tokens(spey_context *context)
{
    spey_kv_stats stats;
    spey_kv_read_stats(spey_runner_kv(spey_context_runner(context)), &stats);
    return stats.reused_tokens;
}

static void summarize(bench_run *run, spey_bench_result *out)
{
    const spey_bench_workload *w = run->workload;
    double seconds = (double)(run->last_ns - run->start_ns) * 1e-9;
    *out = (spey_bench_result){ .seconds = seconds,
                                .n_requests = w->n,
                                .n_failed = run->n_failed,
                                .n_tokens = run->n_tokens,
                                .n_steps = run->n_steps,
                                .first_ms = spread_of(&run->first_ms),
                                .gap_ms = spread_of(&run->gaps_ms),
                                .host_us = spread_of(&run->host_us),
                                .kv_max = run->kv_max,
                                .kv_reused = reused_tokens(run->context) - run->kv_reused };
    if (seconds > 0) {
        out->output_rate = (double)run->n_tokens / seconds;
        out->request_rate = (double)w->n / seconds;
    }
    out->n_ahead = run->n_ahead;
    if (run->n_steps) {
        out->kv_mean = run->kv_sum / (double)run->n_steps;
        out->hidden_us = run->hidden_us / (double)run->n_steps;
    }
    if (run->all_started_ns) {
        double prefill = (double)(run->all_started_ns - run->start_ns) * 1e-9;
        double decode = (double)(run->last_ns - run->all_started_ns) * 1e-9;
        int64_t isl_sum = 0;
        for (int64_t i = 0; i < w->n; i++)
            isl_sum += w->items[i].isl;
        if (prefill > 0) out->prefill_rate = (double)isl_sum / prefill;
        if (decode > 0) out->decode_rate = (double)(run->n_late_tokens - 1) / decode;
    }
}

enum { STEP_SAMPLES_MAX = 1 << 20 };

static spey_status prepare(bench_run *run)
{
    const spey_bench_workload *w = run->workload;
    run->requests = spey_new_array(SPEY_PURPOSE_GENERAL, bench_request, w->n);
    run->prompt = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, w->isl_max);
    if (!run->requests || !run->prompt) return SPEY_NOMEM;
    SPEY_TRY(samples_init(&run->first_ms, w->n));
    SPEY_TRY(samples_init(&run->gaps_ms, w->osl_sum));
    return samples_init(&run->host_us, STEP_SAMPLES_MAX);
}

spey_status spey_bench_run(spey_context *context, const spey_bench_workload *workload,
                           int64_t vocab_size, const char *title, spey_bench_result *out)
{
    bench_run run = { .workload = workload, .context = context, .vocab_size = vocab_size };
    spey_status status = prepare(&run);
    if (!status) {
        spey_progress_begin(&run.progress, title, (uint64_t)workload->osl_sum);
        run.kv_reused = reused_tokens(context);
        run.start_ns = run.last_ns = spey_clock_ns();
        status = loop(&run);
        spey_progress_end(&run.progress);
    }
    if (!status) summarize(&run, out);
    spey_free(run.requests);
    spey_free(run.prompt);
    spey_free(run.first_ms.values);
    spey_free(run.gaps_ms.values);
    spey_free(run.host_us.values);
    return status;
}
