#include <math.h>

#include "check.h"
#include "kernels/expert_linear/expert_linear.h"
#include "kernels/scalar.h"

typedef struct expert_case {
    const char *what;
    int64_t rows, experts, slots, n, k;
    spey_dtype x, w;
    spey_precision precision;
    bool shared, bias, routed, sum;
    int64_t pad;
    spey_input_quant x_quant;
} expert_case;

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
static const expert_case cases[] = {
    { "nothing",      0,   4, 2,   9,   8, F32,  F32,  EXACT, true,  true,  true,  false, 0, AS_IS },
    { "one token",    1,   8, 2,  48,  64, F32,  F32,  EXACT, true,  false, true,  false, 0, AS_IS },
    { "one token",    1,   8, 2,  64,  48, F32,  BF16, ROUND, false, false, true,  true,  3, AS_IS },
    { "one expert",  13,   1, 1,  17,  33, F32,  BF16, ROUND, true,  true,  true,  true,  1, AS_IS },
    { "slots",       33,   4, 2,  21,  65, F32,  F32,  EXACT, true,  true,  true,  false, 3, AS_IS },
    { "slots",       33,   4, 2,  21,  65, F32,  F32,  EXACT, false, true,  true,  false, 3, AS_IS },
    { "slots",       33,   4, 2,  21,  65, F32,  F16,  EXACT, false, true,  true,  true,  2, AS_IS },
    { "slots",       33,   4, 2,  21,  65, F32,  BF16, EXACT, true,  false, true,  true,  0, AS_IS },
    { "all experts", 19,   5, 5,  15,  31, F32,  BF16, ROUND, false, true,  true,  true,  1, AS_IS },
    { "many",        40, 128, 8,  33, 128, F32,  BF16, ROUND, true,  false, true,  false, 0, AS_IS },
    { "many",        40, 128, 8, 128,  33, F32,  BF16, ROUND, false, false, true,  true,  0, AS_IS },
    { "many rows",  150,   3, 2,  70,  96, F32,  BF16, ROUND, true,  true,  true,  false, 0, AS_IS },
    { "many rows",  150,   3, 2,  70,  96, F32,  F32,  EXACT, false, true,  true,  true,  0, AS_IS },
    { "k blocks",     9,   3, 2,  18, 2049, F32, BF16, ROUND, true,  true,  true,  false, 1, AS_IS },
    { "k blocks",     9,   3, 2,  18, 1025, F32, F32,  EXACT, true,  true,  true,  true,  1, AS_IS },
    { "wide",         2,   3, 2, 1203, 24, F32,  BF16, ROUND, true,  true,  true,  false, 0, AS_IS },
    { "wide",         2,   3, 2, 1203, 24, F32,  F32,  EXACT, true,  true,  true,  true,  0, AS_IS },
    { "heads",       21,   4, 4,  16,  24, F32,  F32,  EXACT, false, false, false, false, 0, AS_IS },
    { "heads",       21,   4, 4,  16,  24, F32,  BF16, ROUND, false, true,  false, false, 2, AS_IS },
    { "heads",       21,   4, 4,  16,  24, F32,  BF16, ROUND, true,  false, false, false, 2, AS_IS },
    { "nothing",      0,   4, 2,   9,   8, F32,  E4M3, ROUND, true,  true,  true,  false, 0, AS_IS },
    { "slots",       33,   4, 2,  21,  65, F32,  E4M3, EXACT, false, true,  true,  true,  2, AS_IS },
    { "slots",       33,   4, 2,  21,  65, F32,  E4M3, ROUND, true,  true,  true,  false, 0, AS_IS },
    { "many",        40, 128, 8,  33, 128, F32,  E4M3, ROUND, true,  false, true,  false, 0, AS_IS },
    { "heads",       21,   4, 4,  16,  24, F32,  E4M3, ROUND, false, true,  false, false, 2, AS_IS },
    { "quantized",    9,   4, 2,  16,  32, F32,  E4M3, EXACT, true,  true,  true,  false, 1, TOKEN },
    { "quantized",    9,   4, 2,  16,  32, F32,  E4M3, EXACT, false, true,  true,  true,  1, STATIC },
    { "devices",     17,   8, 2,  64, 128, BF16, E4M3, ROUND, true,  false, true,  false, 16, TOKEN },
    { "devices",     17,   8, 2, 128,  64, BF16, E4M3, ROUND, false, true,  true,  true,  0, STATIC },
    { "devices",     17,   8, 2,  64, 128, BF16, BF16, ROUND, true,  false, true,  false, 8, AS_IS },
    { "devices",     17,   8, 2, 128,  64, BF16, BF16, ROUND, false, true,  true,  true,  0, AS_IS },
    { "long k",       9,   3, 2,  72, 1096, BF16, BF16, ROUND, true,  true,  true,  false, 0, AS_IS },
    { "long k",     150,   3, 2,  72, 1096, BF16, BF16, ROUND, false, false, true,  true,  8, AS_IS },
    { "long k",      50,   3, 2,  40,  520, F16,  F16,  ROUND, true,  true,  true,  false, 8, AS_IS },
    { "long k",       9,   3, 2,  72, 1168, BF16, E4M3, ROUND, true,  true,  true,  false, 1, TOKEN },
    { "long k",     150,   3, 2,  72, 1168, BF16, E4M3, ROUND, false, false, true,  true,  8, TOKEN },
    { "long k",      50,   3, 2,  40,  520, F16,  E4M3, ROUND, true,  false, true,  false, 0, STATIC },
    { "long k",      50,   3, 2,  40,  528, BF16, E4M3, ROUND, true,  false, true,  false, 8, AS_IS },
    { "devices",      5,   4, 4,  40,  72, F16,  F16,  ROUND, false, false, false, false, 0, AS_IS },
};
/* clang-format on */

