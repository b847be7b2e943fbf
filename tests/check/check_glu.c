#include <math.h>

#include "check.h"
#include "check_activation.h"
#include "kernels/glu/glu.h"
#include "kernels/scalar.h"

/* Where the operands lie: each alone, gate and up as halves of one matrix, out in place of gate or of up, halves and out
 * rounded to BF16, or to E4M3. */
typedef enum glu_layout { APART, HALVES, IN_GATE, IN_UP, ROUNDED, TOKEN, STATIC } glu_layout;

typedef struct glu_case {
    int64_t rows, cols;
    spey_dtype dtype;
    int64_t pad;
    glu_layout layout;
    spey_activation activation;
    double scale; /* of gate */
    float limit, up_offset;
} glu_case;

/* clang-format off */
static const glu_case cases[] = {
    {  0,   16, SPEY_F32,  0, APART,   SPEY_ACT_SILU, 1, 0, 0 },
    {  1,    1, SPEY_F32,  0, APART,   SPEY_ACT_SILU, 1, 0, 0 },
    {  3,   15, SPEY_F32,  3, APART,   SPEY_ACT_SILU, 3, 0, 0 },
    {  3,   17, SPEY_F32,  3, HALVES,  SPEY_ACT_SILU, 3, 0, 0 },
    {  3,   64, SPEY_F32,  1, IN_GATE, SPEY_ACT_GELU, 3, 0, 0 },
    {  3,   31, SPEY_F32,  1, IN_UP,   SPEY_ACT_GELU_TANH, 3, 0, 0 },
    {  1, 5632, SPEY_F32,  0, HALVES,  SPEY_ACT_SILU, 3, 0, 0 },
    {  1, 4097, SPEY_F32,  0, APART,   SPEY_ACT_RELU, 3, 0, 0 },
    { 40,  300, SPEY_F32,  4, HALVES,  SPEY_ACT_SILU, 30, 0, 0 },
    {  5, 1025, SPEY_F32,  0, IN_GATE, SPEY_ACT_SILU, 100, 0, 0 },
    {  9,   72, SPEY_BF16, 8, HALVES,  SPEY_ACT_SILU, 3, 0, 0 },
    {  9,   37, SPEY_BF16, 1, IN_GATE, SPEY_ACT_GELU_TANH, 3, 0, 0 },
    {  9,   72, SPEY_F16,  8, APART,   SPEY_ACT_SILU, 3, 0, 0 },
    {  4,   33, SPEY_F32,  2, APART,   SPEY_ACT_NONE, 3, 0, 0 },
    {  4,   33, SPEY_F32,  2, APART,   SPEY_ACT_RELU2, 3, 0, 0 },
    {  4,   33, SPEY_F32,  2, APART,   SPEY_ACT_SIGMOID, 30, 0, 0 },
    {  4,   33, SPEY_F32,  2, APART,   SPEY_ACT_TANH, 3, 0, 0 },
    {  4,   33, SPEY_F32,  2, APART,   SPEY_ACT_QUICK_GELU, 10, 0, 0 },
    {  5,   67, SPEY_F32,  1, APART,   SPEY_ACT_QUICK_GELU, 10, 1.5f, 1 },
    {  5,  300, SPEY_F32,  0, HALVES,  SPEY_ACT_NONE, 10, .7f, 0 },
    {  5,   31, SPEY_BF16, 1, IN_UP,   SPEY_ACT_SILU, 3, 0, -.5f },
    {  5,   67, SPEY_F32,  1, ROUNDED, SPEY_ACT_SILU, 3, 0, 0 },
    {  1, 5632, SPEY_F32,  0, ROUNDED, SPEY_ACT_GELU_TANH, 3, 0, 0 },
    {  5,   72, SPEY_F32,  8, TOKEN,   SPEY_ACT_SILU, 3, 0, 0 },
    {  5,   72, SPEY_F32,  8, STATIC,  SPEY_ACT_GELU, 3, 0, 0 },
    {  3,   64, SPEY_BF16, 3, TOKEN,   SPEY_ACT_SILU, 3, 0, 0 },
    {  7, 1024, SPEY_BF16, 0, TOKEN,   SPEY_ACT_SILU, 3, 2, .5f },
    {  2, 4104, SPEY_F16,  8, STATIC,  SPEY_ACT_SILU, 3, 0, 0 },
    {  2, 14336, SPEY_BF16, 0, TOKEN,  SPEY_ACT_SILU, 3, 0, 0 },
    {  2, 28672, SPEY_BF16, 0, TOKEN,  SPEY_ACT_SILU, 3, 0, 0 },
    {  2, 32776, SPEY_BF16, 0, TOKEN,  SPEY_ACT_GELU_TANH, 3, 0, 0 },
};
/* clang-format on */

