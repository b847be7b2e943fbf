#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "build/build.h"
#include "cli/bench_loop.h"
#include "cli/bench_workload.h"
#include "cli/command.h"
#include "device/ceiling.h"
#include "device/cpu.h"
#include "runtime/context.h"

typedef struct bench_options {
    spey_runtime_flags runtime;
    const char *mode, *model, *shape;
    const char *isl, *osl, *arrival, *trace, *policy_name;
    spey_policy policy;
    int64_t batch, requests, iterations, warmup, shared_prefix, seed, top_k;
    double temperature, top_p, repetition_penalty;
    spey_bench_workload_options workload;
    bool json, profile;
} bench_options;

static int by_output_rate(const void *a, const void *b)
{
    double x = ((const spey_bench_result *)a)->output_rate;
    double y = ((const spey_bench_result *)b)->output_rate;
    return (x > y) - (x < y);
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

/* What the weights are read with in a step that decodes, bytes per second; 0: unknown. */
static double weight_rate(const bench_machine *m, const spey_bench_result *r)
{
    return r->gap_ms.p50 > 0 ? (double)m->weight_bytes / (r->gap_ms.p50 * 1e-3) : 0;
}

static void json_spread(const char *name, const char *unit, const spey_bench_spread *s)
{
    printf(", \"%s_%s_mean\": %.4f, \"%s_%s_p50\": %.4f, \"%s_%s_p90\": %.4f, \"%s_%s_p99\": %.4f",
           name, unit, s->mean, name, unit, s->p50, name, unit, s->p90, name, unit, s->p99);
}

static void print_json(const bench_options *o, const bench_machine *m, const spey_bench_result *r,
                       const char *rows)
{
    printf(
        "{\"mode\": \"%s\", \"model\": \"%s\", \"isl\": \"%s\", \"osl\": \"%s\", \"arrival\": \"%s\", "
        "\"batch\": %lld, \"requests\": %lld, \"failed\": %lld, \"machine\": \"%s\"",
        o->mode, o->shape ? o->shape : o->model, o->trace ? o->trace : o->isl,
        o->trace ? o->trace : o->osl, o->arrival, (long long)o->batch, (long long)r->n_requests,
        (long long)r->n_failed, m->cpu);
    printf(
        ", \"output_tokens\": %lld, \"steps\": %lld, \"seconds\": %.3f, \"output_tokens_per_second\": "
        "%.3f, \"requests_per_second\": %.4f, \"prefill_tokens_per_second\": %.3f, "
        "\"decode_tokens_per_second\": %.3f",
        (long long)r->n_tokens, (long long)r->n_steps, r->seconds, r->output_rate, r->request_rate,
        r->prefill_rate, r->decode_rate);
    json_spread("first_token", "ms", &r->first_ms);
    json_spread("inter_token", "ms", &r->gap_ms);
    json_spread("host_per_step", "us", &r->host_us);
    printf(
        ", \"host_hidden_per_step_us_mean\": %.4f, \"steps_ahead\": %lld, \"kv_reused_tokens\": %lld, \"kv_occupancy_mean\": %.4f, \"kv_occupancy_max\": %.4f, \"weight_bytes_per_step\": %llu, "
        "\"weight_bytes_per_second\": %.0f, \"read_bandwidth_bytes_per_second\": %.0f, \"kernels\": "
        "\"%s\"",
        r->hidden_us, (long long)r->n_ahead, (long long)r->kv_reused, r->kv_mean, r->kv_max,
        (unsigned long long)m->weight_bytes, weight_rate(m, r), m->read_bytes, rows);
}

static void json_profile(const spey_profile_line *lines, int n)
{
    printf(", \"profile\": [");
    for (int i = 0; i < n; i++)
        printf(
            "%s{\"kernel\": \"%s\", \"runs\": %llu, \"ms\": %.3f, \"operations\": %.0f, \"weight_bytes\": %.0f}",
            i ? ", " : "", lines[i].name, (unsigned long long)lines[i].n_runs,
            (double)lines[i].ns * 1e-6, lines[i].operations, lines[i].weight_bytes);
    printf("]");
}

static void table_profile(const spey_profile_line *lines, int n)
{
    double total = 0;
    for (int i = 0; i < n; i++)
        total += (double)lines[i].ns;
    printf("%-40s %8s %12s %7s %12s %10s %14s\n", "kernel", "runs", "ms", "%", "us each", "TFLOP/s",
           "weights, GB/s");
    for (int i = 0; i < n; i++) {
        const spey_profile_line *line = &lines[i];
        printf("%-40s %8llu %12.3f %7.2f %12.3f", line->name, (unsigned long long)line->n_runs,
               (double)line->ns * 1e-6, 100 * (double)line->ns / total,
               (double)line->ns * 1e-3 / (double)line->n_runs);
        if (line->operations > 0)
            printf(" %10.2f %14.1f", line->operations / (double)line->ns * 1e-3,
                   line->weight_bytes / (double)line->ns);
        printf("\n");
    }
}

static spey_status print_profile(const bench_options *o, spey_context *context)
{
    spey_profile_line *lines;
    int n;
    SPEY_TRY(spey_runner_read_profile(spey_context_runner(context), &lines, &n));
    (o->json ? json_profile : table_profile)(lines, n);
    spey_free(lines);
    return SPEY_OK;
}

static void table_spread(const char *what, const char *unit, const spey_bench_spread *s)
{
    printf("%-18s %10.3f %s mean  %.3f p50  %.3f p90  %.3f p99\n", what, s->mean, unit, s->p50,
           s->p90, s->p99);
}

static void print_table(const bench_options *o, const bench_machine *m, const spey_bench_result *r,
                        const char *rows)
{
    printf("machine            %s\n", m->cpu);
    if (o->trace)
        printf("workload           %s\n", o->trace);
    else
        printf("workload           %s tokens in, %s out, arrival %s\n", o->isl, o->osl, o->arrival);
    printf("requests           %10lld, %lld at once, %lld failed\n", (long long)r->n_requests,
           (long long)o->batch, (long long)r->n_failed);
    printf("kernels            %s\n", rows);
    printf("output             %10.2f tokens/s   %.3f requests/s over %.2f s\n", r->output_rate,
           r->request_rate, r->seconds);
    if (r->prefill_rate > 0) printf("prefill            %10.2f tokens/s\n", r->prefill_rate);
    if (r->decode_rate > 0) printf("decode             %10.2f tokens/s\n", r->decode_rate);
    table_spread("first token", "ms", &r->first_ms);
    table_spread("between tokens", "ms", &r->gap_ms);
    table_spread("host, per step", "us", &r->host_us);
    if (r->n_ahead)
        printf("ahead              %10lld steps   %.3f us of the host's hidden in each, mean\n",
               (long long)r->n_ahead, r->hidden_us);
    printf(
        "steps              %10lld   KV blocks in use %.1f %% mean, %.1f %% most; %lld tokens reused\n",
        (long long)r->n_steps, 100 * r->kv_mean, 100 * r->kv_max, (long long)r->kv_reused);
    if (m->read_bytes > 0 && r->gap_ms.p50 > 0)
        printf(
            "weights read       %10.2f GB/s in a decode step: %.1f %% of the %.1f GB/s that this machine reads\n",
            weight_rate(m, r) * 1e-9, 100 * weight_rate(m, r) / m->read_bytes,
            m->read_bytes * 1e-9);
}

/* Warm up, then run `runs` times; the results. */
static spey_status run_all(const bench_options *o, spey_context *context, int64_t vocab_size,
                           const spey_bench_workload *workload, spey_bench_result *results)
{
    spey_bench_workload run = *workload, first = *workload; /* one batch of it, at once */
    first.n = first.n < o->batch ? first.n : o->batch;
    first.clients = first.n;
    /* Each run has prompts of its own: what an earlier one left in the KV cache must not serve it. */
    for (int64_t i = 0; i < o->warmup; i++, first.seed++)
        SPEY_TRY(spey_bench_run(context, &first, vocab_size, "warm-up", results));
    run.seed = first.seed;
    if (o->profile) SPEY_TRY(spey_runner_profile(spey_context_runner(context)));
    for (int64_t i = 0; i < o->iterations; i++, run.seed++)
        SPEY_TRY(spey_bench_run(context, &run, vocab_size, "measuring", &results[i]));
    return SPEY_OK;
}

static spey_status bench_context(const bench_options *o, const spey_engine *engine,
                                 spey_context *context, const spey_bench_workload *workload)
{
    bench_machine machine = { .weight_bytes =
                                  spey_runner_weight_bytes(spey_context_runner(context)) };
    spey_cpu_describe(machine.cpu, sizeof machine.cpu);
    /* Before and after: on a shared machine it moves by a third within minutes. */
    double reads_before, reads_after = 0;
    SPEY_TRY(measure_reads(o, &reads_before));
    spey_bench_result *results =
        spey_new_array(SPEY_PURPOSE_GENERAL, spey_bench_result, o->iterations);
    if (!results) return SPEY_NOMEM;
    spey_status status = run_all(o, context, spey_engine_vocab_size(engine), workload, results);
    if (!status) status = measure_reads(o, &reads_after);
    machine.read_bytes = (reads_before + reads_after) / 2;
    spey_strbuf rows = { 0 };
    if (!status) {
        qsort(results, (size_t)o->iterations, sizeof *results, by_output_rate);
        spey_runner_describe(spey_context_runner(context), &rows);
        (o->json ? print_json : print_table)(o, &machine, &results[o->iterations / 2],
                                             rows.data ? rows.data : "");
        if (o->profile) status = print_profile(o, context);
        if (o->json) printf("}\n");
    }
    spey_strbuf_deinit(&rows);
    spey_free(results);
    return status;
}

enum { QUEUE_MAX = 1 << 20 };

static spey_status bench_engine(bench_options *o, const spey_engine *engine)
{
    spey_bench_workload workload;
    SPEY_TRY(o->trace ? spey_bench_workload_read(o->trace, &o->workload, &workload)
                      : spey_bench_workload_draw(&o->workload, &workload));
    workload.temperature = o->temperature;
    workload.top_k = o->top_k;
    workload.top_p = o->top_p;
    workload.repetition_penalty = o->repetition_penalty;
    spey_context_options options;
    o->runtime.sequences = o->batch;
    if (o->runtime.context == 0) o->runtime.context = workload.total_max;
    spey_context_options_from(&o->runtime, &options);
    options.policy = o->policy;
    options.queue_max = workload.n < QUEUE_MAX ? (int32_t)workload.n : QUEUE_MAX;
    spey_context *context;
    spey_status status = spey_context_new(engine, &options, &context);
    if (!status) status = bench_context(o, engine, context, &workload);
    spey_context_free(context);
    spey_bench_workload_deinit(&workload);
    return status;
}

static spey_status run_bench(bench_options *o)
{
    spey_engine *engine;
    SPEY_TRY(o->shape ? spey_open_shape(o->shape, &o->runtime, &engine)
                      : spey_open_model(o->model, &o->runtime, &engine));
    spey_status status = bench_engine(o, engine);
    spey_engine_close(engine);
    return status;
}

static spey_status parse_policy(const char *name, spey_policy *out)
{
    static const char *const names[] = { [SPEY_GUARANTEED_NO_EVICT] = "no-evict",
                                         [SPEY_MAX_UTILIZATION] = "max-utilization",
                                         [SPEY_STATIC_BATCH] = "static" };
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i])) continue;
        *out = (spey_policy)i;
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_INVALID,
                     "--policy is \"%s\", expected no-evict, max-utilization or static", name);
}