/* Weights, then experts: different ones, the first ones more often, the last one never where there is a choice. */
static check_buffer *make_routing(check *c, const expert_case *k)
{
    check_buffer *routing = check_buffer_new(c, "routing", F32, k->rows * 2 * k->slots);
    int64_t from = k->experts > k->slots ? k->experts - 1 : k->experts;
    for (int64_t r = 0; r < k->rows; r++) {
        bool taken[1024] = { false };
        for (int64_t s = 0; s < k->slots; s++) {
            double u = spey_rng_normal(check_rng(c));
            int64_t e = (int64_t)(fmin(fabs(u) / 3, 0.999) * (double)from);
            while (taken[e])
                e = (e + 1) % from;
            taken[e] = true;
            check_set(routing, (2 * r + 1) * k->slots + s, (double)e);
            check_set(routing, 2 * r * k->slots + s, 0.5 + 0.25 * spey_rng_normal(check_rng(c)));
        }
    }
    return routing;
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

static void make_scales(check *c, const expert_case *k, spey_expert_linear_args *a)
{
    check_bind(c, &a->w_scale, check_matrix(c, "w_scale", F32, k->experts, k->n, k->n, 1, 0.1), 0);
    a->x_quant = k->x_quant;
    if (k->x_quant != SPEY_INPUT_STATIC) return;
    check_buffer *x_scale = check_buffer_new(c, "x_scale", F32, 1);
    check_set(x_scale, 0, 2.5 / (double)SPEY_E4M3_MAX);
    check_bind(c, &a->x_scale, x_scale, 0);
}

static bool make_expert(check *c, const expert_case *k, spey_expert_linear_args *a)
{
    int64_t first, count;
    if (!part_rows(check_part(c), k->rows, &first, &count)) return false;
    int64_t x_cols = (k->shared ? 1 : k->slots) * k->k, y_cols = (k->sum ? 1 : k->slots) * k->n;
    *a = (spey_expert_linear_args){ .rows = count,
                                    .n_experts = k->experts,
                                    .n_slots = k->slots,
                                    .n = k->n,
                                    .k = k->k,
                                    .x_pitch = x_cols + k->pad,
                                    .x_shared = k->shared,
                                    .w_dtype = k->w,
                                    .sum = k->sum,
                                    .precision = k->precision,
                                    .dtype = k->x,
                                    .y_pitch = y_cols + 2 * k->pad };
    check_bind(c, &a->x, check_matrix(c, "x", k->x, k->rows, x_cols, a->x_pitch, 0, 1),
               first * a->x_pitch);
    check_bind(c, &a->w, check_matrix(c, "w", k->w, k->experts * k->n, k->k, k->k, 0.1, 1), 0);
    if (k->w == E4M3) make_scales(c, k, a);
    if (k->bias)
        check_bind(c, &a->bias, check_matrix(c, "bias", F32, k->experts, k->n, k->n, 0, 2), 0);
    if (k->routed) check_bind(c, &a->routing, make_routing(c, k), first * 2 * k->slots);
    check_buffer *y =
        check_buffer_new(c, "y", k->x, k->rows ? (k->rows - 1) * a->y_pitch + y_cols : 0);
    check_bind(c, &a->y, y, first * a->y_pitch);
    check_output(c, y, first * a->y_pitch, count, y_cols, a->y_pitch);
    check_workspace(c, &a->workspace);
    check_name(c, "%s, %lld rows, %lld of %lld, %lldx%lld %s·%s %s%s%s%s%s", k->what,
               (long long)k->rows, (long long)k->slots, (long long)k->experts, (long long)k->n,
               (long long)k->k, spey_dtype_name(k->x), spey_dtype_name(k->w),
               k->precision == EXACT ? "exact" : "rounded", k->shared ? " shared" : "",
               k->bias ? " bias" : "", k->routed ? " routed" : "", k->sum ? " sum" : "");
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    return make_expert(c, &cases[index], args);
}

/* What one product may be off by, as in check_gemm.c, and its value. */
static double product_error(const spey_expert_linear_args *a, int64_t row, int64_t s, int64_t j,
                            double *value)
{
    int64_t e = a->routing ? (int64_t)a->routing[(2 * row + 1) * a->n_slots + s] : s;
    int64_t x = row * a->x_pitch + (a->x_shared ? 0 : s * a->k), w = (e * a->n + j) * a->k;
    double bias = a->bias ? (double)a->bias[e * a->n + j] : 0, m = fabs(bias), s2 = 0;
    const bool e4m3 = a->w_dtype == E4M3, quantized = a->x_quant != SPEY_INPUT_AS_IS;
    const double w_scale = e4m3 ? (double)a->w_scale[e * a->n + j] : 1;
    const spey_e4m3_scale scale = spey_input_scale(a->x_quant, a->x_scale, a->x, a->dtype, x, a->k);
    *value = bias;
    for (int64_t i = 0; i < a->k; i++) {
        double p = spey_load_input(a->x, a->dtype, x + i, scale) * w_scale *
                   check_scalar(a->w, a->w_dtype, w + i);
        *value += p;
        m += fabs(p);
        s2 += p * p;
    }
    double error = 4 * (quantized ? 0x1p-13 : 0x1p-24) * (sqrt((double)a->k) + 1) * m +
                   (double)a->k * 0x1p-125 * (e4m3 ? 256 : 1);
    if (a->precision == ROUND && a->w_dtype != F32 && !quantized)
        error += 6 * check_unit(e4m3 ? BF16 : a->w_dtype) * sqrt(s2);
    return error;
}

/* A sum of slots adds the products' errors, weighted, and a rounding of each partial sum. */
static void bound(check *c, const void *args)
{
    const spey_expert_linear_args *a = args;
    check_buffer *y = check_bound_to(c, &a->y);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t j = 0; j < a->n; j++) {
            double error = 0, m = 0, value;
            for (int64_t s = 0; s < a->n_slots; s++) {
                double one = product_error(a, r, s, j, &value);
                if (!a->sum) {
                    int64_t at = r * a->y_pitch + s * a->n + j;
                    check_set_bound(y, at, one + check_rounding(a->dtype, check_reference(y, at)));
                    continue;
                }
                double weight = fabs((double)a->routing[2 * r * a->n_slots + s]);
                error += weight * one;
                m += weight * fabs(value);
            }
            if (!a->sum) continue;
            int64_t at = r * a->y_pitch + j;
            error += 0x1p-24 * (double)a->n_slots * m;
            check_set_bound(y, at, error + check_rounding(a->dtype, check_reference(y, at)));
        }
}

