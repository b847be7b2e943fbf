#include <math.h>

#include "check.h"
#include "kernels/causal_conv/causal_conv.h"

/* clang-format off */
static const struct conv_case {
    const char *what;
    int64_t cols, width;
    bool bias;
    spey_dtype dtype;
    int64_t pad;
    int32_t group;
    check_seq seqs[5]; /* ends with kv_len 0 */
} cases[] = {
    { "one token",      1,  2, false, SPEY_F32,  0, 0, { { 1, 1 } } },
    { "no tokens",     16,  4, true,  SPEY_F32,  0, 0, { { 0, 5 } } },
    { "shorter",       17,  4, true,  SPEY_F32,  3, 1, { { 1, 1 }, { 2, 2 }, { 2, 9 }, { 1, 7 } } },
    { "prefill",       64,  4, true,  SPEY_F32,  0, 0, { { 21, 21 } } },
    { "ragged",       131,  4, true,  SPEY_F32,  5, 2, { { 20, 20 }, { 1, 33 }, { 0, 4 }, { 7, 64 } } },
    { "no bias",       72,  3, false, SPEY_F32,  0, 0, { { 9, 13 }, { 1, 1 } } },
    { "wide",          33, 16, true,  SPEY_F32,  1, 0, { { 30, 40 }, { 5, 5 } } },
    { "bf16",          40,  4, true,  SPEY_BF16, 8, 0, { { 9, 20 }, { 1, 16 } } },
    { "f16",           40,  4, true,  SPEY_F16,  8, 0, { { 9, 9 }, { 1, 16 } } },
};
/* clang-format on */

static bool make_conv(check *c, const struct conv_case *k, spey_causal_conv_args *a)
{
    int n_seqs = 0;
    while (n_seqs < 5 && k->seqs[n_seqs].kv_len)
        n_seqs++;
    /* A chunk goes on where the chunk before it ended, which no problem alone can show: e2e does. */
    if (check_part(c) > n_seqs) return false;
    check_step step, whole = { .seqs = k->seqs, .n_seqs = n_seqs, .seq = -1 };
    if (!check_step_init(&step, c, k->seqs, n_seqs)) return false;
    check_name(c, "%s, %lld columns, width %lld, %s", k->what, (long long)k->cols,
               (long long)k->width, spey_dtype_name(k->dtype));
    spey_ragged *batch = check_batch(c, &a->batch, &step, 100);
    int64_t rows = check_step_tokens(&whole), first = check_step_first(&step);
    a->rows = check_step_tokens(&step);
    a->cols = k->cols;
    a->width = k->width;
    a->dtype = k->dtype;
    a->x_pitch = k->cols + k->pad;
    a->out_pitch = k->cols + 2 * k->pad;
    check_buffer *x = check_matrix(c, "x", k->dtype, rows, k->cols, a->x_pitch, 0, 1);
    check_bind(c, &a->x, x, first * a->x_pitch);
    check_bind(c, &a->weight,
               check_matrix(c, "weight", SPEY_F32, k->cols, k->width, k->width, 0, 1), 0);
    if (k->bias)
        check_bind(c, &a->bias, check_matrix(c, "bias", SPEY_F32, 1, k->cols, k->cols, 0, 1), 0);
    int64_t n = rows ? (rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = check_buffer_new(c, "out", k->dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    check_states_new(c, k->group, k->cols * (k->width - 1), &step, batch, &a->state);
    return true;
}

static bool make(check *c, int index, void *args)
{
    return index < (int)(sizeof cases / sizeof cases[0]) && make_conv(c, &cases[index], args);
}

/* Row t of the sequence that begins at row `first`: this step's, or the state's. */
static double row_before(const spey_causal_conv_args *a, int64_t s, int64_t t, int64_t c)
{
    int64_t first = a->batch->seq_start[s];
    if (t >= first) return check_scalar(a->x, a->dtype, t * a->x_pitch + c);
    if (a->batch->kv_len[s] == a->batch->seq_start[s + 1] - first) return 0;
    const spey_block_table *table = &a->batch->groups[a->state.group];
    const float *state =
        (const float *)(const void *)(a->state.base + a->state.offset +
                                      table->blocks[s * table->pitch] * a->state.block_bytes);
    return (double)state[(a->width - 1 + t - first) * a->cols + c];
}

/* A sum of width products and a bias (numerics.md, Sums). The state is moved: exact. */
static void bound(check *c, const void *args)
{
    const spey_causal_conv_args *a = args;
    check_buffer *out = check_bound_to(c, &a->out);
    for (int64_t s = 0; s < a->batch->n_seqs; s++)
        for (int64_t t = a->batch->seq_start[s]; t < a->batch->seq_start[s + 1]; t++)
            for (int64_t i = 0; i < a->cols; i++) {
                int64_t at = t * a->out_pitch + i;
                double size = a->bias ? fabs((double)a->bias[i]) : 0;
                for (int64_t k = 0; k < a->width; k++)
                    size += fabs((double)a->weight[i * a->width + k] *
                                 row_before(a, s, t - a->width + 1 + k, i));
                check_set_bound(out, at,
                                (double)(a->width + 1) * check_unit(SPEY_F32) * size +
                                    check_rounding(a->dtype, check_reference(out, at)));
            }
}

static bool bench(check *c, int index, void *args)
{
    static const struct conv_case shapes[] = {
        { "decode", 5120, 4, true, SPEY_F32, 0, 0, { { 1, 100 } } },
        { "prefill", 5120, 4, true, SPEY_F32, 0, 0, { { 512, 512 } } },
    };
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const struct conv_case *k = &shapes[index];
    make_conv(c, k, args);
    double cells = (double)(k->seqs[0].n_tokens * k->cols);
    check_work(c, cells * 8 + (double)k->cols * 40, cells * 8);
    return true;
}

const check_op check_causal_conv = { sizeof(spey_causal_conv_args), make, bound, bench };
