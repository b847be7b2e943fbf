#include <math.h>
#include <string.h>

#include "check.h"
#include "kernels/sample/sample.h"
#include "kernels/sample/sample_weight.h"

/* What a problem is about; every row of it has a seed and an index of its own. */
typedef enum subject {
    PLAIN,
    TIES,     /* all logits are equal */
    NARROW,   /* all within one bin of the first digit */
    NAN_ONE,  /* row 1 has a NaN */
    INFINITE, /* row 1 has +infinity */
    NOTHING,  /* row 1 has nothing above -infinity */
    HEAPED    /* the largest ones are neighbours, and again 1024 or 4096 tokens further on */
} subject;

typedef struct sample_case {
    const char *what;
    int64_t rows, cols, pad;
    subject subject;
    double temperature; /* 0: best */
    int32_t top_k;
    double top_p, min_p;
    int32_t n_history, n_bias, n_banned;
    bool masks;
    int32_t n_top; /* of every row that wants a log-probability */
    int32_t n_pairs;
} sample_case;

/* clang-format off */
static const sample_case cases[] = {
    { "no rows",               0,     16, 0, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "one column",            3,      1, 0, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "best",                  4,    301, 3, PLAIN,    0,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "best, penalized",       4,    300, 0, PLAIN,    0,     0, 1,    0,     40,  5,  7, true, 0, 0 },
    { "temperature",          16,    300, 4, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "hot",                  16,   4097, 1, PLAIN,  100,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "cold",                  4,   5000, 0, PLAIN,    1e-3,  0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "freezing",              4,   5000, 0, PLAIN,    1e-40, 9, 0.5,  0.1,    0,  0,  0, false, 0, 0 },
    { "top-k",                 8,   5000, 0, PLAIN,    2,    40, 1,    0,      0,  0,  0, false, 0, 0 },
    { "top-k of one",          3,   5000, 0, PLAIN,    2,     1, 1,    0,      0,  0,  0, false, 0, 0 },
    { "top-k of all",          4,   1000, 0, PLAIN,    2,  1000, 1,    0,      0,  0,  0, false, 0, 0 },
    { "top-k of nearly all",   4,   1000, 0, PLAIN,    2,   999, 1,    0,      0,  0,  0, false, 0, 0 },
    { "top-p",                 8,   5000, 0, PLAIN,    2,     0, 0.9,  0,      0,  0,  0, false, 0, 0 },
    { "top-p 0",               3,    500, 0, PLAIN,    2,     0, 0,    0,      0,  0,  0, false, 0, 0 },
    { "top-p nearly 1",        3,   5000, 0, PLAIN,    2,     0, 1 - 1e-16, 0, 0,  0,  0, false, 0, 0 },
    { "min-p",                 8,   5000, 0, PLAIN,    2,     0, 1,    0.05,   0,  0,  0, false, 0, 0 },
    { "min-p 1",               3,   5000, 0, TIES,     2,    90, 1,    1,      0,  0,  0, false, 0, 0 },
    { "all three",             8,  70001, 3, PLAIN,    1.5, 500, 0.8,  0.02,   0,  0,  0, false, 0, 0 },
    { "ties, temperature",     8,   5000, 0, TIES,     1,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "ties, top-k",           8,   5000, 0, TIES,     1,  3001, 1,    0,      0,  0,  0, false, 0, 0 },
    { "ties, top-k and top-p", 8,   5003, 1, TIES,     1,  3001, 0.5,  0,      0,  0,  0, false, 0, 0 },
    { "narrow, top-k",         4,  30000, 0, NARROW,   1, 12345, 1,    0,      0,  0,  0, false, 0, 0 },
    { "narrow, top-p",         4,  30000, 0, NARROW,   1,     0, 0.37, 0,      0,  0,  0, false, 0, 0 },
    { "history",               6,    300, 0, PLAIN,    2,     0, 1,    0,    200,  0,  0, false, 0, 0 },
    { "long history",          3,  40000, 0, PLAIN,    2,     0, 0.95, 0,   5000,  0,  0, false, 0, 0 },
    { "history of one",        4,    300, 0, TIES,     0,     0, 1,    0,      1,  0,  0, false, 0, 0 },
    { "bias",                  6,    300, 0, PLAIN,    2,    20, 1,    0,      0, 30,  0, false, 0, 0 },
    { "bans",                  6,    100, 0, PLAIN,    2,     0, 1,    0,      0,  0, 60, false, 0, 0 },
    { "mask",                  6,    308, 0, PLAIN,    2,     0, 0.7,  0,      0,  0,  0, true, 0, 0 },
    { "everything",            8,   5000, 0, PLAIN,    2,    80, 0.9,  0.01, 100, 20, 20, true, 0, 0 },
    { "everything, unaligned", 8,   4999, 3, PLAIN,    2,    80, 0.9,  0.01, 100, 20, 20, true, 0, 0 },
    { "NaN",                   3,   1000, 0, NAN_ONE,  1,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "infinity",              3,   1000, 0, INFINITE, 1,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "infinity is the best",  3,   1000, 0, INFINITE, 0,     0, 1,    0,      0,  0,  0, false, 0, 0 },
    { "all banned",            2,     60, 0, PLAIN,    1,     0, 1,    0,      0,  0, 60, false, 0, 0 },
    { "likeliest of one column", 2,   1, 0, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 1, 0 },
    { "likeliest",             4,    300, 0, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 5, 0 },
    { "likeliest 64",          4,   5003, 1, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 64, 0 },
    { "likeliest, few columns", 2,    16, 0, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 20, 0 },
    { "likeliest, ties",       2,   9000, 0, TIES,     1,     0, 1,    0,      0,  0,  0, false, 32, 0 },
    { "likeliest, narrow",     2,  30000, 0, NARROW,   0,     0, 1,    0,      0,  0,  0, false, 32, 0 },
    { "likeliest, heaped",     2, 600000, 0, HEAPED,   1,     0, 1,    0,      0,  0,  0, false, 20, 0 },
    { "likeliest, heaped, unaligned", 2, 599999, 2, HEAPED, 1, 0, 1,   0,      0,  0,  0, false, 20, 0 },
    { "likeliest, changed",    4,   5000, 0, PLAIN,    2,    80, 0.9,  0.01, 100, 20, 20, true, 7, 9 },
    { "pairs",                 8,    300, 0, PLAIN,    1,     0, 1,    0,      0,  0,  0, false, 0, 40 },
    { "pairs and bans, best", 16,     90, 0, PLAIN,    0,     0, 1,    0,      0,  0, 30, false, 0, 900 },
    { "many pairs",            3,   5000, 0, PLAIN,    2,     0, 0.9,  0,     10,  4,  3, true, 3, 3000 },
    { "likeliest, NaN",        3,   1000, 0, NAN_ONE,  1,     0, 1,    0,      0,  0,  0, false, 3, 0 },
    { "likeliest, infinity",   3,   1000, 0, INFINITE, 0,     0, 1,    0,      0,  0,  0, false, 3, 0 },
    { "likeliest, nothing",    3,   1000, 0, NOTHING,  0,     0, 1,    0,      0,  0,  0, false, 3, 0 },
    { "a vocabulary",          2, 128256, 0, PLAIN,    0.8,   0, 0.9,  0,      0,  0,  0, false, 20, 0 },
};
/* clang-format on */
enum { N_CASES = sizeof cases / sizeof cases[0] };

