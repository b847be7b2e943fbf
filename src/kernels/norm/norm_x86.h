/* The body of norm for x86: include vec512.h or vec256.h first.
 *
 * A lane takes whole rows, a group of a row at a time. RMS reads a group twice (sum of squares, then scaling), LAYER
 * three times (the variance is summed around the mean: cancellation of E[s²] - mean² would cost digits); later passes
 * hit the L1 cache up to 8k columns. With a residual the first pass also writes s. Bound by memory when rows are many;
 * a single row of 4096 columns takes about a microsecond, less than waking another lane is worth.
 *
 * Four accumulators hide the latency of the additions. */
#ifndef SPEY_KERNELS_NORM_NORM_X86_H
#define SPEY_KERNELS_NORM_NORM_X86_H

#include <math.h>

#include "device/pool.h"
#include "kernels/norm/norm.h"
#include "kernels/x86/math.h"

/* One group: where it begins. */
typedef struct norm_group {
    const void *x, *residual;
    void *sum, *out;
} norm_group;

static inline void *norm_at(const void *array, spey_dtype dtype, int64_t i)
{
    return array ? (char *)(uintptr_t)array + i * (int64_t)(dtype == SPEY_F32 ? 4 : 2) : NULL;
}

static inline int64_t norm_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The first n lanes, 0 in the others. */
static inline vec norm_first(vec a, int64_t n)
{
    static const float lanes[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    return vec_select(vec_less(vec_load_f32(lanes), vec_set1((float)n)), a, vec_zero());
}

/* s of up to VEC_LANES columns from i on; the lanes beyond n are 0. */
static inline vec norm_load(const norm_group *g, spey_dtype dtype, int64_t i, int64_t n)
{
    vec x = vec_load_n(g->x, dtype, i, n);
    return g->residual ? vec_add(x, vec_load_n(g->residual, dtype, i, n)) : x;
}

/* Σ (s - mean)², or with `plain` Σ s. */
static inline float norm_reduce(const norm_group *g, spey_dtype dtype, int64_t cols, float mean,
                                bool plain)
{
    vec sums[4] = { vec_zero(), vec_zero(), vec_zero(), vec_zero() }, m = vec_set1(mean);
    int64_t i = 0;
    for (; i + 4 * VEC_LANES <= cols; i += 4 * VEC_LANES) {
        for (int k = 0; k < 4; k++) {
            vec s = norm_load(g, dtype, i + k * VEC_LANES, VEC_LANES);
            vec d = vec_sub(s, m);
            sums[k] = plain ? vec_add(sums[k], s) : vec_fma(d, d, sums[k]);
        }
    }
    for (int k = 0; i < cols; i += VEC_LANES, k++) {
        int64_t n = norm_least(cols - i, VEC_LANES);
        vec s = norm_load(g, dtype, i, n);
        vec d = norm_first(vec_sub(s, m), n);
        sums[k] = plain ? vec_add(sums[k], s) : vec_fma(d, d, sums[k]);
    }
    return vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
}

static inline void norm_scale(const spey_norm_args *a, const norm_group *g, spey_dtype dtype,
                              spey_dtype out, float mean, float scale)
{
    vec m = vec_set1(mean), k = vec_set1(scale), offset = vec_set1(a->weight_offset);
    const float *bias = a->kind == SPEY_NORM_LAYER ? a->bias : NULL;
    for (int64_t i = 0; i < a->cols; i += VEC_LANES) {
        int64_t n = norm_least(a->cols - i, VEC_LANES);
        vec s = norm_load(g, dtype, i, n);
        if (g->sum) vec_store_n(g->sum, dtype, i, s, n);
        vec weight = a->weight ? vec_load_f32_n(a->weight + i, n) : vec_set1(1);
        vec y = vec_mul(vec_mul(vec_sub(s, m), k), vec_add(weight, offset));
        if (bias) y = vec_add(y, vec_load_f32_n(bias + i, n));
        vec_store_n(g->out, out, i, y, n);
    }
}

static inline void norm_one(const spey_norm_args *a, const norm_group *g, spey_dtype dtype,
                            spey_dtype out)
{
    float n = (float)a->cols, mean = 0;
    if (a->kind == SPEY_NORM_LAYER) mean = norm_reduce(g, dtype, a->cols, 0, true) / n;
    float variance = norm_reduce(g, dtype, a->cols, mean, false) / n;
    norm_scale(a, g, dtype, out, mean, 1 / sqrtf(variance + a->eps));
}

static inline void norm_rows(const spey_norm_args *a, const spey_lane *lane, spey_dtype dtype,
                             spey_dtype out)
{
    int64_t width = a->cols * a->groups, grain = 1 + 4096 / (width + 1), begin, end;
    while (spey_lane_chunk(lane, a->rows, grain, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            for (int64_t at = 0; at < width; at += a->cols) {
                const norm_group g = { norm_at(a->x, dtype, r * a->x_pitch + at),
                                       norm_at(a->residual, dtype, r * a->residual_pitch + at),
                                       norm_at(a->sum, dtype, r * a->sum_pitch + at),
                                       norm_at(a->out, out, r * a->out_pitch + at) };
                norm_one(a, &g, dtype, out);
            }
        }
    }
}

static bool supports(const void *args)
{
    const spey_norm_args *a = (const spey_norm_args *)args;
    const spey_dtype dtype = a->x_dtype;
    if ((a->residual && a->residual_dtype != dtype) || (a->sum && a->sum_dtype != dtype) ||
        (a->out_dtype != dtype && (dtype != SPEY_F32 || a->out_dtype != SPEY_BF16)))
        return false;
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_norm_args *a = args;
    /* Constant dtypes, so that each gets a loop of its own. */
    if (a->x_dtype == SPEY_F32 && a->out_dtype == SPEY_F32)
        norm_rows(a, lane, SPEY_F32, SPEY_F32);
    else if (a->x_dtype == SPEY_F32)
        norm_rows(a, lane, SPEY_F32, SPEY_BF16);
    else if (a->x_dtype == SPEY_F16)
        norm_rows(a, lane, SPEY_F16, SPEY_F16);
    else
        norm_rows(a, lane, SPEY_BF16, SPEY_BF16);
}

#endif
