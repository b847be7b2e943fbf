#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/rng.h"
#include "build/build.h"
#include "cli/command.h"
#include "device/ceiling.h"
#include "device/cpu.h"
#include "runtime/context.h"

typedef struct bench_options {
    spey_runtime_flags runtime;
    const char *mode, *model, *shape;
    int64_t isl, osl, batch, requests, iterations, warmup;
    bool json;
} bench_options;

/* Times of one run of the workload. */
typedef struct bench_run {
    uint64_t start_ns, last_ns;
    uint64_t all_started_ns; /* every request of the first batch has its first token */
    int64_t n_tokens, n_started, n_requests, batch;
    double *first_ms; /* [n_requests] */
    double *gaps_ms;  /* [n_requests * (osl - 1)] between tokens of one request */
    int64_t n_gaps;
    uint64_t *request_last_ns; /* [n_requests] */
    spey_progress progress;
} bench_run;

typedef struct bench_request {
    bench_run *run;
    int64_t index;
} bench_request;

static int on_output(void *user, const spey_output *event)
{
    const bench_request *request = user;
    bench_run *run = request->run;
    if (event->token < 0) return 0;
    uint64_t now = spey_clock_ns(), *last = &run->request_last_ns[request->index];
    if (*last == 0) {
        run->first_ms[request->index] = (double)(now - run->start_ns) * 1e-6;
        if (++run->n_started == run->batch) run->all_started_ns = now;
    } else {
        run->gaps_ms[run->n_gaps++] = (double)(now - *last) * 1e-6;
    }
    *last = run->last_ns = now;
    spey_progress_update(&run->progress, (uint64_t)++run->n_tokens);
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The q-quantile; sorts. */
static double quantile(double *values, int64_t n, double q)
{
    if (n == 0) return 0;
    qsort(values, (size_t)n, sizeof *values, by_value);
    int64_t i = (int64_t)(q * (double)(n - 1) + 0.5);
    return values[i];
}

typedef struct bench_result {
    double seconds, output_rate, request_rate; /* over the whole time */
    double first_p50_ms, first_p99_ms, gap_mean_ms, gap_p50_ms, gap_p99_ms;
    double prefill_rate; /* prompt tokens per second until the first batch has its first tokens */
    double decode_rate;  /* output tokens per second after that */
} bench_result;

static void summarize(const bench_options *o, bench_run *run, bench_result *out)
{
    double seconds = (double)(run->last_ns - run->start_ns) * 1e-9;
    double prefill = (double)(run->all_started_ns - run->start_ns) * 1e-9;
    double decode = (double)(run->last_ns - run->all_started_ns) * 1e-9, gaps = 0;
    for (int64_t i = 0; i < run->n_gaps; i++)
        gaps += run->gaps_ms[i];
    *out = (bench_result){ .seconds = seconds,
                           .output_rate = (double)run->n_tokens / seconds,
                           .request_rate = (double)run->n_requests / seconds,
                           .first_p50_ms = quantile(run->first_ms, run->n_requests, 0.5),
                           .first_p99_ms = quantile(run->first_ms, run->n_requests, 0.99),
                           .gap_mean_ms = run->n_gaps ? gaps / (double)run->n_gaps : 0,
                           .gap_p50_ms = quantile(run->gaps_ms, run->n_gaps, 0.5),
                           .gap_p99_ms = quantile(run->gaps_ms, run->n_gaps, 0.99) };
    if (run->n_requests == run->batch && prefill > 0)
        out->prefill_rate = (double)(o->isl * run->batch) / prefill;
    if (run->n_requests == run->batch && decode > 0)
        out->decode_rate = (double)(run->n_tokens - run->batch) / decode;
}

static spey_status submit_all(const bench_options *o, spey_context *context, int64_t vocab_size,
                              bench_request *requests, bench_run *run)
{
    spey_sampling sampling;
    spey_sampling_init(&sampling);
    sampling.max_tokens = (int32_t)o->osl;
    sampling.ignore_eos = true;
    int32_t *prompt = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, o->isl);
    if (!prompt) return SPEY_NOMEM;
    spey_rng rng = { .seed = 1 };
    spey_status status = SPEY_OK;
    for (int64_t i = 0; !status && i < run->n_requests; i++) {
        for (int64_t t = 0; t < o->isl; t++)
            prompt[t] = (int32_t)spey_rng_below(&rng, (uint64_t)vocab_size);
        requests[i] = (bench_request){ run, i };
        status = spey_context_submit(context, prompt, (size_t)o->isl, &sampling, on_output,
                                     &requests[i], NULL);
    }
    spey_free(prompt);
    return status;
}