static int32_t below(check *c, int64_t n)
{
    return (int32_t)spey_rng_below(check_rng(c), (uint64_t)n);
}

/* What the step read for a row. Of equal logits the first is the best, unless it was read. */
static int32_t read_by(const sample_case *k, int64_t row)
{
    if (row == 1) return -5;
    return k->subject == TIES ? 0 : (int32_t)((row * 37 + 11) % k->cols);
}

/* A row's part of the ids; some of a history mean nothing, and its last one is told by the step alone. */
static void fill_ids(check *c, const sample_case *k, int64_t row, int32_t *ids)
{
    for (int32_t i = 0; i < k->n_history; i++)
        ids[i] = i % 17 == 3 ? (int32_t)k->cols + i : below(c, i % 2 ? 1 + k->cols / 9 : k->cols);
    if (k->n_history) ids[k->n_history - 1] = 0x7ffffff0;
    int32_t *bias = ids + k->n_history, *banned = bias + 2 * k->n_bias;
    for (int32_t i = 0; i < k->n_bias; i++) {
        float value = (float)spey_rng_range(check_rng(c), -4, 4);
        bias[i] = i * 7 % (int32_t)k->cols;
        memcpy(&bias[k->n_bias + i], &value, sizeof value);
    }
    for (int32_t i = 0; i < k->n_banned; i++)
        banned[i] = (i * 5 + 1) % (int32_t)k->cols;
    int32_t *pairs = banned + k->n_banned;
    for (int32_t i = 0; i < k->n_pairs; i++) {
        pairs[2 * i] = i % 3 && row != 1 ? read_by(k, row) : below(c, k->cols);
        pairs[2 * i + 1] = (i * 11 + 2) % (int32_t)k->cols;
    }
}

