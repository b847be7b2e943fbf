#include <math.h>

#include "check.h"
#include "check_activation.h"
#include "kernels/gemm/gemm.h"
#include "kernels/scalar.h"

typedef struct gemm_case {
    const char *what;
    int64_t rows, n, k;
    spey_dtype x, w, y;
    spey_precision precision;
    int64_t pad; /* of every pitch, each by another amount */
    bool bias;
    spey_activation activation;
    double scale; /* of x */
    spey_input_quant x_quant;
    bool one_scale; /* of all of w */
} gemm_case;

#define F32 SPEY_F32
#define F16 SPEY_F16
#define BF16 SPEY_BF16
#define E4M3 SPEY_E4M3
#define AS_IS SPEY_INPUT_AS_IS
#define TOKEN SPEY_INPUT_TOKEN
#define STATIC SPEY_INPUT_STATIC
#define EXACT SPEY_PRECISION_F32
#define ROUND SPEY_PRECISION_16

/* clang-format off */
static const gemm_case cases[] = {
    { "k 0",             3,    9,    0, F32, F32,  F32,  EXACT, 3, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "k 0",             3,    9,    0, F32, BF16, F32,  ROUND, 3, true,  SPEY_ACT_SILU,  1, AS_IS, false },
    { "k blocks",        7,   21, 1024, F32, F32,  F32,  EXACT, 0, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "k blocks",        7,   21, 1025, F32, BF16, F32,  EXACT, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "k blocks",        7,   21, 2047, F32, F16,  F32,  EXACT, 1, true,  SPEY_ACT_GELU,  .1, AS_IS, false },
    { "k blocks",       13,   18, 2048, F32, BF16, F32,  ROUND, 0, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "k blocks",       13,   18, 2049, F32, BF16, F32,  ROUND, 1, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "k blocks",        2,   18, 5000, F32, BF16, F32,  ROUND, 0, true,  SPEY_ACT_SILU,  .1, AS_IS, false },
    { "k blocks",        2,   18, 5000, F32, F32,  F32,  EXACT, 2, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "many outputs",    1, 1203,   64, F32, BF16, F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "many outputs",    5, 1203,   64, F32, F32,  F32,  EXACT, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "many rows",      70,  150,   96, F32, BF16, F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "many rows",      70,  150,   96, F32, BF16, F32,  EXACT, 0, false, SPEY_ACT_RELU,  1, AS_IS, false },
    { "many rows",     200,   67,   33, F32, F16,  F32,  EXACT, 5, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "x beyond stack", 30,   40, 1000, F32, BF16, F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "large values",    4,    8,   40, F32, F32,  F32,  EXACT, 0, true,  SPEY_ACT_NONE,  1e18, AS_IS, false },
    { "x is rounded",    1,   39, 1024, BF16, BF16, F32,  ROUND, 0, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "x is rounded",   13,   18, 2049, BF16, BF16, F32,  ROUND, 1, true,  SPEY_ACT_SILU,  1, AS_IS, false },
    { "x is rounded",   29,   70,   33, BF16, E4M3, F32,  ROUND, 1, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "devices",         1,   64,  128, BF16, BF16, BF16, ROUND, 8, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "devices",        17,   72,  136, BF16, BF16, BF16, ROUND, 8, true,  SPEY_ACT_GELU_TANH, 1, AS_IS, false },
    { "devices",        33,   40,  256, F16,  F16,  F16,  ROUND, 0, false, SPEY_ACT_SILU,  1, AS_IS, false },
    { "devices",       130,  264,   64, BF16, BF16, F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "devices",         3,   56,   72, F32,  F32,  F32,  EXACT, 0, true,  SPEY_ACT_RELU2, 1, AS_IS, false },
    { "k 0",             3,    9,    0, F32, E4M3, F32,  ROUND, 3, true,  SPEY_ACT_SILU,  1, AS_IS, false },
    { "k blocks",        7,   21, 1025, F32, E4M3, F32,  EXACT, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "k blocks",       13,   18, 2049, F32, E4M3, F32,  ROUND, 1, true,  SPEY_ACT_NONE,  1, AS_IS, true },
    { "k blocks",        2,   18, 5000, F32, E4M3, F32,  ROUND, 0, true,  SPEY_ACT_SILU,  .1, AS_IS, false },
    { "many outputs",    1, 1203,   64, F32, E4M3, F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "many rows",      70,  150,   96, F32, E4M3, F32,  EXACT, 0, false, SPEY_ACT_RELU,  1, AS_IS, true },
    { "many rows",     200,   67,  133, F32, E4M3, F32,  ROUND, 5, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "quantized x",     5,   24,  160, F32, E4M3, F32,  EXACT, 3, true,  SPEY_ACT_NONE, .1, TOKEN, false },
    { "quantized x",     5,   24,  160, F32, E4M3, F32,  EXACT, 3, false, SPEY_ACT_NONE, 20, STATIC, false },
    { "devices",         1,   64,  128, BF16, E4M3, BF16, ROUND, 16, true, SPEY_ACT_NONE,  1, TOKEN, false },
    { "devices",        17,   80,  144, BF16, E4M3, BF16, ROUND, 16, true, SPEY_ACT_GELU_TANH, 1, TOKEN, false },
    { "devices",        33,   48,  256, F16,  E4M3, F16,  ROUND, 0, false, SPEY_ACT_SILU,  1, STATIC, false },
    { "devices",       130,  272,   64, BF16, E4M3, F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, STATIC, true },
    { "devices",       130,  272,   64, BF16, E4M3, F32,  ROUND, 0, false, SPEY_ACT_NONE,  1, TOKEN, true },
    { "devices",         9,   32, 4096, BF16, E4M3, BF16, ROUND, 0, false, SPEY_ACT_NONE,  1, TOKEN, false },
    { "devices",         3,   33,  100, BF16, E4M3, BF16, ROUND, 0, true,  SPEY_ACT_NONE,  1, TOKEN, false },
    { "rounded x",       5,   24,  160, E4M3, E4M3, F32,  EXACT, 3, true,  SPEY_ACT_NONE,  1, TOKEN, false },
    { "rounded x",       5,   24,  160, E4M3, E4M3, F32,  EXACT, 3, false, SPEY_ACT_SILU,  1, STATIC, false },
    { "devices",         1,   64,  128, E4M3, E4M3, BF16, ROUND, 16, true, SPEY_ACT_GELU,  1, TOKEN, false },
    { "devices",        33,   80,  144, E4M3, E4M3, BF16, ROUND, 16, false, SPEY_ACT_NONE, 1, TOKEN, false },
    { "devices",       640,   48,  160, E4M3, E4M3, BF16, ROUND, 0, false, SPEY_ACT_NONE,  1, TOKEN, false },
    { "devices",       640,   48,  160, E4M3, E4M3, BF16, ROUND, 0, true,  SPEY_ACT_NONE,  1, TOKEN, true },
    { "devices",        40,   48,  256, E4M3, E4M3, BF16, ROUND, 0, false, SPEY_ACT_NONE,  1, STATIC, true },
    { "devices",        40,   48,  256, E4M3, E4M3, F16,  ROUND, 0, true,  SPEY_ACT_NONE,  1, STATIC, false },
    { "devices",        17,   48,  256, E4M3, E4M3, F32,  ROUND, 16, false, SPEY_ACT_NONE, 1, TOKEN, false },
    { "few rows",        1, 2224, 2064, BF16, E4M3, BF16, ROUND, 16, true,  SPEY_ACT_SILU,  1, TOKEN, false },
    { "few rows",        2,   48, 14336, BF16, E4M3, F32, ROUND, 0, false, SPEY_ACT_NONE,  1, TOKEN, true },
    { "few rows",        3,   32,   64, BF16, E4M3, F32,  ROUND, 8, true,  SPEY_ACT_NONE,  0, TOKEN, false },
    { "few rows",        5, 2224,  272, F32,  E4M3, F16,  ROUND, 0, true,  SPEY_ACT_NONE,  1, STATIC, false },
    { "few rows",        8,  144, 4096, F16,  E4M3, F16,  ROUND, 0, false, SPEY_ACT_GELU,  1, TOKEN, false },
    { "few rows",        7,   16, 9232, BF16, E4M3, BF16, ROUND, 8, false, SPEY_ACT_NONE,  1, STATIC, true },
    { "few rows",        1, 2217, 1032, BF16, BF16, BF16, ROUND, 8, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "few rows",        1,   21, 32768, BF16, BF16, F32, ROUND, 0, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "few rows",        3, 2120,  520, F32,  BF16, F32,  ROUND, 8, true,  SPEY_ACT_GELU_TANH, 1, AS_IS, false },
    { "few rows",        4,   33, 1544, F16,  F16,  F16,  ROUND, 0, false, SPEY_ACT_SILU,  1, AS_IS, false },
    { "few rows",        8,   40, 8192, BF16, BF16, BF16, ROUND, 0, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "few rows",        6, 4240,   40, BF16, BF16, F32,  ROUND, 0, true,  SPEY_ACT_RELU,  1, AS_IS, false },
    { "few rows",        1, 2224, 2064, E4M3, E4M3, BF16, ROUND, 16, true,  SPEY_ACT_SILU,  1, TOKEN, false },
    { "few rows",        7,  144, 4112, E4M3, E4M3, BF16, ROUND, 0, false, SPEY_ACT_NONE,  1, TOKEN, true },
    { "few rows",        8,   48, 2048, E4M3, E4M3, F32,  ROUND, 0, false, SPEY_ACT_NONE,  1, STATIC, false },
    { "router",          9,   16,   72, BF16, F32,  F32,  ROUND, 8, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "router",         70,  131, 1032, BF16, F32,  F32,  ROUND, 0, true,  SPEY_ACT_NONE,  1, AS_IS, false },
    { "router",         13,    8,  520, F16,  F32,  F32,  ROUND, 8, false, SPEY_ACT_NONE,  1, AS_IS, false },
    { "router",          1,  128, 2048, F32,  F32,  F32,  EXACT, 0, false, SPEY_ACT_SIGMOID, 1, AS_IS, false },
    { "router",          5,    1,   37, F16,  F32,  F16,  ROUND, 1, true,  SPEY_ACT_SIGMOID, 1, AS_IS, false },
};
/* clang-format on */

