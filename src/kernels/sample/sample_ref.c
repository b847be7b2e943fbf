/* sample by copying the row, changing it, and sorting what may be drawn. */
#include "kernels/sample/sample.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/rows.h"
#include "kernels/sample/sample_weight.h"

double spey_log_sum_exp(const float *logits, int64_t n)
{
    float best = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        best = logits[i] > best ? logits[i] : best;
    if (best == -INFINITY) return (double)best;
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)expf(logits[i] - best);
    return (double)best + log(sum);
}

/* The order of the likeliest: larger logit first, then lower id. */
static bool comes_before(spey_token_logprob a, spey_token_logprob b)
{
    return a.logprob > b.logprob || (!(a.logprob < b.logprob) && a.id < b.id);
}

void spey_likeliest(const float *logits, int64_t cols, double log_sum_exp, int32_t n,
                    spey_token_logprob *out)
{
    /* n is small: insertion into the n best logits so far, sorted, passes once over the row. */
    int32_t taken = 0;
    for (int64_t i = 0; n > 0 && i < cols; i++) {
        spey_token_logprob c = { .id = (int32_t)i, .logprob = logits[i] };
        if (taken == n && !comes_before(c, out[n - 1])) continue;
        int32_t at = taken < n ? taken++ : n - 1;
        for (; at > 0 && comes_before(c, out[at - 1]); at--)
            out[at] = out[at - 1];
        out[at] = c;
    }
    for (int32_t i = 0; i < n; i++)
        out[i] = i < taken ? (spey_token_logprob){ out[i].id,
                                                   (float)((double)out[i].logprob - log_sum_exp) }
                           : (spey_token_logprob){ -1, NAN };
}

/* The history's token i. */
static int32_t history_id(const spey_sample_args *a, int64_t r, int32_t i)
{
    const spey_sample_rule *rule = &a->rules[r];
    return i + 1 < rule->n_history ? a->ids[rule->ids + i]
                                   : a->batch->ids[a->batch->output_rows[r]];
}

/* How often the history's tokens from `begin` on are `id`. */
static int32_t count(const spey_sample_args *a, int64_t r, int32_t begin, int32_t end, int32_t id)
{
    int32_t n = 0;
    for (int32_t i = begin; i < end; i++)
        n += history_id(a, r, i) == id;
    return n;
}

static void penalize(const spey_sample_args *a, int64_t r, float *x)
{
    const spey_sample_rule *rule = &a->rules[r];
    for (int32_t i = 0; i < rule->n_history; i++) {
        int32_t id = history_id(a, r, i);
        if (id < 0 || id >= a->cols || count(a, r, 0, i, id)) continue; /* at its first place */
        x[id] = x[id] < 0 ? x[id] * rule->repetition : x[id] / rule->repetition;
        int32_t n = count(a, r, rule->n_prompt, rule->n_history, id);
        if (n) x[id] -= (float)(rule->presence + rule->frequency * n);
    }
}

static void change(const spey_sample_args *a, int64_t r, float *x)
{
    const spey_sample_rule *rule = &a->rules[r];
    const int32_t *bias = a->ids + rule->ids + rule->n_history, *values = bias + rule->n_bias;
    const int32_t *banned = values + rule->n_bias;
    for (int32_t i = 0; i < rule->n_bias; i++) {
        float value;
        memcpy(&value, &values[i], sizeof value);
        x[bias[i]] += value;
    }
    penalize(a, r, x);
    for (int32_t i = 0; i < rule->n_banned; i++)
        x[banned[i]] = -INFINITY;
    const int32_t *pairs = banned + rule->n_banned;
    for (int32_t i = 0; i < rule->n_pairs; i++)
        if (pairs[2 * i] == a->batch->ids[a->batch->output_rows[r]])
            x[pairs[2 * i + 1]] = -INFINITY;
    const uint32_t *mask = rule->mask < 0 ? NULL : a->masks + rule->mask * a->mask_pitch;
    for (int64_t c = 0; mask && c < a->cols; c++)
        if (!(mask[c / 32] >> c % 32 & 1)) x[c] = -INFINITY;
}

/* ---- choosing ---- */

typedef struct candidate {
    uint64_t weight; /* 0: it is out */
    uint32_t key;
    int32_t id;
} candidate;