static spey_status check_options(bench_options *o, const spey_args *args)
{
    o->mode = args->positional[0];
    o->model = args->n_positional > 1 ? args->positional[1] : NULL;
    bool latency = !strcmp(o->mode, "latency");
    if (!latency && strcmp(o->mode, "throughput"))
        return SPEY_FAIL(SPEY_INVALID, "\"%s\" is no benchmark, expected latency or throughput",
                         o->mode);
    if (!o->model == !o->shape) return SPEY_FAIL(SPEY_INVALID, "give either MODEL or --shape NAME");
    if (latency && (o->trace || o->requests || strcmp(o->arrival, "all")))
        return SPEY_FAIL(SPEY_INVALID,
                         "--trace, --requests and --arrival are for throughput: latency "
                         "is one batch at once");
    SPEY_TRY(spey_bench_lengths_parse("isl", o->isl, &o->workload.isl));
    SPEY_TRY(spey_bench_lengths_parse("osl", o->osl, &o->workload.osl));
    SPEY_TRY(parse_policy(o->policy_name, &o->policy));
    SPEY_TRY(spey_bench_arrival_parse(o->arrival, &o->workload.arrival));
    o->workload.n = o->requests;
    if (latency) o->workload.n = o->batch;
    if (!o->workload.n && !o->trace) o->workload.n = 3 * o->batch;
    if (!o->iterations) o->iterations = latency ? 3 : 1;
    o->workload.shared_prefix = o->shared_prefix;
    o->workload.seed = (uint64_t)o->seed;
    return SPEY_OK;
}

