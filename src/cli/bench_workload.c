#include "cli/bench_workload.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

/* Streams of the one seed: what is drawn for one purpose never moves what is drawn for another. */
enum { STREAM_LENGTHS = 1, STREAM_ARRIVALS = 2, STREAM_PREFIX = 3, STREAM_PROMPTS = 4 };

static spey_rng stream(uint64_t seed, uint64_t which)
{
    return (spey_rng){ .seed = seed, .counter = which << 56 };
}

/* ---- options ---- */

/* "128" or the "A:B" behind a name; false: not numbers. */
static bool parse_numbers(const char *text, double *numbers, int n)
{
    for (int i = 0; i < n; i++) {
        char *end;
        errno = 0;
        numbers[i] = strtod(text, &end);
        if (end == text || errno || !isfinite(numbers[i]) || *end != (i + 1 < n ? ':' : '\0'))
            return false;
        text = end + 1;
    }
    return true;
}

static bool starts_with(const char *text, const char *name, const char **rest)
{
    size_t n = strlen(name);
    *rest = text + n;
    return !strncmp(text, name, n);
}

spey_status spey_bench_lengths_parse(const char *what, const char *text, spey_bench_lengths *out)
{
    double numbers[2] = { 0 };
    const char *rest;
    bool ok;
    if (starts_with(text, "normal:", &rest)) {
        ok = parse_numbers(rest, numbers, 2) && numbers[1] >= 0;
        out->kind = SPEY_LENGTHS_NORMAL;
    } else if (starts_with(text, "lognormal:", &rest)) {
        ok = parse_numbers(rest, numbers, 2) && numbers[1] >= 1;
        out->kind = SPEY_LENGTHS_LOGNORMAL;
    } else {
        ok = parse_numbers(text, numbers, 1) && numbers[0] == floor(numbers[0]);
        out->kind = SPEY_LENGTHS_FIXED;
    }
    if (!ok || numbers[0] < 1 || numbers[0] > SPEY_BENCH_LENGTH_MAX)
        return SPEY_FAIL(SPEY_INVALID,
                         "--%s is \"%s\", expected tokens (128), normal:MEAN:DEVIATION or "
                         "lognormal:MEDIAN:RATIO (90th over 10th percentile, at least 1)",
                         what, text);
    out->center = numbers[0];
    out->spread = numbers[1];
    return SPEY_OK;
}

int64_t spey_bench_lengths_draw(const spey_bench_lengths *lengths, spey_rng *rng)
{
    /* The 10th and 90th percentile of a normal lie 1.2816 deviations from the middle. */
    const double percentile_90 = 1.2815515655446004;
    double x = lengths->center;
    if (lengths->kind == SPEY_LENGTHS_NORMAL) x += lengths->spread * spey_rng_normal(rng);
    if (lengths->kind == SPEY_LENGTHS_LOGNORMAL)
        x *= exp(log(lengths->spread) / (2 * percentile_90) * spey_rng_normal(rng));
    x = floor(x + 0.5);
    if (x < 1) return 1;
    return x < SPEY_BENCH_LENGTH_MAX ? (int64_t)x : SPEY_BENCH_LENGTH_MAX;
}

spey_status spey_bench_arrival_parse(const char *text, spey_bench_arrival *out)
{
    *out = (spey_bench_arrival){ .kind = SPEY_ARRIVAL_ALL };
    double x;
    const char *rest;
    if (!strcmp(text, "all")) return SPEY_OK;
    if (starts_with(text, "poisson:", &rest) && parse_numbers(rest, &x, 1) && x > 0) {
        *out = (spey_bench_arrival){ .kind = SPEY_ARRIVAL_POISSON, .rate = x };
        return SPEY_OK;
    }
    if (starts_with(text, "closed:", &rest) && parse_numbers(rest, &x, 1) && x == floor(x) &&
        x >= 1 && x <= 1 << 20) {
        *out = (spey_bench_arrival){ .kind = SPEY_ARRIVAL_CLOSED, .clients = (int64_t)x };
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_INVALID,
                     "--arrival is \"%s\", expected all, poisson:RATE (requests a second) or "
                     "closed:CLIENTS",
                     text);
}

/* ---- workloads ---- */

static int by_arrival(const void *a, const void *b)
{
    uint64_t x = ((const spey_bench_item *)a)->arrival_ns;
    uint64_t y = ((const spey_bench_item *)b)->arrival_ns;
    return (x > y) - (x < y);
}

static void draw_arrivals(spey_bench_workload *w, const spey_bench_workload_options *o)
{
    spey_rng rng = stream(o->seed, STREAM_ARRIVALS);
    double seconds = 0;
    for (int64_t i = 0; o->arrival.kind == SPEY_ARRIVAL_POISSON && i < w->n; i++) {
        seconds -= log(1 - spey_rng_range(&rng, 0, 1)) / o->arrival.rate;
        w->items[i].arrival_ns = (uint64_t)(seconds * 1e9);
    }
    w->clients = o->arrival.clients;
}

