#include <math.h>

#include "check.h"
#include "kernels/elementwise/elementwise.h"

typedef struct add_case {
    int64_t rows, cols;
    spey_dtype dtype;
    int64_t pad;
    int in_place; /* 1: out is a, 2: out is b */
    float scale;
    int wide; /* in F32 all the same: bit 0 a, 1 b, 2 out */
} add_case;

/* clang-format off */
static const add_case cases[] = {
    {  0,   16, SPEY_F32,  0, 0, 1, 0 },
    {  1,    1, SPEY_F32,  0, 0, 2, 0 },
    {  3,   15, SPEY_F32,  3, 0, 1, 0 },
    {  3,   17, SPEY_F32,  3, 1, 0.3f, 0 },
    {  3,   31, SPEY_F32,  3, 2, -1.5f, 0 },
    {  1, 5000, SPEY_F32,  0, 1, 1, 0 },
    { 40,  300, SPEY_F32,  4, 0, 0.1f, 0 },
    {  4, 2048, SPEY_F32,  0, 2, 1, 0 },
    {  9,   72, SPEY_BF16, 8, 0, 0.5f, 0 },
    {  9,   37, SPEY_BF16, 1, 1, 1, 0 },
    {  9,   72, SPEY_F16,  8, 2, 0.3f, 0 },
    {  9,   72, SPEY_BF16, 8, 1, 0.5f, 5 },
    {  9,   37, SPEY_F16,  1, 2, 0.3f, 6 },
    {  9,   64, SPEY_BF16, 8, 0, 0.3f, 4 },
    {  9,   64, SPEY_BF16, 8, 0, 0.3f, 3 },
};
/* clang-format on */

static spey_dtype dtype_of(const add_case *k, int operand)
{
    return k->wide >> operand & 1 ? SPEY_F32 : k->dtype;
}

static bool make_add(check *c, const add_case *k, spey_add_args *a)
{
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    *a = (spey_add_args){ .rows = part ? 1 : k->rows,
                          .cols = k->cols,
                          .scale = k->scale,
                          .a_dtype = dtype_of(k, 0),
                          .b_dtype = dtype_of(k, 1),
                          .out_dtype = dtype_of(k, 2),
                          .a_pitch = k->cols + k->pad,
                          .b_pitch = k->cols + 2 * k->pad,
                          .out_pitch = k->cols + (k->in_place ? k->in_place : 3) * k->pad };
    check_buffer *x = check_matrix(c, "a", a->a_dtype, k->rows, k->cols, a->a_pitch, 0, 1);
    check_buffer *y = check_matrix(c, "b", a->b_dtype, k->rows, k->cols, a->b_pitch, 0, 1);
    check_bind(c, &a->a, x, first * a->a_pitch);
    check_bind(c, &a->b, y, first * a->b_pitch);
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = k->in_place == 1   ? x
                        : k->in_place == 2 ? y
                                           : check_buffer_new(c, "out", a->out_dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    check_name(c, "%lldx%lld %s, b times %g, in place %d", (long long)k->rows, (long long)k->cols,
               spey_dtype_name(k->dtype), (double)k->scale, k->in_place);
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    return make_add(c, &cases[index], args);
}

/* The product may be rounded before the sum. */
static void bound(check *c, const void *args)
{
    const spey_add_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0; i < a->cols; i++) {
            double b = check_scalar(a->b, a->b_dtype, r * a->b_pitch + i) * (double)a->scale;
            int64_t at = r * a->out_pitch + i;
            double reference = check_reference(out, at);
            check_set_bound(out, at,
                            0x1p-24 * (fabs(b) + fabs(reference)) +
                                check_rounding(a->out_dtype, reference));
        }
}

static bool bench(check *c, int index, void *args)
{
    static const add_case shapes[] = { { 1, 4096, SPEY_F32, 0, 1, 1, 0 },
                                       { 512, 4096, SPEY_F32, 0, 1, 1, 0 } };
    if (index >= 2) return false;
    const add_case *k = &shapes[index];
    make_add(c, k, args);
    double n = (double)(k->rows * k->cols);
    check_work(c, n * 12, n * 2);
    return true;
}

const check_op check_add = { sizeof(spey_add_args), make, bound, bench };