/* And glu of the halves. */
typedef struct gated_case {
    gemm_case product;
    spey_dtype out;
    spey_input_quant out_quant;
    spey_activation activation;
    float limit, up_offset;
} gated_case;

/* clang-format off */
static const gated_case gated_cases[] = {
    { { "few rows",  1, 2224, 2064, BF16, E4M3, BF16, ROUND, 16, true,  SPEY_ACT_NONE, 1, TOKEN,  false }, E4M3, STATIC, SPEY_ACT_SILU, 0, 0 },
    { { "few rows",  3,  144, 4096, E4M3, E4M3, BF16, ROUND, 0,  false, SPEY_ACT_NONE, 1, STATIC, true },  E4M3, STATIC, SPEY_ACT_SILU, 0, 0 },
    { { "few rows",  4,  144, 4096, BF16, E4M3, BF16, ROUND, 0,  false, SPEY_ACT_NONE, 1, TOKEN,  false }, E4M3, TOKEN,  SPEY_ACT_SILU, 0, 0 },
    { { "few rows",  8,   80,  520, BF16, BF16, BF16, ROUND, 8,  true,  SPEY_ACT_NONE, 1, AS_IS,  false }, BF16, AS_IS,  SPEY_ACT_SILU, 20, 1 },
    { { "few rows",  2,   48, 1032, F16,  F16,  F16,  ROUND, 0,  false, SPEY_ACT_NONE, 1, AS_IS,  false }, F16,  AS_IS,  SPEY_ACT_GELU_TANH, 0, 0 },
    { { "few rows",  1, 4470,  264, BF16, BF16, BF16, ROUND, 0,  false, SPEY_ACT_NONE, 1, AS_IS,  false }, BF16, AS_IS,  SPEY_ACT_RELU, 0, 0 },
    { { "many rows", 17,  96,  256, BF16, BF16, BF16, ROUND, 8,  true,  SPEY_ACT_NONE, 1, AS_IS,  false }, BF16, AS_IS,  SPEY_ACT_SILU, 0, -.5f },
    { { "many rows", 33,  96,  256, BF16, E4M3, BF16, ROUND, 0,  false, SPEY_ACT_NONE, 1, STATIC, true },  E4M3, STATIC, SPEY_ACT_SILU, 0, 0 },
    { { "k 0",        3,  32,    0, BF16, BF16, BF16, ROUND, 8,  true,  SPEY_ACT_NONE, 1, AS_IS,  false }, BF16, AS_IS,  SPEY_ACT_SILU, 0, 0 },
};
/* clang-format on */
enum {
    N_LISTED = sizeof cases / sizeof cases[0],
    N_GATED = sizeof gated_cases / sizeof gated_cases[0],
    N_MIXED = 156
};