/* Run n_requests to their ends, `batch` at once. */
static spey_status run_workload(const bench_options *o, spey_context *context, int64_t vocab_size,
                                int64_t n_requests, const char *title, bench_result *out)
{
    bench_run run = { .n_requests = n_requests,
                      .batch = o->batch < n_requests ? o->batch : n_requests };
    bench_request *requests = spey_new_array(SPEY_PURPOSE_GENERAL, bench_request, n_requests);
    run.first_ms = spey_new_array(SPEY_PURPOSE_GENERAL, double, n_requests);
    run.request_last_ns = spey_new_array(SPEY_PURPOSE_GENERAL, uint64_t, n_requests);
    run.gaps_ms = spey_new_array(SPEY_PURPOSE_GENERAL, double, n_requests * o->osl);
    spey_status status =
        requests && run.first_ms && run.request_last_ns && run.gaps_ms ? SPEY_OK : SPEY_NOMEM;
    if (!status) {
        run.start_ns = spey_clock_ns();
        spey_progress_begin(&run.progress, title, (uint64_t)(n_requests * o->osl));
        status = submit_all(o, context, vocab_size, requests, &run);
        if (!status) status = spey_context_run(context);
        spey_progress_end(&run.progress);
    }
    if (!status) summarize(o, &run, out);
    spey_free(requests);
    spey_free(run.first_ms);
    spey_free(run.request_last_ns);
    spey_free(run.gaps_ms);
    return status;
}

static int by_output_rate(const void *a, const void *b)
{
    return by_value(&((const bench_result *)a)->output_rate,
                    &((const bench_result *)b)->output_rate);
}

typedef struct bench_machine {
    char cpu[256];
    double read_bytes; /* per second; 0 on devices */
    uint64_t weight_bytes;
} bench_machine;

/* The read bandwidth of this moment; 0 on devices. */
static spey_status measure_reads(const bench_options *o, double *out)
{
    *out = 0;
    if (o->runtime.device && strcmp(o->runtime.device, "cpu")) return SPEY_OK;
    spey_pool *pool;
    SPEY_TRY(spey_pool_new((int)o->runtime.threads, &pool));
    spey_status status = spey_ceiling_read(pool, out);
    spey_pool_free(pool);
    return status;
}

static void print_json(const bench_options *o, const bench_machine *m, const bench_result *r,
                       const char *rows)
{
    double read = r->gap_p50_ms > 0 ? (double)m->weight_bytes / (r->gap_p50_ms * 1e-3) : 0;
    printf(
        "{\"mode\": \"%s\", \"model\": \"%s\", \"isl\": %lld, \"osl\": %lld, \"batch\": %lld, \"requests\": %lld, "
        "\"machine\": \"%s\", \"output_tokens_per_second\": %.3f, \"requests_per_second\": %.4f, "
        "\"prefill_tokens_per_second\": %.3f, \"decode_tokens_per_second\": %.3f, \"first_token_ms_p50\": %.3f, "
        "\"first_token_ms_p99\": %.3f, \"inter_token_ms_mean\": %.4f, \"inter_token_ms_p50\": %.4f, "
        "\"inter_token_ms_p99\": %.4f, \"weight_bytes_per_step\": %llu, \"weight_bytes_per_second\": %.0f, "
        "\"read_bandwidth_bytes_per_second\": %.0f, \"seconds\": %.3f, \"kernels\": \"%s\"}\n",
        o->mode, o->shape ? o->shape : o->model, (long long)o->isl, (long long)o->osl,
        (long long)o->batch, (long long)o->requests, m->cpu, r->output_rate, r->request_rate,
        r->prefill_rate, r->decode_rate, r->first_p50_ms, r->first_p99_ms, r->gap_mean_ms,
        r->gap_p50_ms, r->gap_p99_ms, (unsigned long long)m->weight_bytes, read, m->read_bytes,
        r->seconds, rows);
}

