/* route in double. A token costs an exp per expert and top_k passes over its choices, some microseconds for 256 experts:
 * nothing beside the experts themselves, so the reference is the CPU's only row. */
#include <math.h>

#include "base/limits.h"
#include "device/pool.h"
#include "kernels/route/route.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

typedef struct route_token {
    double scores[SPEY_EXPERTS_MAX];
    double choices[SPEY_EXPERTS_MAX];
    bool out[SPEY_EXPERTS_MAX]; /* taken, or in a group that is out */
} route_token;

/* The largest of values[begin, end) that is not out; the first of equal ones. NaN is less than anything. */
static int64_t best_of(const double *values, const bool *out, int64_t begin, int64_t end)
{
    int64_t best = -1;
    for (int64_t i = begin; i < end; i++)
        if (!out[i] &&
            (best < 0 || values[i] > values[best] || (isnan(values[best]) && !isnan(values[i]))))
            best = i;
    SPEY_ASSERT(best >= 0);
    return best;
}

static void score(const spey_route_args *a, int64_t row, route_token *t)
{
    double max = (double)-INFINITY, sum = 0;
    for (int64_t e = 0; e < a->n_experts; e++) {
        t->scores[e] = spey_load(a->logits, a->dtype, row * a->pitch + e);
        max = fmax(max, t->scores[e]);
    }
    for (int64_t e = 0; e < a->n_experts; e++) {
        if (a->scoring == SPEY_SCORING_SIGMOID)
            t->scores[e] = spey_activate(SPEY_ACT_SIGMOID, t->scores[e]);
        else
            sum += t->scores[e] = exp(t->scores[e] - max);
    }
    for (int64_t e = 0; e < a->n_experts; e++) {
        if (a->scoring == SPEY_SCORING_SOFTMAX) t->scores[e] /= sum;
        t->choices[e] = t->scores[e] + (a->correction ? (double)a->correction[e] : 0);
        t->out[e] = false;
    }
}

/* Only experts of the best groups stay in. */
static void choose_groups(const spey_route_args *a, route_token *t)
{
    const int64_t size = a->n_experts / a->n_groups;
    SPEY_ASSERT(size > 0);
    double scores[SPEY_EXPERTS_MAX] = { 0 };
    bool taken[SPEY_EXPERTS_MAX] = { false };
    for (int64_t g = 0; g < a->n_groups; g++) {
        int64_t first = best_of(t->choices, t->out, g * size, (g + 1) * size);
        scores[g] = t->choices[first];
        if (a->group_best > 1) {
            t->out[first] = true;
            scores[g] += t->choices[best_of(t->choices, t->out, g * size, (g + 1) * size)];
            t->out[first] = false;
        }
        taken[g] = false;
    }
    for (int64_t i = 0; i < a->top_groups; i++)
        taken[best_of(scores, taken, 0, a->n_groups)] = true;
    for (int64_t e = 0; e < a->n_experts; e++)
        t->out[e] = !taken[e / size];
}

static void route_row(const spey_route_args *a, int64_t row)
{
    route_token t = { 0 };
    float *weights = a->out + row * 2 * a->top_k, *ids = weights + a->top_k;
    double sum = 0;
    score(a, row, &t);
    if (a->top_groups < a->n_groups) choose_groups(a, &t);
    for (int64_t i = 0; i < a->top_k; i++) {
        int64_t e = best_of(t.choices, t.out, 0, a->n_experts);
        t.out[e] = true;
        ids[i] = (float)e;
        sum += t.scores[e];
    }
    for (int64_t i = 0; i < a->top_k; i++) {
        double weight = t.scores[(int64_t)ids[i]];
        if (a->normalise) weight /= sum + 1e-20;
        weights[i] = (float)(weight * (double)a->scale);
    }
}

static bool supports(const void *args)
{
    const spey_route_args *a = args;
    return spey_is_float16_or_32(a->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_route_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 4, &begin, &end))
        for (int64_t r = begin; r < end; r++)
            route_row(a, r);
}

const spey_kernel spey_route_ref = { .name = "route/ref", .supports = supports, .run = run };
