/* One run of a workload over a context, measured. */
#ifndef SPEY_CLI_BENCH_LOOP_H
#define SPEY_CLI_BENCH_LOOP_H

#include "cli/bench_workload.h"
#include "spey/spey.h"

typedef struct spey_bench_spread {
    double mean, p50, p90, p99;
} spey_bench_spread;

typedef struct spey_bench_result {
    double seconds; /* from the start to the last token */
    int64_t n_requests, n_failed, n_tokens, n_steps;
    double output_rate,
        request_rate;           /* per second over the whole time, ramp-up and tail included */
    spey_bench_spread first_ms; /* from a request's arrival to its first token */
    spey_bench_spread gap_ms;   /* between tokens of one request */
    spey_bench_spread host_us;  /* of a step: what is not the model's */
    double hidden_us;           /* of that, beside the model: mean over steps */
    int64_t n_ahead;            /* steps that began before the results of the last were there */
    double kv_mean, kv_max;     /* share of the KV blocks in use, over steps */
    int64_t kv_reused;          /* tokens of prompts that were found in the cache */
    double prefill_rate; /* prompt tokens per second until each request has its first token; 0: some
                            had ended before */
    double decode_rate;  /* output tokens per second after that */
} spey_bench_result;

/* Run it to its end: greedy, without an end of text. `title` names the progress bar. */
spey_status spey_bench_run(spey_context *context, const spey_bench_workload *workload,
                           int64_t vocab_size, const char *title, spey_bench_result *out);

#endif