static spey_sample_rule rule_of(const sample_case *k, int64_t row, int32_t ids)
{
    spey_sample_rule rule = { .seed = 77 + 1000003 * (uint64_t)row,
                              .index = (uint64_t)(row % 3) << 33 | (uint64_t)row,
                              .top_p = k->top_p,
                              .min_p = k->min_p,
                              .repetition = row % 2 ? 1.3f : 1,
                              .slope = spey_sample_slope(k->temperature > 0 ? k->temperature : 1),
                              .kind = k->temperature > 0 ? SPEY_SAMPLE_DRAW : SPEY_SAMPLE_BEST,
                              .top_k = k->top_k,
                              .mask = k->masks && row % 3 ? (int32_t)(row % 2) : -1,
                              .wants_logprob = row % 4 < 2,
                              .ids = ids,
                              .n_history = k->n_history,
                              .n_prompt = row % 5 == 4 ? k->n_history : k->n_history / 2,
                              .n_bias = k->n_bias,
                              .n_banned = k->n_banned,
                              .n_pairs = k->n_pairs };
    rule.n_top = rule.wants_logprob ? k->n_top : 0;
    rule.tops = (int32_t)row * k->n_top + 1;
    if (row % 3 != 1) rule.presence = 0.25;
    if (row % 4 > 1) rule.frequency = 0.1;
    if (row == 2 && k->rows == 4) rule.kind = SPEY_SAMPLE_NOTHING;
    if (row % 10 == 5 && k->rows == 16) {
        rule.kind = SPEY_SAMPLE_FORCED;
        rule.ids = (int32_t)(row * 7 % k->cols);
        rule.n_history = rule.n_prompt = rule.n_bias = rule.n_banned = rule.n_pairs = 0;
    }
    return rule;
}

/* More rows repeat the first ones. */
enum { DRAWN_MAX = 16 };

static void fill_logits(check *c, const sample_case *k, int64_t rows, check_buffer *x,
                        int64_t pitch)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < k->cols; i++) {
            float *at = (float *)check_host(x) + r * pitch + i;
            if (k->subject == TIES) *at = 1.5f;
            if (k->subject == NARROW) *at = 20 + (float)spey_rng_range(check_rng(c), 0, 0.01);
            if (k->subject == NOTHING && r == 1) *at = -INFINITY;
            if (k->subject == HEAPED && i % (k->pad ? 1024 : 4096) < (k->pad ? 19 : 76)) *at += 40;
            if (i % 29 == 28) *at = k->subject == NARROW ? *at : -INFINITY;
        }
    if (k->subject == NAN_ONE) check_set(x, pitch + 333, (double)NAN);
    if (k->subject == INFINITE) check_set(x, pitch + 333, (double)INFINITY);
}

