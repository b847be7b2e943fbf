#include <math.h>
#include <string.h>

#include "check.h"
#include "kernels/embed/embed.h"

enum { VOCAB = 41 };
#define IDS SPEY_EMBED_IDS
#define POSITIONS SPEY_EMBED_POSITIONS

/* clang-format off */
static const struct embed_case {
    int64_t rows, cols;
    spey_dtype table, out;
    int64_t pad;
    float scale;
    spey_embed_source source;
    int64_t begin;
    int64_t own; /* rows that tokens bring along: every third names one */
} cases[] = {
    { 0,   16, SPEY_F32,  SPEY_F32,  0, 1, IDS, 0, 0 },
    { 1,    1, SPEY_F32,  SPEY_F32,  0, 1, IDS, 0, 0 },
    { 5,    7, SPEY_F32,  SPEY_F32,  3, 3, IDS, 0, 0 },
    { 5,   15, SPEY_BF16, SPEY_F32,  3, 1, IDS, 0, 0 },
    { 5,   17, SPEY_F16,  SPEY_F32,  3, 0.3f, IDS, 0, 0 },
    { 33,  64, SPEY_BF16, SPEY_F32,  0, 1, IDS, 0, 0 },
    { 2, 1024, SPEY_F16,  SPEY_F32,  0, 1, IDS, 0, 0 },
    { 3, 2051, SPEY_BF16, SPEY_F32,  0, 45.254834f, IDS, 0, 0 },
    { 1, 5000, SPEY_F32,  SPEY_F32,  0, 0.5f, IDS, 0, 0 },
    { 7,   72, SPEY_BF16, SPEY_BF16, 8, 1, IDS, 0, 0 },
    { 7,   72, SPEY_BF16, SPEY_BF16, 8, 3.3f, IDS, 0, 0 },
    { 7,   37, SPEY_F16,  SPEY_F16,  1, 3.3f, IDS, 0, 0 },
    { 9,   24, SPEY_F32,  SPEY_F32,  0, 1, IDS, 5, 0 },
    { 9,   24, SPEY_F32,  SPEY_F32,  4, 1, POSITIONS, 0, 0 },
    { 33,  65, SPEY_BF16, SPEY_F32,  0, 0.5f, POSITIONS, 2, 0 },
    { 5,   17, SPEY_F16,  SPEY_F32,  3, 0.3f, IDS, 0, 1 },
    { 33,  64, SPEY_BF16, SPEY_F32,  0, 2.5f, IDS, 3, 7 },
    { 7,   72, SPEY_BF16, SPEY_BF16, 8, 1, IDS, 0, 2 },
    { 9, 2051, SPEY_F32,  SPEY_F16,  0, 3.3f, IDS, 0, 3 },
};
/* clang-format on */

static bool make_embed(check *c, const struct embed_case *k, spey_embed_args *a)
{
    int64_t part = check_part(c), first = part ? part - 1 : 0;
    if (part > 3 || part > k->rows) return false;
    *a = (spey_embed_args){ .rows = part ? 1 : k->rows,
                            .cols = k->cols,
                            .source = k->source,
                            .begin = k->begin,
                            .table_dtype = k->table,
                            .scale = k->scale,
                            .out_dtype = k->out,
                            .out_pitch = k->cols + k->pad };
    spey_ragged *batch = check_keep(c, sizeof *batch);
    batch->n_tokens = (int32_t)a->rows;
    memcpy(&a->batch, &batch, sizeof batch);
    check_buffer *ids = check_buffer_new(c, "ids", SPEY_I32, k->rows);
    check_buffer *positions = check_buffer_new(c, "positions", SPEY_I32, k->rows);
    const int64_t numbers = VOCAB - k->begin;
    for (int64_t i = 0; i < k->rows; i++) {
        const bool own = k->own && i % 3 == 2;
        const int64_t id = i == 1 ? numbers - 1 : i * 17 % numbers;
        check_set(ids, i, (double)(own ? -1 - i % k->own : id));
        check_set(positions, i, (double)(i == 2 ? numbers - 1 : i * 23 % numbers));
    }
    check_bind(c, &batch->ids, ids, first);
    check_bind(c, &batch->positions, positions, first);
    check_bind(c, &a->table, check_matrix(c, "table", k->table, VOCAB, k->cols, k->cols, 0, 1), 0);
    if (k->own)
        check_bind(c, &a->own, check_matrix(c, "own", SPEY_F32, k->own, k->cols, k->cols, 0, 1), 0);
    int64_t n = k->rows ? (k->rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = check_buffer_new(c, "out", k->out, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    check_name(c, "%lldx%lld %s to %s, times %g, %s + %lld, own %lld", (long long)k->rows,
               (long long)k->cols, spey_dtype_name(k->table), spey_dtype_name(k->out),
               (double)k->scale, k->source == SPEY_EMBED_POSITIONS ? "positions" : "ids",
               (long long)k->begin, (long long)k->own);
    return true;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0])) return false;
    return make_embed(c, &cases[index], args);
}

/* One product, rounded to F32: the reference's bits. A 16-bit result may be rounded from F32 or directly. */
static void bound(check *c, const void *args)
{
    const spey_embed_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    if (a->out_dtype == SPEY_F32 || a->scale == 1.0f) return;
    for (int64_t r = 0; r < a->rows; r++)
        for (int64_t i = 0; i < a->cols; i++) {
            int64_t at = r * a->out_pitch + i;
            check_set_bound(out, at, check_rounding(a->out_dtype, check_reference(out, at)));
        }
}

static bool bench(check *c, int index, void *args)
{
    static const struct embed_case shapes[] = { { 1, 2048, SPEY_BF16, SPEY_F32, 0, 1, IDS, 0, 0 },
                                                { 512, 2048, SPEY_BF16, SPEY_F32, 0, 1, IDS, 0,
                                                  0 } };
    if (index >= 2) return false;
    const struct embed_case *k = &shapes[index];
    make_embed(c, k, args);
    check_work(c, (double)(k->rows * k->cols * 6), (double)(k->rows * k->cols));
    return true;
}

const check_op check_embed = { sizeof(spey_embed_args), make, bound, bench };
