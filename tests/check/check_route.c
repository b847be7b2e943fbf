#include <math.h>

#include "check.h"
#include "kernels/route/route.h"

/* How the logits are made: a permutation of evenly spaced numbers, so that no rounding changes an order; or zeros and ones,
 * so that ties decide. */
typedef enum route_logits { SPREAD, TIES } route_logits;

#define SOFT SPEY_SCORING_SOFTMAX
#define SIGM SPEY_SCORING_SIGMOID

/* clang-format off */
static const struct route_case {
    int64_t rows, experts, top_k;
    spey_scoring scoring;
    bool normalise;
    float scale;
    int64_t groups, top_groups, best;
    bool correction;
    route_logits logits;
    spey_dtype dtype;
    int64_t pad;
} cases[] = {
    {  0,    4, 2, SOFT, false, 1,     1, 1, 1, false, SPREAD, SPEY_F32,  0 },
    {  1,    1, 1, SIGM, false, 1,     1, 1, 1, false, SPREAD, SPEY_F32,  0 },
    {  7,    4, 2, SOFT, false, 1,     1, 1, 1, false, SPREAD, SPEY_F32,  0 },
    {  7,    4, 2, SOFT, true,  1,     1, 1, 1, false, SPREAD, SPEY_F32,  3 },
    {  7,    8, 8, SOFT, true,  1,     1, 1, 1, false, SPREAD, SPEY_F32,  0 },
    {  9,  128, 8, SOFT, true,  2.5f,  1, 1, 1, false, SPREAD, SPEY_F32,  1 },
    {  9,   60, 4, SOFT, false, .5f,   1, 1, 1, false, SPREAD, SPEY_F32,  0 },
    {  9,  160, 6, SOFT, false, 16,    8, 3, 1, false, SPREAD, SPEY_F32,  0 },
    {  9,  256, 8, SIGM, true,  2.5f,  8, 4, 2, true,  SPREAD, SPEY_F32,  0 },
    {  9,   64, 6, SIGM, true,  1,     4, 2, 2, false, SPREAD, SPEY_F32,  5 },
    {  9,   64, 6, SIGM, true,  1,     4, 2, 1, false, SPREAD, SPEY_F32,  5 },
    {  9,   64, 6, SIGM, false, 3,     1, 1, 1, true,  SPREAD, SPEY_F32,  0 },
    {  9,   64, 6, SOFT, false, 3,     1, 1, 1, true,  SPREAD, SPEY_F32,  0 },
    {  9, 1024, 9, SOFT, false, 1,     1, 1, 1, false, SPREAD, SPEY_F32,  0 },
    { 20,   16, 5, SOFT, false, 1,     1, 1, 1, false, TIES,   SPEY_F32,  0 },
    { 20,   16, 3, SOFT, true,  1,     4, 2, 1, false, TIES,   SPEY_F32,  0 },
    { 20,   16, 3, SIGM, true,  1,     4, 2, 2, false, TIES,   SPEY_F32,  0 },
    {  9,   64, 6, SOFT, true,  1,     1, 1, 1, false, SPREAD, SPEY_BF16, 8 },
    {  9,   32, 4, SIGM, false, 1,     4, 2, 2, false, SPREAD, SPEY_F16,  1 },
};
/* clang-format on */

static void fill_logits(check *c, const struct route_case *k, check_buffer *logits, int64_t pitch)
{
    for (int64_t r = 0; r < k->rows; r++) {
        int64_t order[1024];
        for (int64_t e = 0; e < k->experts; e++) {
            int64_t j = (int64_t)spey_rng_below(check_rng(c), (uint64_t)e + 1);
            order[e] = order[j];
            order[j] = e;
        }
        for (int64_t e = 0; e < k->experts; e++) {
            double spread = 8 * ((double)order[e] / (double)k->experts - 0.5);
            check_set(logits, r * pitch + e, k->logits == TIES ? (double)(order[e] % 2) : spread);
        }
    }
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    const struct route_case *k = &cases[index];
    spey_route_args *a = args;
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    *a = (spey_route_args){ .rows = part ? 1 : k->rows,
                            .n_experts = k->experts,
                            .top_k = k->top_k,
                            .scoring = k->scoring,
                            .normalise = k->normalise,
                            .scale = k->scale,
                            .n_groups = k->groups,
                            .top_groups = k->top_groups,
                            .group_best = k->best,
                            .dtype = k->dtype,
                            .pitch = k->experts + k->pad };
    int64_t n = k->rows ? (k->rows - 1) * a->pitch + k->experts : 0;
    check_buffer *logits = check_buffer_new(c, "logits", k->dtype, n);
    fill_logits(c, k, logits, a->pitch);
    check_bind(c, &a->logits, logits, first * a->pitch);
    if (k->correction)
        check_bind(c, &a->correction,
                   check_matrix(c, "correction", SPEY_F32, 1, k->experts, k->experts, 0, 0.3), 0);
    check_buffer *out = check_buffer_new(c, "out", SPEY_F32, k->rows * 2 * k->top_k);
    check_bind(c, &a->out, out, first * 2 * k->top_k);
    check_output(c, out, first * 2 * k->top_k, a->rows, 2 * k->top_k, 2 * k->top_k);
    check_name(c, "%lld rows, %lld of %lld %s, best %lld of %lld groups by %lld%s%s",
               (long long)k->rows, (long long)k->top_k, (long long)k->experts,
               k->scoring == SOFT ? "softmax" : "sigmoid", (long long)k->top_groups,
               (long long)k->groups, (long long)k->best, k->normalise ? " normalised" : "",
               k->correction ? " corrected" : "");
    return true;
}

/* Expert numbers are exact. A weight is a quotient of an exp and a sum of exps (docs/numerics.md): each exp has 8 units of
 * rounding and one for every unit of its argument, at most 8 here; a sum of n terms 4 (√n + 1). */
static void bound(check *c, const void *args)
{
    const spey_route_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0; i < a->top_k; i++) {
            int64_t at = r * 2 * a->top_k + i;
            double units = 4 * (8 + 8) + 4 * (sqrt((double)a->n_experts) + 1);
            check_set_bound(out, at, units * 0x1p-24 * fabs(check_reference(out, at)));
        }
}

const check_op check_route = { sizeof(spey_route_args), make, bound, NULL };