/* The token that the step read for row r is token 2 r + 1 of it. */
static void bind_batch(check *c, spey_sample_args *a, const sample_case *k, int64_t first)
{
    spey_ragged *batch = check_keep(c, sizeof *batch);
    memcpy(&a->batch, &batch, sizeof batch);
    check_buffer *ids = check_buffer_new(c, "step ids", SPEY_I32, 2 * k->rows);
    check_buffer *rows = check_buffer_new(c, "output_rows", SPEY_I32, k->rows);
    for (int64_t i = 0; i < k->rows; i++) {
        check_set(rows, i, (double)(2 * i + 1));
        check_set(ids, 2 * i, 0);
        check_set(ids, 2 * i + 1, read_by(k, i));
    }
    check_bind(c, &batch->ids, ids, 0);
    check_bind(c, &batch->output_rows, rows, first);
}

static void bind_masks(check *c, spey_sample_args *a, const sample_case *k)
{
    a->mask_pitch = (k->cols + 31) / 32 + 1;
    if (!k->masks) return;
    check_buffer *masks = check_buffer_new(c, "masks", SPEY_I32, 2 * a->mask_pitch);
    uint32_t *words = check_host(masks);
    for (int64_t i = 0; i < 2 * a->mask_pitch; i++)
        words[i] = (uint32_t)spey_rng_next(check_rng(c));
    check_bind(c, &a->masks, masks, 0);
}

/* Returns the buffer of the logits. */
static check_buffer *build(check *c, const sample_case *k, spey_sample_args *a, int64_t first)
{
    const int32_t n_ids = k->n_history + 2 * k->n_bias + k->n_banned + 2 * k->n_pairs;
    const int64_t drawn = k->rows < DRAWN_MAX ? k->rows : DRAWN_MAX;
    check_buffer *x = check_buffer_new(c, "x", SPEY_F32, k->rows * a->x_pitch);
    check_fill(c, x, 0, drawn, k->cols, a->x_pitch, -3, 3);
    fill_logits(c, k, drawn, x, a->x_pitch);
    for (int64_t r = drawn; r < k->rows; r++)
        memcpy((float *)check_host(x) + r * a->x_pitch,
               (float *)check_host(x) + r % drawn * a->x_pitch, (size_t)k->cols * sizeof(float));
    check_bind(c, &a->x, x, first * a->x_pitch);
    check_buffer *rules =
        check_buffer_new(c, "rules", SPEY_I64, k->rows * (int64_t)(sizeof(spey_sample_rule) / 8));
    check_buffer *ids = check_buffer_new(c, "ids", SPEY_I32, k->rows * n_ids + 3);
    a->n_ids = k->rows * n_ids + 3;
    for (int64_t r = 0; r < k->rows; r++) {
        ((spey_sample_rule *)check_host(rules))[r] = rule_of(k, r, (int32_t)r * n_ids + 3);
        fill_ids(c, k, r, (int32_t *)check_host(ids) + r * n_ids + 3);
    }
    check_bind(c, &a->rules, rules, first * (int64_t)(sizeof(spey_sample_rule) / 8));
    check_bind(c, &a->ids, ids, 0);
    bind_batch(c, a, k, first);
    bind_masks(c, a, k);
    check_workspace(c, &a->workspace);
    return x;
}

static void bind_results(check *c, spey_sample_args *a, const sample_case *k, int64_t first)
{
    check_buffer *out = check_buffer_new(c, "out", SPEY_I32, k->rows);
    check_buffer *logprobs = check_buffer_new(c, "logprobs", SPEY_F32, k->rows);
    check_buffer *top_ids = check_buffer_new(c, "top_ids", SPEY_I32, k->rows * k->n_top + 1);
    check_buffer *tops = check_buffer_new(c, "top_logprobs", SPEY_F32, k->rows * k->n_top + 1);
    a->n_tops = k->rows * k->n_top;
    check_bind(c, &a->out, out, first);
    check_bind(c, &a->logprobs, logprobs, first);
    check_bind(c, &a->top_ids, top_ids, 0);
    check_bind(c, &a->top_logprobs, tops, 0);
    for (int64_t r = first; r < first + a->rows; r++) {
        const spey_sample_rule rule = rule_of(k, r, 0);
        if (rule.kind == SPEY_SAMPLE_NOTHING) continue;
        check_output(c, out, r, 1, 1, 1);
        check_output(c, logprobs, r, 1, 1, 1);
        if (rule.n_top) check_output(c, top_ids, rule.tops, 1, rule.n_top, 1);
        if (rule.n_top) check_output(c, tops, rule.tops, 1, rule.n_top, 1);
    }
}

