#include <math.h>

#include "check.h"
#include "kernels/argmax/argmax.h"

/* What is planted at `at` and, unless it is negative, at `again`. */
typedef struct argmax_case {
    const char *what;
    int64_t rows, cols, pad;
    double value;
    int64_t at, again;
} argmax_case;

/* clang-format off */
static const argmax_case cases[] = {
    { "no rows",            0,    16, 0,    0,    -1,    -1 },
    { "one column",         3,     1, 0,   -2,     0,    -1 },
    { "nothing planted",    5,   300, 3,    0,    -1,    -1 },
    { "first",              2,  8192, 0,   50,     0,    -1 },
    { "last",               2,  8191, 1,   50,  8190,    -1 },
    { "twice",              3,  8192, 0,   50,  5000,  4096 },
    { "twice, neighbours",  3,  4097, 0,   50,  4095,  4096 },
    { "many columns",       2, 70000, 4,   50, 65537, 65538 },
    { "infinity",           2,  1000, 0, (double)INFINITY,   77,  700 },
    { "NaN",                2,  1000, 0, (double)NAN,       999,   -1 },
    { "NaN first",          1,    40, 0, (double)NAN,         0,   -1 },
};
/* clang-format on */

static bool make(check *c, int index, void *args)
{
    if (index > (int)(sizeof cases / sizeof cases[0])) return false;
    /* Beyond the table: all banned but in one row. */
    static const argmax_case banned = { "banned", 3, 37, 3, 0, -1, -1 };
    bool is_banned = index == (int)(sizeof cases / sizeof cases[0]);
    const argmax_case *k = is_banned ? &banned : &cases[index];
    spey_argmax_args *a = args;
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    *a = (spey_argmax_args){ .rows = part ? 1 : k->rows,
                             .cols = k->cols,
                             .x_pitch = k->cols + k->pad };
    check_buffer *x = check_matrix(c, "x", SPEY_F32, k->rows, k->cols, a->x_pitch, -3, 5);
    for (int64_t r = 0; r < k->rows; r++) {
        if (k->at >= 0) check_set(x, r * a->x_pitch + k->at, k->value);
        if (k->again >= 0) check_set(x, r * a->x_pitch + k->again, k->value);
        for (int64_t i = 0; is_banned && r != 1 && i < k->cols; i++)
            check_set(x, r * a->x_pitch + i, -(double)INFINITY);
    }
    check_bind(c, &a->x, x, first * a->x_pitch);
    check_buffer *out = check_buffer_new(c, "out", SPEY_I32, k->rows);
    check_bind(c, &a->out, out, first);
    check_output(c, out, first, 1, a->rows, a->rows);
    check_name(c, "%s, %lldx%lld", k->what, (long long)k->rows, (long long)k->cols);
    return true;
}

static bool bench(check *c, int index, void *args)
{
    static const int64_t rows[] = { 1, 64, 256 };
    if (index >= 3) return false;
    spey_argmax_args *a = args;
    *a = (spey_argmax_args){ .rows = rows[index], .cols = 128256, .x_pitch = 128256 };
    check_bind(c, &a->x, check_matrix(c, "x", SPEY_F32, a->rows, a->cols, a->cols, 0, 5), 0);
    check_bind(c, &a->out, check_buffer_new(c, "out", SPEY_I32, a->rows), 0);
    check_name(c, "%lldx128256", (long long)a->rows);
    check_work(c, 4.0 * (double)(a->rows * a->cols), (double)(a->rows * a->cols));
    return true;
}

const check_op check_argmax = { sizeof(spey_argmax_args), make, NULL, bench };