static void print_table(const bench_options *o, const bench_machine *m, const bench_result *r,
                        const char *rows)
{
    printf("machine            %s\n", m->cpu);
    printf("workload           %lld requests, %lld at once, %lld tokens in, %lld out\n",
           (long long)o->requests, (long long)o->batch, (long long)o->isl, (long long)o->osl);
    printf("kernels            %s\n", rows);
    printf("output             %10.2f tokens/s   %.3f requests/s over %.2f s\n", r->output_rate,
           r->request_rate, r->seconds);
    if (r->prefill_rate > 0) printf("prefill            %10.2f tokens/s\n", r->prefill_rate);
    if (r->decode_rate > 0) printf("decode             %10.2f tokens/s\n", r->decode_rate);
    printf("first token        %10.2f ms p50   %.2f ms p99\n", r->first_p50_ms, r->first_p99_ms);
    printf("between tokens     %10.3f ms mean  %.3f p50  %.3f p99\n", r->gap_mean_ms, r->gap_p50_ms,
           r->gap_p99_ms);
    if (r->gap_p50_ms > 0 && m->read_bytes > 0) {
        double read = (double)m->weight_bytes / (r->gap_p50_ms * 1e-3);
        printf(
            "weights read       %10.2f GB/s in a decode step: %.1f %% of the %.1f GB/s that this machine reads\n",
            read * 1e-9, 100 * read / m->read_bytes, m->read_bytes * 1e-9);
    }
}

static spey_status bench_context(bench_options *o, const spey_engine *engine, spey_context *context)
{
    int64_t vocab_size = spey_engine_vocab_size(engine);
    bench_machine machine = { .weight_bytes =
                                  spey_runner_weight_bytes(spey_context_runner(context)) };
    spey_cpu_describe(machine.cpu, sizeof machine.cpu);
    /* Before and after: on a shared machine it moves by a third within minutes. */
    double reads_before, reads_after = 0;
    SPEY_TRY(measure_reads(o, &reads_before));
    bool latency = !strcmp(o->mode, "latency");
    int64_t runs = latency ? o->iterations : 1;
    bench_result *results = spey_new_array(SPEY_PURPOSE_GENERAL, bench_result, runs + 1);
    if (!results) return SPEY_NOMEM;
    spey_status status = SPEY_OK;
    for (int64_t i = 0; !status && i < o->warmup; i++)
        status = run_workload(o, context, vocab_size, o->batch, "warm-up", results);
    for (int64_t i = 0; !status && i < runs; i++)
        status = run_workload(o, context, vocab_size, o->requests, "measuring", &results[i]);
    if (!status) status = measure_reads(o, &reads_after);
    machine.read_bytes = (reads_before + reads_after) / 2;
    spey_strbuf rows = { 0 };
    if (!status) {
        qsort(results, (size_t)runs, sizeof *results, by_output_rate);
        spey_runner_describe(spey_context_runner(context), &rows);
        (o->json ? print_json : print_table)(o, &machine, &results[runs / 2],
                                             rows.data ? rows.data : "");
    }
    spey_strbuf_deinit(&rows);
    spey_free(results);
    return status;
}