static bool make(check *c, int index, void *args)
{
    if (index >= N_CASES) return false;
    const sample_case *k = &cases[index];
    spey_sample_args *a = args;
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 4 || part > k->rows) return false;
    *a = (spey_sample_args){ .rows = part ? 1 : k->rows,
                             .cols = k->cols,
                             .x_pitch = k->cols + k->pad };
    build(c, k, a, first);
    bind_results(c, a, k, first);
    check_name(c, "%s, %lldx%lld", k->what, (long long)k->rows, (long long)k->cols);
    return true;
}

/* The keys of a log-sum are off by two roundings of FP32, in the mean by their entropy, and by what is cut off, half a unit of
 * 2^-24 bits each in key and weight; the result and the reference's exponentials are rounded once (docs/numerics.md). */
static void bound_one(check_buffer *logprobs, int64_t cols)
{
    for (int64_t i = 0; i < check_length(logprobs); i++) {
        double value = check_reference(logprobs, i);
        if (isfinite(value))
            check_set_bound(logprobs, i, 0x1p-24 * (4 + fabs(value) + 2 * log((double)cols + 1)));
    }
}

static void bound(check *c, const void *args)
{
    const spey_sample_args *a = args;
    bound_one(check_bound_to(c, &a->logprobs), a->cols);
    bound_one(check_bound_to(c, &a->top_logprobs), a->cols);
}

static bool bench(check *c, int index, void *args)
{
    static const sample_case benches[] = {
        { "best", 256, 128256, 0, PLAIN, 0, 0, 1, 0, 0, 0, 0, false, 0, 0 },
        { "temperature", 256, 128256, 0, PLAIN, 0.8, 0, 1, 0, 0, 0, 0, false, 0, 0 },
        { "top-k 50", 256, 128256, 0, PLAIN, 0.8, 50, 1, 0, 0, 0, 0, false, 0, 0 },
        { "top-p 0.9", 256, 128256, 0, PLAIN, 0.8, 0, 0.9, 0, 0, 0, 0, false, 0, 0 },
        { "top-k 50, top-p 0.9", 256, 128256, 0, PLAIN, 0.8, 50, 0.9, 0, 0, 0, 0, false, 0, 0 },
        { "top-p 0.9, history of 1000", 256, 128256, 0, PLAIN, 0.8, 0, 0.9, 0, 1000, 0, 0, false, 0,
          0 },
        { "temperature", 1, 128256, 0, PLAIN, 0.8, 0, 1, 0, 0, 0, 0, false, 0, 0 },
        { "top-p 0.9", 1, 128256, 0, PLAIN, 0.8, 0, 0.9, 0, 0, 0, 0, false, 0, 0 },
        { "top-p 0.9", 64, 128256, 0, PLAIN, 0.8, 0, 0.9, 0, 0, 0, 0, false, 0, 0 },
        { "ties, top-p 0.9", 256, 128256, 0, TIES, 0.8, 0, 0.9, 0, 0, 0, 0, false, 0, 0 },
        { "temperature, likeliest 5", 256, 128256, 0, PLAIN, 0.8, 0, 1, 0, 0, 0, 0, false, 5, 0 },
        { "temperature, likeliest 20", 256, 128256, 0, PLAIN, 0.8, 0, 1, 0, 0, 0, 0, false, 20, 0 },
    };
    if (index >= (int)(sizeof benches / sizeof benches[0])) return false;
    const sample_case *k = &benches[index];
    spey_sample_args *a = args;
    *a = (spey_sample_args){ .rows = k->rows, .cols = k->cols, .x_pitch = k->cols };
    build(c, k, a, 0);
    bind_results(c, a, k, 0);
    check_name(c, "%s, %lldx128256", k->what, (long long)k->rows);
    check_work(c, 4.0 * (double)(k->rows * k->cols), (double)(k->rows * k->cols));
    return true;
}

const check_op check_sample = { sizeof(spey_sample_args), make, bound, bench };