static bool bench(check *c, int index, void *args)
{
    /* Qwen3-30B-A3B's two layers, for a token and for a prompt; Mixtral's. */
    static const expert_case shapes[] = {
        { "bench", 1, 128, 8, 768, 2048, F32, BF16, ROUND, true, false, true, false, 0, AS_IS },
        { "bench", 1, 128, 8, 2048, 768, F32, BF16, ROUND, false, false, true, true, 0, AS_IS },
        { "bench", 128, 128, 8, 768, 2048, F32, BF16, ROUND, true, false, true, false, 0, AS_IS },
        { "bench", 64, 8, 2, 3584, 1024, F32, BF16, ROUND, true, false, true, false, 0, AS_IS },
        { "bench", 128, 128, 8, 768, 2048, BF16, BF16, ROUND, true, false, true, false, 0, AS_IS },
        { "bench", 128, 128, 8, 768, 2048, BF16, E4M3, ROUND, true, false, true, false, 0, TOKEN },
        { "bench", 1, 128, 8, 768, 2048, BF16, BF16, ROUND, true, false, true, false, 0, AS_IS },
        { "bench", 1, 128, 8, 768, 2048, BF16, E4M3, ROUND, true, false, true, false, 0, TOKEN },
        { "bench", 2048, 8, 2, 3584, 1024, BF16, E4M3, ROUND, true, false, true, false, 0, TOKEN },
    };
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const expert_case *k = &shapes[index];
    if (!make_expert(c, k, args)) return false;
    const spey_expert_linear_args *a = args;
    bool used[1024] = { false };
    double experts = 0, places = (double)(k->rows * k->slots);
    for (int64_t r = 0; r < k->rows; r++)
        for (int64_t s = 0; s < k->slots; s++)
            used[(int64_t)a->routing[(2 * r + 1) * k->slots + s]] = true;
    for (int64_t e = 0; e < k->experts; e++)
        experts += used[e];
    double n = (double)k->n, kk = (double)k->k;
    check_work(c, experts * n * kk * (double)spey_dtype_bytes(k->w), 2 * places * n * kk);
    return true;
}

const check_op check_expert_linear = { sizeof(spey_expert_linear_args), make, bound, bench };
