#include <math.h>

#include "check.h"
#include "check_activation.h"
#include "kernels/elementwise/elementwise.h"

typedef struct unary_case {
    int64_t rows, cols;
    spey_dtype dtype;
    int64_t pad;
    bool in_place;
    spey_activation activation;
    float scale, softcap;
    double spread; /* of x */
} unary_case;

/* clang-format off */
static const unary_case cases[] = {
    {  0,   16, SPEY_F32,  0, false, SPEY_ACT_NONE,       1, 0, 1 },
    {  1,    1, SPEY_F32,  0, false, SPEY_ACT_NONE,       2, 0, 1 },
    {  3,   15, SPEY_F32,  3, false, SPEY_ACT_NONE,       1, 30, 40 },
    {  3,   17, SPEY_F32,  3, true,  SPEY_ACT_NONE,       0.5f, 30, 40 },
    {  3,   64, SPEY_F32,  1, true,  SPEY_ACT_NONE,       0.5f, 0, 1 },
    {  1, 5000, SPEY_F32,  0, false, SPEY_ACT_SILU,       1, 0, 10 },
    {  1, 4096, SPEY_F32,  0, false, SPEY_ACT_SILU,       1, 0, 100 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_GELU,       1, 0, 2 },
    {  2, 3000, SPEY_F32,  0, true,  SPEY_ACT_GELU,       1, 0, 20 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_GELU_TANH,  1, 0, 2 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_GELU_TANH,  1, 0, 50 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_RELU,       3, 0, 1 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_RELU2,      3, 0, 1 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_SIGMOID,    1, 0, 3 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_SIGMOID,    1, 0, 60 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_TANH,       1, 0, 1 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_TANH,       1, 0, 1e-3 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_TANH,       1, 0, 1e30 },
    {  2, 3000, SPEY_F32,  0, false, SPEY_ACT_QUICK_GELU, 1, 0, 5 },
    { 40,  300, SPEY_F32,  4, true,  SPEY_ACT_SILU,       2, 5, 10 },
    {  9,   72, SPEY_BF16, 8, true,  SPEY_ACT_NONE,       1, 30, 40 },
    {  9,   37, SPEY_BF16, 1, false, SPEY_ACT_GELU,       2, 0, 1 },
    {  9,   72, SPEY_F16,  8, false, SPEY_ACT_SILU,       2, 0, 1 },
};
/* clang-format on */

static bool make_unary(check *c, const unary_case *k, spey_unary_args *a)
{
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    *a = (spey_unary_args){ .rows = part ? 1 : k->rows,
                            .cols = k->cols,
                            .activation = k->activation,
                            .scale = k->scale,
                            .softcap = k->softcap,
                            .dtype = k->dtype,
                            .x_pitch = k->cols + k->pad,
                            .out_pitch = k->cols + (k->in_place ? 1 : 2) * k->pad };
    check_buffer *x = check_matrix(c, "x", k->dtype, k->rows, k->cols, a->x_pitch, 0, k->spread);
    check_bind(c, &a->x, x, first * a->x_pitch);
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = k->in_place ? x : check_buffer_new(c, "out", k->dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    check_name(c, "%lldx%lld %s%s, activation %d of %g x, x about %g, cap %g", (long long)k->rows,
               (long long)k->cols, spey_dtype_name(k->dtype), k->in_place ? " in place" : "",
               (int)k->activation, (double)k->scale, k->spread, (double)k->softcap);
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    return make_unary(c, &cases[index], args);
}

/* x * scale is rounded once before the activation. The cap c tanh(v / c) passes v's error with slope at most 1, rounds
 * v / c (slope 1 again) and has tanh's 8 u and one product of its own. */
static void bound(check *c, const void *args)
{
    const spey_unary_args *a = args;
    const double u = 0x1p-24, cap = (double)a->softcap;
    check_buffer *out = check_bound_to(c, &a->out);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0; i < a->cols; i++) {
            double z = check_scalar(a->x, a->dtype, r * a->x_pitch + i) * (double)a->scale;
            double error = check_activation_error(a->activation, z, u * fabs(z));
            int64_t at = r * a->out_pitch + i;
            double reference = check_reference(out, at);
            if (cap > 0) {
                double q = fabs(spey_activate(a->activation, z)) / cap;
                error += u * cap * fmin(q, 0.5) + 9 * u * fabs(reference); /* q sech² q <= 0.45 */
            }
            check_set_bound(out, at, error + check_rounding(a->dtype, reference));
        }
}

static bool bench(check *c, int index, void *args)
{
    static const unary_case shapes[] = {
        { 1, 32000, SPEY_F32, 0, true, SPEY_ACT_NONE, 1, 30, 1 },
        { 512, 8192, SPEY_F32, 0, true, SPEY_ACT_GELU, 1, 0, 1 },
    };
    if (index >= 2) return false;
    const unary_case *k = &shapes[index];
    make_unary(c, k, args);
    double n = (double)(k->rows * k->cols);
    check_work(c, n * 8, n * 20);
    return true;
}

const check_op check_unary = { sizeof(spey_unary_args), make, bound, bench };