/* Sizes around every tile and vector, in combinations that no table would list. The counts are mutually prime with the
 * strides, so every size meets every weight type. */
static gemm_case mixed_case(int i)
{
    static const int64_t rows[] = { 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 25, 64 };
    static const int64_t ns[] = { 0, 1, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 65 };
    static const int64_t ks[] = {
        1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 95, 127, 129
    };
    static const struct {
        spey_dtype w;
        spey_precision precision;
    } types[] = { { F32, EXACT },  { F16, EXACT }, { BF16, EXACT }, { BF16, ROUND },
                  { E4M3, EXACT }, { F16, ROUND }, { E4M3, ROUND } };
    return (gemm_case){ "mixed",
                        rows[i % 12],
                        ns[(i * 5 + i / 12) % 13],
                        ks[(i * 7 + i / 13) % 17],
                        F32,
                        types[(i + i / 7) % 7].w,
                        F32,
                        types[(i + i / 7) % 7].precision,
                        i % 3 * 3,
                        i % 2 == 0,
                        (spey_activation)(i / 2 % SPEY_ACT_COUNT),
                        1,
                        SPEY_INPUT_AS_IS,
                        i % 3 == 0 };
}

/* Parts: single rows and a run of some, at other places than in the whole. */
static bool part_rows(int part, int64_t rows, int64_t *first, int64_t *count)
{
    const int64_t at[] = { 0, 0, rows / 2, rows - 1, 1 };
    if (part > 4 || (part > 0 && rows < 2)) return false;
    *first = at[part];
    *count = part == 0 ? rows : part < 4 ? 1 : rows > 9 ? 8 : rows - 1;
    return true;
}