static void finish(spey_bench_workload *w, const spey_bench_workload_options *o)
{
    w->seed = o->seed;
    w->shared_prefix = o->shared_prefix;
    for (int64_t i = 0; i < w->n; i++) {
        const spey_bench_item *item = &w->items[i];
        if (item->isl > w->isl_max) w->isl_max = item->isl;
        if (item->isl + item->osl > w->total_max) w->total_max = item->isl + item->osl;
        w->osl_sum += item->osl;
    }
}

spey_status spey_bench_workload_draw(const spey_bench_workload_options *options,
                                     spey_bench_workload *out)
{
    *out = (spey_bench_workload){ .n = options->n };
    out->items = spey_new_array(SPEY_PURPOSE_GENERAL, spey_bench_item, options->n);
    if (!out->items) return SPEY_NOMEM;
    spey_rng rng = stream(options->seed, STREAM_LENGTHS);
    for (int64_t i = 0; i < out->n; i++) {
        out->items[i].isl = spey_bench_lengths_draw(&options->isl, &rng);
        out->items[i].osl = spey_bench_lengths_draw(&options->osl, &rng);
    }
    draw_arrivals(out, options);
    finish(out, options);
    return SPEY_OK;
}

typedef struct trace_reader {
    spey_bench_workload *workload;
    int64_t n_max, room;
    bool has_arrival;
} trace_reader;

static spey_status make_room(trace_reader *reader)
{
    spey_bench_workload *w = reader->workload;
    if (w->n < reader->room) return SPEY_OK;
    int64_t room = reader->room ? 2 * reader->room : 1024;
    spey_bench_item *items =
        spey_realloc(SPEY_PURPOSE_GENERAL, w->items, (size_t)room * sizeof *items);
    if (!items) return SPEY_NOMEM;
    w->items = items;
    reader->room = room;
    return SPEY_OK;
}

static spey_status take_line(void *user, const char *at, const json_t *value)
{
    trace_reader *reader = user;
    spey_bench_workload *w = reader->workload;
    if (w->n == reader->n_max) return SPEY_OK;
    SPEY_TRY(make_room(reader));
    spey_bench_item item = { 0 };
    double ms;
    SPEY_TRY(spey_json_int(value, at, "isl", 1, SPEY_BENCH_LENGTH_MAX, 0, &item.isl));
    SPEY_TRY(spey_json_int(value, at, "osl", 1, SPEY_BENCH_LENGTH_MAX, 0, &item.osl));
    SPEY_TRY(spey_json_number(value, at, "arrival_ms", 0, 1e12, 0, &ms));
    reader->has_arrival |= json_object_get(value, "arrival_ms") != NULL;
    item.arrival_ns = (uint64_t)(ms * 1e6);
    w->items[w->n++] = item;
    return SPEY_OK;
}

enum { TRACE_BYTES_MAX = 1 << 28, TRACE_LINES_MAX = 1 << 20 };

static spey_status read_items(const char *path, trace_reader *reader)
{
    spey_strbuf text = { 0 };
    spey_status status = spey_file_read(path, TRACE_BYTES_MAX, &text);
    if (!status && text.len) status = spey_jsonl_each(path, text.data, text.len, take_line, reader);
    spey_strbuf_deinit(&text);
    SPEY_TRY(status);
    if (reader->workload->n > 0) return SPEY_OK;
    return SPEY_FAIL(SPEY_FORMAT,
                     "%s: no requests, expected one JSON object per line with isl and osl", path);
}

spey_status spey_bench_workload_read(const char *path, const spey_bench_workload_options *options,
                                     spey_bench_workload *out)
{
    *out = (spey_bench_workload){ 0 };
    trace_reader reader = { .workload = out, .n_max = options->n ? options->n : TRACE_LINES_MAX };
    spey_status status = read_items(path, &reader);
    if (status) {
        spey_bench_workload_deinit(out);
        return status;
    }
    if (reader.has_arrival)
        qsort(out->items, (size_t)out->n, sizeof *out->items, by_arrival);
    else
        draw_arrivals(out, options);
    finish(out, options);
    return SPEY_OK;
}

void spey_bench_workload_deinit(spey_bench_workload *workload)
{
    spey_free(workload->items);
    *workload = (spey_bench_workload){ 0 };
}

void spey_bench_prompt(const spey_bench_workload *workload, int64_t i, int64_t vocab_size,
                       int32_t *ids)
{
    spey_rng prefix = stream(workload->seed, STREAM_PREFIX);
    spey_rng own = stream(workload->seed, STREAM_PROMPTS);
    own.counter += (uint64_t)i << 28;
    for (int64_t t = 0; t < workload->items[i].isl; t++)
        ids[t] = (int32_t)spey_rng_below(t < workload->shared_prefix ? &prefix : &own,
                                         (uint64_t)vocab_size);
}