static int by_key(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return x->key != y->key ? (x->key > y->key) - (x->key < y->key)
                            : (x->id > y->id) - (x->id < y->id);
}

static int by_id(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

static uint64_t mass_of(const candidate *list, int64_t n)
{
    uint64_t mass = 0;
    for (int64_t i = 0; i < n; i++)
        mass += list[i].weight;
    return mass;
}

/* How many of the sorted list stay. */
static int64_t cut(const spey_sample_rule *rule, const candidate *list, int64_t n)
{
    if (rule->top_k && rule->top_k < n) n = rule->top_k;
    uint64_t mass = 0, goal = spey_sample_goal(rule->top_p, mass_of(list, n));
    int64_t kept = 0;
    while (rule->top_p < 1 && mass < goal)
        mass += list[kept++].weight;
    if (rule->top_p < 1) n = kept;
    while (list[n - 1].weight < spey_sample_least(rule->min_p))
        n--;
    return n;
}

static int32_t draw(const spey_sample_rule *rule, const float *x, int64_t cols, float best,
                    candidate *list)
{
    int64_t n = 0;
    for (int64_t c = 0; c < cols; c++) {
        uint32_t key = spey_sample_key(best, x[c], rule->slope);
        uint64_t weight = spey_sample_weight(key);
        if (weight) list[n++] = (candidate){ weight, key, (int32_t)c };
    }
    qsort(list, (size_t)n, sizeof *list, by_key);
    n = cut(rule, list, n);
    qsort(list, (size_t)n, sizeof *list, by_id);
    uint64_t point = spey_sample_point(rule->seed, rule->index, mass_of(list, n)), mass = 0;
    while ((mass += list->weight) <= point)
        list++;
    return list->id;
}

/* -1: there is none. */
static int64_t find_best(const float *x, int64_t cols)
{
    int64_t best = 0;
    for (int64_t c = 0; c < cols; c++) {
        if (isnan(x[c])) return -1;
        if (x[c] > x[best]) best = c;
    }
    return cols == 0 || x[best] == -INFINITY ? -1 : best;
}

static int32_t choose(const spey_sample_rule *rule, const float *x, int64_t cols, candidate *list)
{
    const int64_t best = find_best(x, cols);
    if (rule->kind == SPEY_SAMPLE_FORCED) return rule->ids;
    if (best < 0) return -1;
    if (rule->kind == SPEY_SAMPLE_BEST) return (int32_t)best;
    return x[best] == INFINITY ? -1 : draw(rule, x, cols, x[best], list);
}

static void write_top(const spey_sample_args *a, const spey_sample_rule *rule, const float *x,
                      double scale)
{
    spey_token_logprob top[SPEY_LOGPROBS_MAX];
    spey_likeliest(x, find_best(x, a->cols) < 0 ? 0 : a->cols, scale, rule->n_top, top);
    for (int32_t i = 0; i < rule->n_top; i++) {
        a->top_ids[rule->tops + i] = top[i].id;
        a->top_logprobs[rule->tops + i] = top[i].logprob;
    }
}

/* A copy of the row lies behind the candidates. */
static size_t workspace(const void *args)
{
    const spey_sample_args *a = args;
    return (size_t)a->cols * (sizeof(candidate) + sizeof(float));
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_sample_args *a = args;
    candidate *list = a->workspace;
    float *copy = (float *)(list + a->cols);
    if (lane->index) return; /* there is one workspace */
    for (int64_t r = 0; r < a->rows; r++) {
        const float *x = a->x + r * a->x_pitch;
        const spey_sample_rule *rule = &a->rules[r];
        if (rule->kind == SPEY_SAMPLE_NOTHING) continue;
        memcpy(copy, x, (size_t)a->cols * sizeof *copy);
        change(a, r, copy);
        int32_t id = choose(rule, copy, a->cols, list);
        double scale = rule->wants_logprob ? spey_log_sum_exp(x, a->cols) : (double)NAN;
        a->out[r] = id;
        a->logprobs[r] = id >= 0 ? (float)((double)x[id] - scale) : NAN;
        write_top(a, rule, x, scale);
    }
}

const spey_kernel spey_sample_ref = { .name = "sample/ref", .workspace = workspace, .run = run };