static int64_t part_first(const check *c, int64_t rows)
{
    int64_t first = 0, count;
    part_rows(check_part(c), rows, &first, &count);
    return first;
}

/* Of the weights near 1; of x so that the largest magnitudes saturate. */
static void make_scales(check *c, const gemm_case *k, spey_gemm_args *a, int64_t first)
{
    a->w_scale_step = k->one_scale ? 0 : 1;
    int64_t n = k->one_scale ? 1 : k->n;
    check_bind(c, &a->w_scale, check_matrix(c, "w_scale", F32, 1, n, n, 1, 0.1), 0);
    a->x_quant = k->x_quant;
    if (k->x == E4M3 && k->x_quant == SPEY_INPUT_TOKEN)
        check_bind(c, &a->x_scale, check_matrix(c, "x_scale", F32, 1, k->rows, k->rows, 1, 0.3),
                   first);
    if (k->x_quant != SPEY_INPUT_STATIC) return;
    check_buffer *x_scale = check_buffer_new(c, "x_scale", F32, 1);
    check_set(x_scale, 0, k->scale * 2.5 / (double)SPEY_E4M3_MAX);
    check_bind(c, &a->x_scale, x_scale, 0);
}

static bool make_gemm(check *c, const gemm_case *k, spey_gemm_args *a)
{
    int64_t first, count;
    if (!part_rows(check_part(c), k->rows, &first, &count)) return false;
    *a = (spey_gemm_args){ .rows = count,
                           .n = k->n,
                           .k = k->k,
                           .x_dtype = k->x,
                           .x_pitch = k->k + k->pad,
                           .w_dtype = k->w,
                           .w_pitch = k->k + 2 * k->pad,
                           .activation = k->activation,
                           .precision = k->precision,
                           .y_dtype = k->y,
                           .y_pitch = k->n + 3 * k->pad };
    check_buffer *x = check_matrix(c, "x", k->x, k->rows, k->k, a->x_pitch, 0, k->scale);
    check_bind(c, &a->x, x, first * a->x_pitch);
    check_bind(c, &a->w, check_matrix(c, "w", k->w, k->n, k->k, a->w_pitch, 0.1, 1), 0);
    if (k->w == E4M3) make_scales(c, k, a, first);
    if (k->bias)
        check_bind(c, &a->bias, check_matrix(c, "bias", F32, 1, k->n, k->n, 0, 1 + k->scale), 0);
    check_buffer *y =
        check_buffer_new(c, "y", k->y, k->rows && k->n ? (k->rows - 1) * a->y_pitch + k->n : 0);
    check_bind(c, &a->y, y, first * a->y_pitch);
    check_output(c, y, first * a->y_pitch, count, k->n, a->y_pitch);
    check_workspace(c, &a->workspace);
    static const char *const quants[] = { "", " by token", " static" };
    check_name(c, "%s, %lldx%lldx%lld %s·%s %s%s%s%s %s", k->what, (long long)k->rows,
               (long long)k->n, (long long)k->k, spey_dtype_name(k->x), spey_dtype_name(k->w),
               k->precision == EXACT ? "exact" : "rounded", quants[k->x_quant],
               k->w == E4M3 && k->one_scale ? " one scale" : "", k->bias ? " bias" : "",
               k->activation ? "activated" : "");
    return true;
}

