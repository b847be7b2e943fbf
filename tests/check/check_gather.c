#include <string.h>

#include "check.h"
#include "kernels/gather/gather.h"

enum { ROWS_OF_X = 29 };

/* clang-format off */
static const struct gather_case {
    int64_t rows, cols;
    spey_dtype dtype;
    int64_t pad;
} cases[] = {
    {  0,   16, SPEY_F32,  0 },
    {  1,    1, SPEY_F32,  0 },
    {  4,   17, SPEY_F32,  3 },
    { 14,   64, SPEY_F32,  0 },
    {  3, 2051, SPEY_F32,  1 },
    {  9,   72, SPEY_BF16, 8 },
    {  9,   33, SPEY_F16,  1 },
};
/* clang-format on */

static bool make_gather(check *c, const struct gather_case *k, spey_gather_args *a)
{
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    *a = (spey_gather_args){ .rows = part ? 1 : k->rows,
                             .cols = k->cols,
                             .x_pitch = k->cols + k->pad,
                             .out_pitch = k->cols + 2 * k->pad,
                             .dtype = k->dtype };
    spey_ragged *batch = check_keep(c, sizeof *batch);
    batch->n_outputs = (int32_t)a->rows;
    memcpy(&a->batch, &batch, sizeof batch);
    check_buffer *rows = check_buffer_new(c, "output_rows", SPEY_I32, k->rows);
    for (int64_t i = 0; i < k->rows; i++)
        check_set(rows, i, (double)(ROWS_OF_X - 1 - 2 * (k->rows - 1 - i)));
    check_bind(c, &batch->output_rows, rows, first);
    check_bind(c, &a->x, check_matrix(c, "x", k->dtype, ROWS_OF_X, k->cols, a->x_pitch, 0, 1), 0);
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = check_buffer_new(c, "out", k->dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    check_name(c, "%lldx%lld %s", (long long)k->rows, (long long)k->cols,
               spey_dtype_name(k->dtype));
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    return make_gather(c, &cases[index], args);
}

const check_op check_gather = { sizeof(spey_gather_args), make, NULL, NULL };
