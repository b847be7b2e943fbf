#include <math.h>

#include "kernels/norm/norm.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_norm_args *a = args;
    return spey_is_float16_or_32(a->x_dtype) && spey_is_float16_or_32(a->out_dtype) &&
           (!a->residual || spey_is_float16_or_32(a->residual_dtype)) &&
           (!a->sum || spey_is_float16_or_32(a->sum_dtype));
}

/* s of column i; `at` is the element index in x, `residual_at` in residual. */
static double sum_at(const spey_norm_args *a, int64_t at, int64_t residual_at)
{
    double s = spey_load(a->x, a->x_dtype, at);
    return a->residual ? s + spey_load(a->residual, a->residual_dtype, residual_at) : s;
}

static void norm_group(const spey_norm_args *a, int64_t r, int64_t group)
{
    int64_t column = group * a->cols, x = r * a->x_pitch + column;
    int64_t residual = r * a->residual_pitch + column;
    double mean = 0, square = 0;
    for (int64_t i = 0; a->kind == SPEY_NORM_LAYER && i < a->cols; i++)
        mean += sum_at(a, x + i, residual + i) / (double)a->cols;
    for (int64_t i = 0; i < a->cols; i++) {
        double d = sum_at(a, x + i, residual + i) - mean;
        square += d * d / (double)a->cols;
    }
    double scale = 1 / sqrt(square + (double)a->eps);
    for (int64_t i = 0; i < a->cols; i++) {
        double s = sum_at(a, x + i, residual + i);
        double weight = (a->weight ? (double)a->weight[i] : 1.0) + (double)a->weight_offset;
        double bias = a->kind == SPEY_NORM_LAYER && a->bias ? (double)a->bias[i] : 0.0;
        if (a->sum) spey_store(a->sum, a->sum_dtype, r * a->sum_pitch + column + i, s);
        spey_store(a->out, a->out_dtype, r * a->out_pitch + column + i,
                   (s - mean) * scale * weight + bias);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_norm_args *a = args;
    for (int64_t r = lane->index; r < a->rows; r += lane->count)
        for (int64_t group = 0; group < a->groups; group++)
            norm_group(a, r, group);
}

const spey_kernel spey_norm_ref = { .name = "norm/ref", .supports = supports, .run = run };