/* y may be written or not: any number is right. */
static bool make_gated(check *c, const gated_case *k, spey_gemm_args *a)
{
    if (!make_gemm(c, &k->product, a)) return false;
    const int64_t rows = k->product.rows, cols = k->product.n / 2, pad = k->product.pad;
    check_buffer *y = check_bound_to(c, &a->y);
    const int64_t first = part_first(c, rows);
    check_fill(c, y, 0, rows, a->n, a->y_pitch, 0, 1);
    a->glu = (spey_glu_args){ .rows = a->rows,
                              .cols = cols,
                              .activation = k->activation,
                              .limit = k->limit,
                              .up_offset = k->up_offset,
                              .dtype = a->y_dtype,
                              .out_dtype = k->out,
                              .gate_pitch = a->y_pitch,
                              .up_pitch = a->y_pitch,
                              .out_pitch = cols + 2 * pad,
                              .out_quant = k->out_quant };
    check_bind(c, &a->glu.gate, y, first * a->y_pitch);
    check_bind(c, &a->glu.up, y, first * a->y_pitch + cols);
    check_buffer *out = check_buffer_new(c, "out", k->out, (rows - 1) * a->glu.out_pitch + cols);
    check_bind(c, &a->glu.out, out, first * a->glu.out_pitch);
    check_output(c, out, first * a->glu.out_pitch, a->rows, cols, a->glu.out_pitch);
    if (k->out == E4M3)
        check_out_scale(c, &a->glu.out_scale, k->out_quant, rows, first, a->rows, 8);
    check_name(c, "%s, %lldx%lldx%lld %s·%s glu %s", k->product.what, (long long)rows,
               (long long)a->n, (long long)a->k, spey_dtype_name(a->x_dtype),
               spey_dtype_name(a->w_dtype), spey_dtype_name(k->out));
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= N_LISTED + N_GATED + N_MIXED) return false;
    const int gated = index - N_LISTED;
    if (gated >= 0 && gated < N_GATED) return make_gated(c, &gated_cases[gated], args);
    gemm_case k = index < N_LISTED ? cases[index] : mixed_case(gated - N_GATED);
    return make_gemm(c, &k, args);
}

