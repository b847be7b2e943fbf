#include <math.h>

#include "check.h"
#include "kernels/rope/rope.h"

/* clang-format off */
static const struct rope_case {
    int64_t rows, n_heads, head_dim, rotary_dim;
    spey_rope_pairing pairing;
    spey_dtype dtype;
    int64_t pad;
    bool in_place;
} cases[] = {
    { 0,  4, 64,  64, SPEY_ROPE_HALF,        SPEY_F32,  0, false },
    { 1,  1,  2,   2, SPEY_ROPE_HALF,        SPEY_F32,  0, false },
    { 1,  1,  2,   2, SPEY_ROPE_INTERLEAVED, SPEY_F32,  0, true  },
    { 5,  3, 64,  64, SPEY_ROPE_HALF,        SPEY_F32,  7, false },
    { 5,  3, 64,  64, SPEY_ROPE_INTERLEAVED, SPEY_F32,  7, false },
    { 5,  3, 128, 128, SPEY_ROPE_HALF,       SPEY_F32,  0, true  },
    { 5,  3, 128, 128, SPEY_ROPE_INTERLEAVED, SPEY_F32, 3, true  },
    { 4,  2, 80,  32, SPEY_ROPE_HALF,        SPEY_F32,  1, false },
    { 4,  2, 80,  32, SPEY_ROPE_INTERLEAVED, SPEY_F32,  1, true  },
    { 4,  2, 37,  22, SPEY_ROPE_HALF,        SPEY_F32,  1, true  },
    { 4,  2, 37,  22, SPEY_ROPE_INTERLEAVED, SPEY_F32,  1, false },
    { 4,  2, 37,   0, SPEY_ROPE_HALF,        SPEY_F32,  1, false },
    { 33, 8, 96,  96, SPEY_ROPE_HALF,        SPEY_F32,  0, true  },
    { 6,  4, 64,  64, SPEY_ROPE_HALF,        SPEY_BF16, 8, false },
    { 6,  4, 128, 64, SPEY_ROPE_INTERLEAVED, SPEY_BF16, 8, true  },
    { 6,  4, 128, 128, SPEY_ROPE_HALF,       SPEY_F16,  8, true  },
    { 6,  4, 34,  34, SPEY_ROPE_INTERLEAVED, SPEY_F16,  1, false },
};
/* clang-format on */

static void make_rope(check *c, const struct rope_case *k, spey_rope_args *a)
{
    int64_t width = k->n_heads * k->head_dim, first = check_part(c) ? check_part(c) - 1 : 0;
    check_name(c, "%s %lldx%lldx%lld rotate %lld %s%s",
               k->pairing == SPEY_ROPE_HALF ? "half" : "pairs", (long long)k->rows,
               (long long)k->n_heads, (long long)k->head_dim, (long long)k->rotary_dim,
               spey_dtype_name(k->dtype), k->in_place ? " in place" : "");
    *a = (spey_rope_args){ .rows = check_part(c) ? 1 : k->rows,
                           .n_heads = k->n_heads,
                           .head_dim = k->head_dim,
                           .rotary_dim = k->rotary_dim,
                           .pairing = k->pairing,
                           .x_pitch = width + k->pad,
                           .out_pitch = width + (k->in_place ? 1 : 2) * k->pad,
                           .dtype = k->dtype };
    /* No rotation's cosines and sines: every element of the table is seen. */
    check_bind(c, &a->table,
               check_matrix(c, "table", SPEY_F32, k->rows, k->rotary_dim, k->rotary_dim, 0, 1),
               first * k->rotary_dim);
    check_buffer *x = check_matrix(c, "x", k->dtype, k->rows, width, a->x_pitch, 0, 1);
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + width : 0;
    check_buffer *out = k->in_place ? x : check_buffer_new(c, "out", k->dtype, n);
    check_bind(c, &a->x, x, first * a->x_pitch);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, width, a->out_pitch);
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    const struct rope_case *k = &cases[index];
    if (check_part(c) > 3 || check_part(c) > k->rows) return false;
    make_rope(c, k, args);
    return true;
}

/* docs/numerics.md, "Rotary embedding": two products and a sum. Elements that are not rotated stay exact. */
static void bound(check *c, const void *args)
{
    const spey_rope_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    int64_t half = a->rotary_dim / 2, size = (int64_t)spey_dtype_bytes(a->dtype);
    for (int64_t i = 0; i < a->rows * a->n_heads * half; i++) {
        int64_t r = i / (a->n_heads * half), h = i / half % a->n_heads, p = i % half;
        bool is_half = a->pairing == SPEY_ROPE_HALF;
        int64_t first = is_half ? p : 2 * p, second = is_half ? p + half : 2 * p + 1;
        const char *x = (const char *)a->x + (r * a->x_pitch + h * a->head_dim) * size;
        double xa = check_scalar(x, a->dtype, first), xb = check_scalar(x, a->dtype, second);
        double cosine = (double)a->table[r * a->rotary_dim + p];
        double sine = (double)a->table[r * a->rotary_dim + half + p];
        int64_t at = r * a->out_pitch + h * a->head_dim;
        check_set_bound(out, at + first,
                        2 * 0x1p-24 * (fabs(xa * cosine) + fabs(xb * sine)) +
                            check_rounding(a->dtype, check_reference(out, at + first)));
        check_set_bound(out, at + second,
                        2 * 0x1p-24 * (fabs(xb * cosine) + fabs(xa * sine)) +
                            check_rounding(a->dtype, check_reference(out, at + second)));
    }
}

static bool bench(check *c, int index, void *args)
{
    static const struct rope_case shapes[] = {
        { 512, 32, 128, 128, SPEY_ROPE_HALF, SPEY_F32, 0, true },
        { 512, 32, 128, 128, SPEY_ROPE_INTERLEAVED, SPEY_F32, 0, true },
        { 512, 32, 128, 128, SPEY_ROPE_HALF, SPEY_BF16, 0, true },
    };
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const struct rope_case *k = &shapes[index];
    make_rope(c, k, args);
    double n = (double)(k->rows * k->n_heads * k->head_dim);
    check_work(c, 2 * n * (double)spey_dtype_bytes(k->dtype), 3 * n);
    return true;
}

const check_op check_rope = { sizeof(spey_rope_args), make, bound, bench };
