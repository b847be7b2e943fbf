#include <math.h>

#include "check.h"
#include "kernels/norm/norm.h"

/* clang-format off */
static const struct norm_case {
    const char *what;
    int64_t rows, cols, groups;
    spey_norm_kind kind;
    spey_dtype dtype;
    int64_t pad;       /* of every pitch, each by another amount */
    bool residual;
    int sum;           /* 0 none, 1 own buffer, 2 in x, 3 in residual */
    bool in_place;     /* out is x */
    bool weight, bias;
    float offset, eps;
    double center, scale; /* of x */
    int wide;             /* in F32 all the same: bit 0 x, 1 residual, 2 sum, 3 out; out E4M3: bit 4 by token, 5 static */
} cases[] = {
    { "one element",      1,    1,  1, SPEY_NORM_RMS,   SPEY_F32, 0, false, 0, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "no rows",          0,   64,  1, SPEY_NORM_RMS,   SPEY_F32, 0, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "small, eps seen",  3,   40,  1, SPEY_NORM_RMS,   SPEY_F32, 3, false, 0, false, true,  false, 0, 1e-5f, 0, 1e-3, 0 },
    { "small, eps seen",  3,   40,  1, SPEY_NORM_LAYER, SPEY_F32, 3, false, 0, false, true,  true,  0, 1e-5f, 0, 1e-3, 0 },
    { "zeros",            2,   33,  1, SPEY_NORM_RMS,   SPEY_F32, 0, false, 0, false, true,  false, 0, 1e-6f, 0, 0, 0 },
    { "tail 15",          5,   15,  1, SPEY_NORM_RMS,   SPEY_F32, 1, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "tail 17",          5,   17,  1, SPEY_NORM_LAYER, SPEY_F32, 1, true,  1, false, true,  true,  0, 1e-6f, 0, 1, 0 },
    { "tail 63",          2,   63,  1, SPEY_NORM_RMS,   SPEY_F32, 5, false, 0, true,  true,  false, 1, 1e-6f, 0, 1, 0 },
    { "tail 65",          2,   65,  1, SPEY_NORM_LAYER, SPEY_F32, 5, false, 0, true,  true,  true,  1, 1e-6f, 0, 1, 0 },
    { "no weight",        4,   96,  1, SPEY_NORM_RMS,   SPEY_F32, 0, false, 0, false, false, false, 0, 1e-6f, 0, 1, 0 },
    { "no weight",        4,   96,  1, SPEY_NORM_LAYER, SPEY_F32, 0, false, 0, false, false, true,  .5f, 1e-6f, 0, 1, 0 },
    { "bias ignored",     4,   96,  1, SPEY_NORM_RMS,   SPEY_F32, 0, false, 0, false, true,  true,  0, 1e-6f, 0, 1, 0 },
    { "no bias",          4,   96,  1, SPEY_NORM_LAYER, SPEY_F32, 0, false, 0, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "sum in x",         7,  128,  1, SPEY_NORM_RMS,   SPEY_F32, 2, true,  2, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "sum in residual",  7,  128,  1, SPEY_NORM_RMS,   SPEY_F32, 2, true,  3, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "sum, no residual", 3,   72,  1, SPEY_NORM_LAYER, SPEY_F32, 2, false, 1, false, true,  true,  0, 1e-6f, 0, 1, 0 },
    { "residual, no sum", 3,   72,  1, SPEY_NORM_LAYER, SPEY_F32, 2, true,  0, true,  true,  true,  0, 1e-6f, 0, 1, 0 },
    { "QK norm",          6,   64, 10, SPEY_NORM_RMS,   SPEY_F32, 9, false, 0, true,  true,  false, 0, 1e-6f, 0, 1, 0 },
    { "QK norm, odd",     6,   19,  3, SPEY_NORM_RMS,   SPEY_F32, 9, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "QK layer norm",    6,  128,  4, SPEY_NORM_LAYER, SPEY_F32, 9, false, 0, true,  true,  true,  0, 1e-6f, 0, 1, 0 },
    { "far from zero",    3,  256,  1, SPEY_NORM_LAYER, SPEY_F32, 0, false, 0, false, true,  true,  0, 1e-6f, 100, 1, 0 },
    { "wide",             2, 4096,  1, SPEY_NORM_RMS,   SPEY_F32, 0, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "wide",             2, 5003,  1, SPEY_NORM_LAYER, SPEY_F32, 0, true,  2, false, true,  true,  0, 1e-6f, 1, 1, 0 },
    { "large values",     2,  512,  1, SPEY_NORM_RMS,   SPEY_F32, 0, false, 0, false, true,  false, 0, 1e-6f, 0, 1e15, 0 },
    { "many rows",       67,   48,  1, SPEY_NORM_RMS,   SPEY_F32, 0, true,  2, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "bf16",             9,  256,  1, SPEY_NORM_RMS,   SPEY_BF16, 8, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "bf16",             9,   72,  1, SPEY_NORM_LAYER, SPEY_BF16, 8, true,  2, false, true,  true,  0, 1e-6f, 0, 1, 0 },
    { "f16",              9, 2048,  1, SPEY_NORM_RMS,   SPEY_F16,  8, true,  1, false, true,  false, 1, 1e-6f, 0, 1, 0 },
    { "bf16 QK norm",     9,  128,  8, SPEY_NORM_RMS,   SPEY_BF16, 8, false, 0, true,  true,  false, 0, 1e-6f, 0, 1, 0 },
    { "bf16 odd",         9,   37,  3, SPEY_NORM_RMS,   SPEY_BF16, 1, true,  3, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    /* One past and at the tiles of GPU rows, which hold a row in registers. */
    { "bf16 tile",        3, 1024,  1, SPEY_NORM_RMS,   SPEY_BF16, 8, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "bf16 tile",        3, 4096,  1, SPEY_NORM_RMS,   SPEY_BF16, 8, true,  2, false, true,  false, 0, 1e-6f, 0, 1, 0 },
    { "bf16 tile",        2, 8192,  1, SPEY_NORM_LAYER, SPEY_BF16, 0, true,  3, false, true,  true,  0, 1e-6f, 0, 1, 0 },
    { "bf16 tile",        2, 8200,  1, SPEY_NORM_LAYER, SPEY_BF16, 0, false, 0, true,  true,  true,  0, 1e-6f, 1, 1, 0 },
    { "f16 tile",         2, 32768, 1, SPEY_NORM_RMS,   SPEY_F16,  0, true,  1, false, true,  false, 1, 1e-6f, 0, 1, 0 },
    { "bf16 long",        2, 32776, 1, SPEY_NORM_LAYER, SPEY_BF16, 0, true,  2, false, true,  true,  0, 1e-6f, 1, 1, 0 },
    { "long",             2, 16385, 1, SPEY_NORM_RMS,   SPEY_F32,  1, true,  3, false, true,  true,  0, 1e-6f, 0, 1, 0 },
    { "wide stream",      5, 1024,  1, SPEY_NORM_RMS,   SPEY_BF16, 8, true,  3, false, true,  false, 0, 1e-6f, 0, 1, 7 },
    { "wide stream",      3, 4104,  1, SPEY_NORM_LAYER, SPEY_F16,  8, true,  2, false, true,  true,  0, 1e-6f, 0, 1, 7 },
    { "wide x",           5,   72,  1, SPEY_NORM_RMS,   SPEY_BF16, 8, false, 0, false, true,  false, 0, 1e-6f, 0, 1, 1 },
    { "wide x, odd",      5,   37,  1, SPEY_NORM_RMS,   SPEY_F16,  1, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 1 },
    { "wide residual",    5,  512,  1, SPEY_NORM_LAYER, SPEY_BF16, 8, true,  3, true,  true,  true,  0, 1e-6f, 0, 1, 6 },
    { "wide sum, out",    5,   96,  1, SPEY_NORM_RMS,   SPEY_F16,  8, true,  1, false, true,  false, 0, 1e-6f, 0, 1, 12 },
    { "rounded",          5,   40,  1, SPEY_NORM_RMS,   SPEY_F32,  8, false, 0, false, true,  false, 0, 1e-6f, 0, 1, 16 },
    { "rounded",          5,   72,  1, SPEY_NORM_LAYER, SPEY_BF16, 8, true,  3, false, true,  true,  0, 1e-6f, 0, 1, 32 + 6 },
    { "rounded",          9,  256,  1, SPEY_NORM_RMS,   SPEY_BF16, 8, true,  3, false, true,  false, 1, 1e-6f, 0, 1, 16 + 6 },
    { "rounded",          3, 1024,  1, SPEY_NORM_LAYER, SPEY_F16,  1, false, 0, false, true,  true,  0, 1e-6f, 0, 1, 16 },
    { "rounded",          3, 4096,  1, SPEY_NORM_RMS,   SPEY_BF16, 0, true,  3, false, true,  false, 0, 1e-6f, 0, 1, 16 + 7 },
    { "rounded",          2, 8192,  1, SPEY_NORM_RMS,   SPEY_BF16, 0, true,  3, false, true,  false, 0, 1e-6f, 0, 1, 16 + 6 },
    { "rounded",          2, 8200,  1, SPEY_NORM_LAYER, SPEY_BF16, 0, false, 1, false, false, true,  0, 1e-6f, 1, 1, 16 },
    { "rounded, long",    2, 32776, 1, SPEY_NORM_RMS,   SPEY_BF16, 0, true,  3, false, true,  false, 0, 1e-6f, 0, 1, 16 + 6 },
    { "wide out, long",   2, 32776, 1, SPEY_NORM_RMS,   SPEY_BF16, 0, false, 0, false, true,  false, 0, 1e-6f, 0, 1, 8 },
};
/* clang-format on */

static spey_dtype dtype_of(const struct norm_case *k, int operand)
{
    if (operand == 3 && k->wide >= 16) return SPEY_E4M3;
    return k->wide >> operand & 1 ? SPEY_F32 : k->dtype;
}

static void make_norm(check *c, const struct norm_case *k, spey_norm_args *a)
{
    int64_t width = k->cols * k->groups, part = check_part(c), first = part ? part - 1 : 0;
    *a = (spey_norm_args){ .rows = part ? 1 : k->rows,
                           .cols = k->cols,
                           .groups = k->groups,
                           .kind = k->kind,
                           .x_dtype = dtype_of(k, 0),
                           .residual_dtype = dtype_of(k, 1),
                           .sum_dtype = dtype_of(k, 2),
                           .out_dtype = dtype_of(k, 3),
                           .x_pitch = width + k->pad,
                           .residual_pitch = width + 2 * k->pad,
                           .sum_pitch = width + 3 * k->pad,
                           .out_pitch = width + (k->wide >= 16 ? 8 : 4) * k->pad,
                           .out_quant = k->wide & 16   ? SPEY_INPUT_TOKEN
                                        : k->wide & 32 ? SPEY_INPUT_STATIC
                                                       : SPEY_INPUT_AS_IS,
                           .weight_offset = k->offset,
                           .eps = k->eps };
    check_buffer *x =
        check_matrix(c, "x", a->x_dtype, k->rows, width, a->x_pitch, k->center, k->scale);
    check_bind(c, &a->x, x, first * a->x_pitch);
    check_buffer *residual = NULL;
    if (k->residual) {
        residual = check_matrix(c, "residual", a->residual_dtype, k->rows, width, a->residual_pitch,
                                0, k->scale);
        check_bind(c, &a->residual, residual, first * a->residual_pitch);
    }
    if (k->weight)
        check_bind(c, &a->weight, check_matrix(c, "weight", SPEY_F32, 1, k->cols, k->cols, 1, 0.5),
                   0);
    if (k->bias)
        check_bind(c, &a->bias, check_matrix(c, "bias", SPEY_F32, 1, k->cols, k->cols, 0, 1), 0);
    if (k->sum) {
        a->sum_pitch = k->sum == 2 ? a->x_pitch : k->sum == 3 ? a->residual_pitch : a->sum_pitch;
        int64_t n = k->rows ? (k->rows - 1) * a->sum_pitch + width : 0;
        check_buffer *sum = k->sum == 2   ? x
                            : k->sum == 3 ? residual
                                          : check_buffer_new(c, "sum", a->sum_dtype, n);
        check_bind(c, &a->sum, sum, first * a->sum_pitch);
        check_output(c, sum, first * a->sum_pitch, a->rows, width, a->sum_pitch);
    }
    if (k->in_place) a->out_pitch = a->x_pitch;
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + width : 0;
    check_buffer *out = k->in_place ? x : check_buffer_new(c, "out", a->out_dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, width, a->out_pitch);
    if (k->wide >= 16) check_out_scale(c, &a->out_scale, a->out_quant, k->rows, first, a->rows, 1);
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    const struct norm_case *k = &cases[index];
    if (check_part(c) > 3 || check_part(c) > k->rows) return false;
    check_name(c, "%s, %s %lldx%lldx%lld %s", k->what, k->kind == SPEY_NORM_RMS ? "rms" : "layer",
               (long long)k->rows, (long long)k->groups, (long long)k->cols,
               spey_dtype_name(k->dtype));
    make_norm(c, k, args);
    return true;
}

/* The bounds of row r are of its values: make them of its elements. */
static void round_bounds(check *c, const spey_norm_args *a, int64_t r, double row_error)
{
    check_buffer *out = check_bound_to(c, &a->out), *scales = check_bound_to(c, &a->out_scale);
    const bool by_token = a->out_quant == SPEY_INPUT_TOKEN;
    const double scale = by_token ? check_reference(scales, r) : check_get(scales, 0);
    if (by_token) check_set_bound(scales, r, check_scale_error(scale, row_error));
    for (int64_t i = 0; i < a->cols; i++) {
        int64_t at = r * a->out_pitch + i;
        check_set_bound(out, at,
                        check_e4m3_error(check_reference(out, at), scale, check_bound(out, at),
                                         by_token ? row_error : 0));
    }
}

/* docs/numerics.md, "Norms". */
static void bound_group(check *c, const spey_norm_args *a, int64_t r, int64_t group)
{
    check_buffer *out = check_bound_to(c, &a->out);
    const double u = 0x1p-24, n = (double)a->cols;
    const spey_dtype t = a->x_dtype, t_residual = a->residual_dtype;
    const char *x =
        (const char *)a->x + (size_t)(r * a->x_pitch + group * a->cols) * spey_dtype_bytes(t);
    const char *y = (const char *)a->residual;
    if (y) y += (size_t)(r * a->residual_pitch + group * a->cols) * spey_dtype_bytes(t_residual);
    double sum = 0, absolute = 0, square = 0;
    for (int64_t i = 0; i < a->cols; i++) {
        double s = check_scalar(x, t, i) + (y ? check_scalar(y, t_residual, i) : 0);
        sum += s;
        absolute += fabs(s);
        square += s * s;
    }
    bool layer = a->kind == SPEY_NORM_LAYER;
    double mean = layer ? sum / n : 0, variance = square / n - mean * mean;
    if (variance < 0) variance = 0;
    double scale = 1 / sqrt(variance + (double)a->eps);
    /* mean: n additions of values of mean size absolute / n; s itself is rounded once when there is a residual. */
    double mean_error = layer ? (n + 2) * u * absolute / n : 0;
    double largest = 0;
    for (int64_t i = 0; i < a->cols; i++)
        largest = fmax(largest, fabs(check_scalar(x, t, i)) +
                                    (y ? fabs(check_scalar(y, t_residual, i)) : 0));
    double s_error = y ? u * largest : 0, d_error = s_error + mean_error + 2 * u * largest * layer;
    /* variance: n additions of squares, each d off by d_error. */
    double spread = sqrt(variance);
    double variance_error = (n + 4) * u * variance + 2 * spread * d_error + d_error * d_error;
    double scale_error = 0.5 * variance_error / (variance + (double)a->eps) + 4 * u; /* relative */
    double row_error = 0;
    for (int64_t i = 0; i < a->cols; i++) {
        int64_t at = r * a->out_pitch + group * a->cols + i;
        double s = check_scalar(x, t, i) + (y ? check_scalar(y, t_residual, i) : 0);
        double w = fabs(a->weight ? (double)a->weight[i] : 1) + fabs((double)a->weight_offset);
        double b = layer && a->bias ? fabs((double)a->bias[i]) : 0;
        double main = fabs(s - mean) * scale * w;
        double bound = main * (scale_error + 4 * u) + d_error * scale * w + u * (b + main);
        row_error = fmax(row_error, bound);
        check_set_bound(out, at,
                        a->out_dtype == SPEY_E4M3
                            ? bound
                            : bound + check_rounding(a->out_dtype, check_reference(out, at)));
    }
    if (a->out_dtype == SPEY_E4M3) round_bounds(c, a, r, row_error);
}

static void bound(check *c, const void *args)
{
    const spey_norm_args *a = args;
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t group = 0; group < a->groups; group++)
            bound_group(c, a, r, group);
}