/* docs/numerics.md, "Sums" and "E4M3". Let m = Σ |x w| + |bias|, s² = Σ (x w)², u = 2^-24; x as it enters the product.
 *
 *   sums in FP32 in any order        4 u (√k + 1) m: roundings of independent sign, four deviations
 *   x rounded to 16 bits (u16)       6 u16 s: k independent errors of at most u16 |x w| each (deviation u16 / √3);
 *                                    a fixed sign of all would give u16 m, which no rounding of random x does
 *   x and w in E4M3 on a device      sums with 13 bits behind the point: 2^-13 in place of u; they may be rounded to a
 *                                    BF16 y before they are scaled
 *   VDPBF16PS flushes subnormals     2^-126 a product and a sum
 *   the result rounded to y's type   check_rounding
 *   glu                              of its operands, rounded or not, by the product rule; that of glu itself */

/* How far output j of row r may be off, before the activation; it is `out`. */
static double sum_error(const spey_gemm_args *a, int64_t r, int64_t j, spey_e4m3_scale scale,
                        double *out)
{
    const bool e4m3 = a->w_dtype == E4M3, quantized = a->x_quant != SPEY_INPUT_AS_IS;
    const bool rounded = a->precision == ROUND && a->w_dtype != F32 && !quantized;
    const double u = quantized ? 0x1p-13 : 0x1p-24;
    const double w_scale = e4m3 ? (double)a->w_scale[j * a->w_scale_step] : 1;
    double sum = 0, m = 0, s2 = 0;
    for (int64_t i = 0; i < a->k; i++) {
        double p = spey_load_input(a->x, a->x_dtype, r * a->x_pitch + i, scale) * w_scale *
                   check_scalar(a->w, a->w_dtype, j * a->w_pitch + i);
        sum += p;
        m += fabs(p);
        s2 += p * p;
    }
    double b = a->bias ? (double)a->bias[j] : 0;
    double error = 4 * u * (sqrt((double)a->k) + 1) * m + 8 * 0x1p-24 * fabs(b) +
                   (double)a->k * 0x1p-125 * (e4m3 ? 256 : 1);
    if (quantized && a->y_dtype == BF16) error += check_unit(BF16) * fabs(sum);
    if (rounded) error += 6 * check_unit(e4m3 ? BF16 : a->w_dtype) * sqrt(s2);
    *out = sum + b;
    return error;
}

static double gated_error(const spey_gemm_args *a, int64_t r, int64_t j, spey_e4m3_scale scale)
{
    const double limit = (double)a->glu.limit;
    double gate, up;
    double gate_error = sum_error(a, r, j, scale, &gate);
    double up_error = sum_error(a, r, a->n / 2 + j, scale, &up);
    gate_error += check_rounding(a->y_dtype, gate);
    up_error += check_rounding(a->y_dtype, up);
    if (limit > 0) {
        gate = fmin(gate, limit);
        up = fmax(-limit, fmin(up, limit));
    }
    up = fabs(up + (double)a->glu.up_offset);
    const double factor = fabs(spey_activate(a->glu.activation, gate));
    const double factor_error = check_activation_error(a->glu.activation, gate, gate_error);
    return factor_error * (up + up_error) + factor * up_error + 0x1p-23 * factor * up;
}

