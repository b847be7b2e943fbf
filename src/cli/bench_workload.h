/* The workload of a benchmark: how long requests are, when they come, and what their prompts say. Everything follows from
 * the seed. */
#ifndef SPEY_CLI_BENCH_WORKLOAD_H
#define SPEY_CLI_BENCH_WORKLOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/rng.h"
#include "base/status.h"

/* Lengths in tokens: "128", "normal:MEAN:DEVIATION", or "lognormal:MEDIAN:RATIO", where RATIO is the 90th percentile
 * over the 10th. */
typedef struct spey_bench_lengths {
    enum { SPEY_LENGTHS_FIXED, SPEY_LENGTHS_NORMAL, SPEY_LENGTHS_LOGNORMAL } kind;
    double center, spread;
} spey_bench_lengths;

enum { SPEY_BENCH_LENGTH_MAX = 1 << 27 };

/* `what` names the option in errors. */
spey_status spey_bench_lengths_parse(const char *what, const char *text, spey_bench_lengths *out);
/* At least 1, at most SPEY_BENCH_LENGTH_MAX. */
int64_t spey_bench_lengths_draw(const spey_bench_lengths *lengths, spey_rng *rng);

/* When requests come: "all" at once, "poisson:RATE" a second on average, or "closed:N" clients, each of which sends its
 * next request when it has the answer to its last. */
typedef struct spey_bench_arrival {
    enum { SPEY_ARRIVAL_ALL, SPEY_ARRIVAL_POISSON, SPEY_ARRIVAL_CLOSED } kind;
    double rate;     /* POISSON: requests a second */
    int64_t clients; /* CLOSED */
} spey_bench_arrival;

spey_status spey_bench_arrival_parse(const char *text, spey_bench_arrival *out);

typedef struct spey_bench_item {
    int64_t isl, osl;
    uint64_t arrival_ns; /* after the start; 0 with closed clients */
} spey_bench_item;

typedef struct spey_bench_workload {
    spey_bench_item *items; /* by arrival */
    int64_t n;
    int64_t clients; /* > 0: so many requests are open at once at most */
    int64_t isl_max, total_max, osl_sum;
    int64_t shared_prefix; /* tokens with which every prompt begins */
    uint64_t seed;
    double temperature, top_p, repetition_penalty; /* each request draws with a seed of its own */
    int64_t top_k;
} spey_bench_workload;

typedef struct spey_bench_workload_options {
    spey_bench_lengths isl, osl;
    spey_bench_arrival arrival;
    int64_t n;
    int64_t shared_prefix;
    uint64_t seed;
} spey_bench_workload_options;

spey_status spey_bench_workload_draw(const spey_bench_workload_options *options,
                                     spey_bench_workload *out);
/* Lengths, and times where given, from a trace: one {"isl": 128, "osl": 64, "arrival_ms": 12.5} per line. `options`
 * gives arrivals where the trace has none, and n as a limit (0: all lines). */
spey_status spey_bench_workload_read(const char *path, const spey_bench_workload_options *options,
                                     spey_bench_workload *out);
void spey_bench_workload_deinit(spey_bench_workload *workload);

/* The ids of prompt i, [items[i].isl]. */
void spey_bench_prompt(const spey_bench_workload *workload, int64_t i, int64_t vocab_size,
                       int32_t *ids);

#endif