static bool bench(check *c, int index, void *args)
{
    static const struct norm_case shapes[] = {
        { "decode", 1, 4096, 1, SPEY_NORM_RMS, SPEY_F32, 0, true, 2, false, true, false, 0, 1e-6f,
          0, 1, 0 },
        { "prefill", 512, 4096, 1, SPEY_NORM_RMS, SPEY_F32, 0, true, 2, false, true, false, 0,
          1e-6f, 0, 1, 0 },
        { "prefill", 512, 4096, 1, SPEY_NORM_LAYER, SPEY_F32, 0, false, 0, false, true, true, 0,
          1e-6f, 0, 1, 0 },
        { "prefill QK", 512, 128, 32, SPEY_NORM_RMS, SPEY_F32, 0, false, 0, true, true, false, 0,
          1e-6f, 0, 1, 0 },
        { "prefill", 512, 4096, 1, SPEY_NORM_RMS, SPEY_BF16, 0, true, 2, false, true, false, 0,
          1e-6f, 0, 1, 0 },
        { "wide prefill", 2048, 4096, 1, SPEY_NORM_RMS, SPEY_BF16, 0, true, 2, false, true, false,
          0, 1e-6f, 0, 1, 7 },
    };
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const struct norm_case *k = &shapes[index];
    check_name(c, "%s %s %lldx%lldx%lld %s", k->what, k->kind == SPEY_NORM_RMS ? "rms" : "layer",
               (long long)k->rows, (long long)k->groups, (long long)k->cols,
               spey_dtype_name(k->dtype));
    make_norm(c, k, args);
    const spey_norm_args *a = args;
    double n = (double)(k->rows * k->cols * k->groups);
    size_t bytes = spey_dtype_bytes(a->x_dtype) + spey_dtype_bytes(a->out_dtype);
    if (k->residual) bytes += spey_dtype_bytes(a->residual_dtype) + spey_dtype_bytes(a->sum_dtype);
    check_work(c, n * (double)bytes, 5 * n);
    return true;
}

const check_op check_norm = { sizeof(spey_norm_args), make, bound, bench };