static void bound_gated(check *c, const spey_gemm_args *a, int64_t r, spey_e4m3_scale x_scale)
{
    check_buffer *y = check_bound_to(c, &a->y), *out = check_bound_to(c, &a->glu.out);
    const bool e4m3 = a->glu.out_dtype == E4M3, by_token = a->glu.out_quant == TOKEN;
    double row_error = 0, scale = 1;
    for (int64_t j = 0; j < a->n; j++)
        check_set_bound(y, r * a->y_pitch + j, (double)INFINITY);
    for (int64_t j = 0; by_token && j < a->glu.cols; j++)
        row_error = fmax(row_error, gated_error(a, r, j, x_scale));
    if (e4m3) {
        check_buffer *scales = check_bound_to(c, &a->glu.out_scale);
        scale = by_token ? check_reference(scales, r) : check_get(scales, 0);
        if (by_token) check_set_bound(scales, r, check_scale_error(scale, row_error));
    }
    for (int64_t j = 0; j < a->glu.cols; j++) {
        const int64_t at = r * a->glu.out_pitch + j;
        const double reference = check_reference(out, at);
        const double error = gated_error(a, r, j, x_scale);
        check_set_bound(out, at,
                        e4m3 ? check_e4m3_error(reference, scale, error, row_error)
                             : error + check_rounding(a->glu.out_dtype, reference));
    }
}

static void bound(check *c, const void *args)
{
    const spey_gemm_args *a = args;
    check_buffer *y = check_bound_to(c, &a->y);
    for (int64_t r = 0; r < a->rows; r++) {
        const spey_e4m3_scale scale = spey_input_scale(a->x_quant, spey_gemm_row_scale(a, r), a->x,
                                                       a->x_dtype, r * a->x_pitch, a->k);
        if (a->glu.out) {
            bound_gated(c, a, r, scale);
            continue;
        }
        for (int64_t j = 0; j < a->n; j++) {
            const int64_t at = r * a->y_pitch + j;
            double sum;
            const double error = sum_error(a, r, j, scale, &sum);
            check_set_bound(y, at,
                            check_activation_error(a->activation, sum, error) +
                                check_rounding(a->y_dtype, check_reference(y, at)));
        }
    }
}

static bool bench(check *c, int index, void *args)
{
    static const struct {
        int64_t n, k;
    } shapes[] = { { 2048, 2048 }, { 256, 2048 },  { 5632, 2048 },
                   { 2048, 5632 }, { 8192, 2048 }, { 32000, 2048 } };
    static const int64_t rows[] = { 1, 16, 512 };
    static const struct {
        spey_dtype x, w, y;
        spey_precision precision;
        spey_input_quant x_quant;
    } types[] = { { F32, BF16, F32, ROUND, SPEY_INPUT_AS_IS },
                  { F32, F32, F32, EXACT, SPEY_INPUT_AS_IS },
                  { BF16, BF16, BF16, ROUND, SPEY_INPUT_AS_IS },
                  { F32, E4M3, F32, ROUND, SPEY_INPUT_AS_IS },
                  { BF16, E4M3, BF16, ROUND, SPEY_INPUT_TOKEN } };
    if (index >= 6 * 3 * 5) return false;
    int shape = index % 6, row = index / 6 % 3, type = index / 18;
    gemm_case k = { "bench",
                    rows[row],
                    shapes[shape].n,
                    shapes[shape].k,
                    types[type].x,
                    types[type].w,
                    types[type].y,
                    types[type].precision,
                    0,
                    false,
                    SPEY_ACT_NONE,
                    1,
                    types[type].x_quant,
                    false };
    if (!make_gemm(c, &k, args)) return false;
    double m = (double)k.rows, n = (double)k.n, kk = (double)k.k;
    check_work(c,
               n * kk * (double)spey_dtype_bytes(k.w) + m * kk * (double)spey_dtype_bytes(k.x) +
                   m * n * (double)spey_dtype_bytes(k.y),
               2 * m * n * kk);
    return true;
}

const check_op check_gemm = { sizeof(spey_gemm_args), make, bound, bench };