static bool make_glu(check *c, const glu_case *k, spey_glu_args *a)
{
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    const bool halves = k->layout == HALVES || k->layout >= ROUNDED;
    const bool e4m3 = k->layout == TOKEN || k->layout == STATIC;
    *a = (spey_glu_args){ .rows = part ? 1 : k->rows,
                          .cols = k->cols,
                          .activation = k->activation,
                          .limit = k->limit,
                          .up_offset = k->up_offset,
                          .dtype = k->dtype,
                          .out_dtype = e4m3                   ? SPEY_E4M3
                                       : k->layout == ROUNDED ? SPEY_BF16
                                                              : k->dtype,
                          .gate_pitch = (halves ? 2 : 1) * k->cols + k->pad,
                          .up_pitch = k->cols + 2 * k->pad,
                          .out_pitch = k->cols + (e4m3 ? 8 : 3) * k->pad,
                          .out_quant = k->layout == TOKEN    ? SPEY_INPUT_TOKEN
                                       : k->layout == STATIC ? SPEY_INPUT_STATIC
                                                             : SPEY_INPUT_AS_IS };
    if (halves) a->up_pitch = a->gate_pitch;
    check_buffer *gate = check_matrix(c, "gate", k->dtype, k->rows, (halves ? 2 : 1) * k->cols,
                                      a->gate_pitch, 0, k->scale);
    check_buffer *up =
        halves ? gate : check_matrix(c, "up", k->dtype, k->rows, k->cols, a->up_pitch, 0, 1);
    check_bind(c, &a->gate, gate, first * a->gate_pitch);
    check_bind(c, &a->up, up, first * a->up_pitch + (halves ? k->cols : 0));
    if (k->layout == IN_GATE) a->out_pitch = a->gate_pitch;
    if (k->layout == IN_UP) a->out_pitch = a->up_pitch;
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = k->layout == IN_GATE ? gate
                        : k->layout == IN_UP ? up
                                             : check_buffer_new(c, "out", a->out_dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    if (e4m3) check_out_scale(c, &a->out_scale, a->out_quant, k->rows, first, a->rows, k->scale);
    static const char *const names[] = { "apart",   "halves",   "in gate", "in up",
                                         "rounded", "by token", "static" };
    check_name(c, "%lldx%lld %s %s %s, activation %d, scale %g", (long long)k->rows,
               (long long)k->cols, spey_dtype_name(k->dtype), spey_dtype_name(a->out_dtype),
               names[k->layout], (int)k->activation, k->scale);
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    return make_glu(c, &cases[index], args);
}

/* The activation's error times up, one rounding of the sum with the offset and of the product. */
static double error_at(const spey_glu_args *a, int64_t r, int64_t i)
{
    double gate = check_scalar(a->gate, a->dtype, r * a->gate_pitch + i);
    double up = check_scalar(a->up, a->dtype, r * a->up_pitch + i);
    double limit = (double)a->limit;
    if (limit > 0) {
        gate = fmin(gate, limit);
        up = fmax(-limit, fmin(up, limit));
    }
    up += (double)a->up_offset;
    return check_activation_error(a->activation, gate, 0) * fabs(up) +
           0x1p-23 * fabs(spey_activate(a->activation, gate) * up);
}

static void bound_e4m3(check *c, const spey_glu_args *a, int64_t r)
{
    check_buffer *out = check_bound_to(c, &a->out), *scales = check_bound_to(c, &a->out_scale);
    const bool by_token = a->out_quant == SPEY_INPUT_TOKEN;
    const double scale = by_token ? check_reference(scales, r) : check_get(scales, 0);
    double largest = 0;
    for (int64_t i = 0; by_token && i < a->cols; i++)
        largest = fmax(largest, error_at(a, r, i));
    if (by_token) check_set_bound(scales, r, check_scale_error(scale, largest));
    for (int64_t i = 0; i < a->cols; i++) {
        int64_t at = r * a->out_pitch + i;
        double reference = check_reference(out, at);
        check_set_bound(out, at, check_e4m3_error(reference, scale, error_at(a, r, i), largest));
    }
}

static void bound(check *c, const void *args)
{
    const spey_glu_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    for (int64_t r = 0; r < a->rows; r++) {
        if (a->out_dtype == SPEY_E4M3) bound_e4m3(c, a, r);
        for (int64_t i = 0; i < a->cols && a->out_dtype != SPEY_E4M3; i++) {
            int64_t at = r * a->out_pitch + i;
            check_set_bound(out, at,
                            error_at(a, r, i) +
                                check_rounding(a->out_dtype, check_reference(out, at)));
        }
    }
}

static bool bench(check *c, int index, void *args)
{
    static const glu_case shapes[] = { { 1, 5632, SPEY_F32, 0, HALVES, SPEY_ACT_SILU, 1, 0, 0 },
                                       { 512, 5632, SPEY_F32, 0, HALVES, SPEY_ACT_SILU, 1, 0, 0 },
                                       { 512, 5632, SPEY_F32, 0, HALVES, SPEY_ACT_GELU_TANH, 1, 0,
                                         0 } };
    if (index >= 3) return false;
    const glu_case *k = &shapes[index];
    make_glu(c, k, args);
    double n = (double)(k->rows * k->cols);
    check_work(c, n * 12, n * 20);
    return true;
}

const check_op check_glu = { sizeof(spey_glu_args), make, bound, bench };
