#include "check.h"
#include "kernels/concat/concat.h"

/* clang-format off */
static const struct concat_case {
    int64_t rows, heads, a, b;
    bool shared;
    spey_dtype dtype;
    int64_t pad;
} cases[] = {
    {  0, 2,  4,  4, false, SPEY_F32,  0 },
    {  1, 1,  1,  1, false, SPEY_F32,  0 },
    {  5, 3, 16,  8, false, SPEY_F32,  3 },
    {  5, 4, 16,  8, true,  SPEY_F32,  1 },
    { 11, 1, 33, 64, true,  SPEY_F32,  0 },
    { 11, 1, 33, 64, false, SPEY_F32,  2 },
    {  9, 5, 24,  8, true,  SPEY_BF16, 8 },
    {  9, 2,  7,  3, false, SPEY_F16,  1 },
};
/* clang-format on */

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    const struct concat_case *k = &cases[index];
    spey_concat_args *a = args;
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    int64_t a_cols = k->heads * k->a, b_cols = (k->shared ? 1 : k->heads) * k->b;
    int64_t cols = k->heads * (k->a + k->b);
    *a = (spey_concat_args){ .rows = part ? 1 : k->rows,
                             .n_heads = k->heads,
                             .a_cols = k->a,
                             .b_cols = k->b,
                             .b_shared = k->shared,
                             .dtype = k->dtype,
                             .a_pitch = a_cols + k->pad,
                             .b_pitch = b_cols + 2 * k->pad,
                             .out_pitch = cols + 3 * k->pad };
    check_bind(c, &a->a, check_matrix(c, "a", k->dtype, k->rows, a_cols, a->a_pitch, 0, 1),
               first * a->a_pitch);
    check_bind(c, &a->b, check_matrix(c, "b", k->dtype, k->rows, b_cols, a->b_pitch, 0, 1),
               first * a->b_pitch);
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + cols : 0;
    check_buffer *out = check_buffer_new(c, "out", k->dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, cols, a->out_pitch);
    check_name(c, "%lldx%lldx(%lld+%lld) %s%s", (long long)k->rows, (long long)k->heads,
               (long long)k->a, (long long)k->b, spey_dtype_name(k->dtype),
               k->shared ? " shared" : "");
    return true;
}

const check_op check_concat = { sizeof(spey_concat_args), make, NULL, NULL };
