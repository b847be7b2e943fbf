#include <math.h>

#include "kernels/norm/norm.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_norm_args *a = args;
    const bool rounds = a->out_dtype == SPEY_E4M3 && a->groups == 1;
    return spey_is_float16_or_32(a->x_dtype) && (rounds || spey_is_float16_or_32(a->out_dtype)) &&
           (!a->residual || spey_is_float16_or_32(a->residual_dtype)) &&
           (!a->sum || spey_is_float16_or_32(a->sum_dtype));
}

/* A group of one row: where its operands begin, and what all of its elements share. */
typedef struct piece {
    int64_t row, x, residual, sum, out;
    double mean, scale;
} piece;

/* s of column i. */
static double sum_at(const spey_norm_args *a, const piece *p, int64_t i)
{
    double s = spey_load(a->x, a->x_dtype, p->x + i);
    return a->residual ? s + spey_load(a->residual, a->residual_dtype, p->residual + i) : s;
}

static double value_at(const spey_norm_args *a, const piece *p, int64_t i)
{
    double weight = (a->weight ? (double)a->weight[i] : 1.0) + (double)a->weight_offset;
    double bias = a->kind == SPEY_NORM_LAYER && a->bias ? (double)a->bias[i] : 0.0;
    return (sum_at(a, p, i) - p->mean) * p->scale * weight + bias;
}

static piece find_piece(const spey_norm_args *a, int64_t r, int64_t group)
{
    int64_t column = group * a->cols;
    piece p = { .row = r,
                .x = r * a->x_pitch + column,
                .residual = r * a->residual_pitch + column,
                .sum = r * a->sum_pitch + column,
                .out = r * a->out_pitch + column };
    double square = 0;
    for (int64_t i = 0; a->kind == SPEY_NORM_LAYER && i < a->cols; i++)
        p.mean += sum_at(a, &p, i) / (double)a->cols;
    for (int64_t i = 0; i < a->cols; i++) {
        double d = sum_at(a, &p, i) - p.mean;
        square += d * d / (double)a->cols;
    }
    p.scale = 1 / sqrt(square + (double)a->eps);
    return p;
}

static spey_e4m3_scale find_scale(const spey_norm_args *a, const piece *p)
{
    double largest = 0;
    if (a->out_quant == SPEY_INPUT_STATIC) return spey_output_scale(a->out_quant, a->out_scale, 0);
    for (int64_t i = 0; i < a->cols; i++)
        largest = fmax(largest, fabs(value_at(a, p, i)));
    return spey_output_scale(a->out_quant, a->out_scale + p->row, largest);
}

static void norm_group(const spey_norm_args *a, int64_t r, int64_t group)
{
    const piece p = find_piece(a, r, group);
    const bool rounds = a->out_dtype == SPEY_E4M3;
    const spey_e4m3_scale scale = rounds ? find_scale(a, &p) : (spey_e4m3_scale){ 0 };
    for (int64_t i = 0; i < a->cols; i++) {
        double s = sum_at(a, &p, i), value = value_at(a, &p, i);
        if (a->sum) spey_store(a->sum, a->sum_dtype, p.sum + i, s);
        if (rounds)
            spey_store_e4m3(a->out, p.out + i, value, scale);
        else
            spey_store(a->out, a->out_dtype, p.out + i, value);
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