int spey_cmd_bench(int argc, char **argv)
{
    bench_options o = { .isl = "128",
                        .osl = "128",
                        .arrival = "all",
                        .policy_name = "no-evict",
                        .batch = 1,
                        .warmup = 1,
                        .top_p = 1,
                        .repetition_penalty = 1,
                        .seed = 1 };
    char shapes[1024] = "published configuration with random weights:\n";
    for (const char *const *name = spey_build_shape_names(); *name; name++) {
        strncat(shapes, *name, sizeof shapes - strlen(shapes) - 3);
        if (name[1]) strncat(shapes, (name - spey_build_shape_names()) % 4 == 3 ? ",\n" : ", ", 3);
    }
    const spey_option table[] = {
        { "shape", SPEY_OPTION_TEXT, &o.shape, "NAME", shapes, 0, 0 },
        { "isl", SPEY_OPTION_TEXT, &o.isl, "LENGTHS",
          "tokens in (default: 128): N, normal:MEAN:DEVIATION, or\n"
          "lognormal:MEDIAN:RATIO (90th over 10th percentile)",
          0, 0 },
        { "osl", SPEY_OPTION_TEXT, &o.osl, "LENGTHS", "tokens out (default: 128), as --isl", 0, 0 },
        { "batch", SPEY_OPTION_INT, &o.batch, "N", "requests at once (default: 1)", 1, 65536 },
        { "requests", SPEY_OPTION_INT, &o.requests, "N",
          "throughput: requests in all (default: 3 × batch, or the trace)", 1, 1 << 20 },
        { "arrival", SPEY_OPTION_TEXT, &o.arrival, "WHEN",
          "throughput: all (default), poisson:RATE (requests a second), or\n"
          "closed:CLIENTS (each sends its next when it has its answer)",
          0, 0 },
        { "policy", SPEY_OPTION_TEXT, &o.policy_name, "NAME",
          "no-evict (default), max-utilization or static:\ndocs/scheduling.md", 0, 0 },
        { "trace", SPEY_OPTION_TEXT, &o.trace, "FILE",
          "throughput: lengths and times from lines of\n{\"isl\": 128, \"osl\": 64, \"arrival_ms\": 12.5}",
          0, 0 },
        { "shared-prefix", SPEY_OPTION_INT, &o.shared_prefix, "N",
          "tokens with which all prompts begin (default: 0)", 0, 1 << 27 },
        { "temperature", SPEY_OPTION_NUMBER, &o.temperature, "T",
          "draw tokens; 0: always the likeliest (default: 0)", 0, 100 },
        { "top-k", SPEY_OPTION_INT, &o.top_k, "N", "as of spey run (default: 0)", 0, 1 << 30 },
        { "top-p", SPEY_OPTION_NUMBER, &o.top_p, "P", "as of spey run (default: 1)", 0, 1 },
        { "repetition-penalty", SPEY_OPTION_NUMBER, &o.repetition_penalty, "X",
          "as of spey run (default: 1)", 1e-6, 1e6 },
        { "seed", SPEY_OPTION_INT, &o.seed, "N",
          "of lengths, times, prompts and draws (default: 1)", 0, 9007199254740992.0 },
        { "iterations", SPEY_OPTION_INT, &o.iterations, "N",
          "runs, the median counts (default: 3 for latency, 1 for throughput)", 1, 1000 },
        { "warmup", SPEY_OPTION_INT, &o.warmup, "N", "runs that do not count (default: 1)", 0,
          1000 },
        { "quant-scales", SPEY_OPTION_TEXT, &o.runtime.quant_scales, "NAME",
          "of a shape in fp8: one for each channel and token (channel,\n"
          "default), or one for each matrix and all of its inputs (tensor)",
          0, 0 },
        { "profile", SPEY_OPTION_FLAG, &o.profile, NULL,
          "time every kernel of the counted runs, which are slower for it", 0, 0 },
        { "json", SPEY_OPTION_FLAG, &o.json, NULL, "print one JSON object", 0, 0 },
        SPEY_STEP_OPTIONS(&o.runtime),
        SPEY_RUNTIME_OPTIONS(&o.runtime),
    };
    const spey_command command = {
        .name = "bench",
        .summary = "measure latency and throughput",
        .usage = "latency|throughput MODEL|--shape NAME [options]",
        .details =
            "latency: one batch from prompt to last token. throughput: more requests than run at once; all tokens\n"
            "count over the whole time, ramp-up and tail included. Prompts are random ids, sampling is greedy\n"
            "unless a temperature is given, and the first token's time counts from the request's arrival.",
        .examples =
            "  spey bench latency models/demo --isl 128 --osl 64\n"
            "  spey bench latency --shape llama-3.2-1b --dtype bf16 --isl 512 --osl 32\n"
            "  spey bench throughput --shape tinyllama-1.1b --batch 16 --isl 128 --osl 128 --json\n"
            "  spey bench throughput --shape llama-2-70b --quant fp8 --device cuda --batch 512 --isl 128 --osl 128\n"
            "  spey bench latency models/demo --isl 512 --osl 32 --profile\n"
            "  spey bench throughput models/demo --batch 16 --requests 200 --osl lognormal:40:10\n"
            "  spey bench throughput models/demo --batch 32 --requests 100 --arrival poisson:20",
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