static spey_status run_bench(bench_options *o)
{
    spey_engine *engine;
    SPEY_TRY(o->shape ? spey_open_shape(o->shape, o->runtime.dtype, &engine)
                      : spey_open_model(o->model, o->runtime.dtype, &engine));
    spey_context_options options;
    o->runtime.sequences = o->batch;
    if (o->runtime.context == 0) o->runtime.context = o->isl + o->osl;
    spey_context_options_from(&o->runtime, &options);
    spey_context *context;
    spey_status status = spey_context_new(engine, &options, &context);
    if (!status) status = bench_context(o, engine, context);
    spey_context_free(context);
    spey_engine_close(engine);
    return status;
}

static spey_status check_options(bench_options *o, const spey_args *args)
{
    o->mode = args->positional[0];
    o->model = args->n_positional > 1 ? args->positional[1] : NULL;
    if (strcmp(o->mode, "latency") && strcmp(o->mode, "throughput"))
        return SPEY_FAIL(SPEY_INVALID, "\"%s\" is no benchmark, expected latency or throughput",
                         o->mode);
    if (!o->model == !o->shape) return SPEY_FAIL(SPEY_INVALID, "give either MODEL or --shape NAME");
    if (o->requests == 0) o->requests = strcmp(o->mode, "throughput") ? o->batch : 3 * o->batch;
    if (!strcmp(o->mode, "latency")) o->requests = o->batch;
    return SPEY_OK;
}

int spey_cmd_bench(int argc, char **argv)
{
    bench_options o = { .isl = 128, .osl = 128, .batch = 1, .iterations = 3, .warmup = 1 };
    char shapes[1024] = "published configuration with random weights:\n";
    for (const char *const *name = spey_build_shape_names(); *name; name++) {
        strncat(shapes, *name, sizeof shapes - strlen(shapes) - 3);
        if (name[1]) strncat(shapes, (name - spey_build_shape_names()) % 4 == 3 ? ",\n" : ", ", 3);
    }
    const spey_option table[] = {
        { "shape", SPEY_OPTION_TEXT, &o.shape, "NAME", shapes, 0, 0 },
        { "isl", SPEY_OPTION_INT, &o.isl, "N", "tokens in (default: 128)", 1, 1 << 27 },
        { "osl", SPEY_OPTION_INT, &o.osl, "N", "tokens out (default: 128)", 1, 1 << 27 },
        { "batch", SPEY_OPTION_INT, &o.batch, "N", "requests at once (default: 1)", 1, 65536 },
        { "requests", SPEY_OPTION_INT, &o.requests, "N",
          "throughput: requests in all (default: 3 × batch)", 1, 1 << 20 },
        { "iterations", SPEY_OPTION_INT, &o.iterations, "N",
          "latency: runs, the median counts (default: 3)", 1, 1000 },
        { "warmup", SPEY_OPTION_INT, &o.warmup, "N", "runs that do not count (default: 1)", 0,
          1000 },
        { "json", SPEY_OPTION_FLAG, &o.json, NULL, "print one JSON object", 0, 0 },
        SPEY_RUNTIME_OPTIONS(&o.runtime),
    };
    const spey_command command = {
        .name = "bench",
        .summary = "measure latency and throughput",
        .usage = "latency|throughput MODEL|--shape NAME [options]",
        .details =
            "latency: one batch from prompt to last token. throughput: more requests than run at once; all tokens\n"
            "count over the whole time, ramp-up and tail included. Prompts are random ids, sampling is greedy.",
        .examples =
            "  spey bench latency models/demo --isl 128 --osl 64\n"
            "  spey bench latency --shape llama-3.2-1b --dtype bf16 --isl 512 --osl 32\n"
            "  spey bench throughput --shape tinyllama-1.1b --batch 16 --isl 128 --osl 128 --json",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .positional_min = 1,
        .positional_max = 2,
    };
    spey_args args;
    int exit_code;
    if (!spey_command_begin(&command, argc, argv, &args, &exit_code)) return exit_code;
    if (check_options(&o, &args)) return spey_report_usage();
    return spey_report(run_bench(&o));
}
