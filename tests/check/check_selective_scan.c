#include <math.h>

#include "check.h"
#include "kernels/selective_scan/selective_scan.h"

enum { STATES_MAX = 40 };

/* clang-format off */
static const struct scan_case {
    const char *what;
    int64_t cols, states;
    spey_dtype dtype;
    int64_t pad;
    int32_t group;
    double dt; /* centre of its inputs */
    check_seq seqs[5]; /* ends with kv_len 0 */
} cases[] = {
    { "one token",      1,  1, SPEY_F32,  0, 0,   0, { { 1, 1 } } },
    { "no tokens",     16,  8, SPEY_F32,  0, 0,   0, { { 0, 5 } } },
    { "small",          5,  3, SPEY_F32,  2, 1,   0, { { 3, 3 }, { 2, 9 } } },
    { "prefill",       16, 16, SPEY_F32,  0, 0,  -2, { { 21, 21 } } },
    { "ragged",        37, 16, SPEY_F32,  5, 2,  -3, { { 20, 20 }, { 1, 33 }, { 0, 4 }, { 7, 64 } } },
    { "two tiles",     17, 17, SPEY_F32,  1, 0,  -1, { { 130, 140 }, { 64, 64 }, { 1, 1 } } },
    { "many states",    9, 40, SPEY_F32,  0, 0,  -4, { { 9, 13 } } },
    { "large steps",   16,  8, SPEY_F32,  0, 0,  30, { { 5, 9 } } },
    { "tiny steps",    16,  8, SPEY_F32,  0, 0, -20, { { 5, 9 } } },
    { "bf16",          24, 16, SPEY_BF16, 8, 0,  -2, { { 9, 20 }, { 1, 16 } } },
    { "f16",           24, 16, SPEY_F16,  8, 0,  -2, { { 9, 9 }, { 1, 16 } } },
};
/* clang-format on */

static void bind_inputs(check *c, const struct scan_case *k, int64_t rows, int64_t first,
                        spey_selective_scan_args *a)
{
    a->x_pitch = k->cols + k->pad;
    a->dt_pitch = k->cols + 2 * k->pad;
    a->b_pitch = k->states + 3 * k->pad;
    a->c_pitch = k->states + 4 * k->pad;
    a->out_pitch = k->cols + 5 * k->pad;
    check_bind(c, &a->x, check_matrix(c, "x", k->dtype, rows, k->cols, a->x_pitch, 0, 1),
               first * a->x_pitch);
    check_bind(c, &a->dt, check_matrix(c, "dt", k->dtype, rows, k->cols, a->dt_pitch, k->dt, 1),
               first * a->dt_pitch);
    check_bind(c, &a->b, check_matrix(c, "b", k->dtype, rows, k->states, a->b_pitch, 0, 1),
               first * a->b_pitch);
    check_bind(c, &a->c, check_matrix(c, "c", k->dtype, rows, k->states, a->c_pitch, 0, 1),
               first * a->c_pitch);
    check_bind(c, &a->a_log,
               check_matrix(c, "a_log", SPEY_F32, k->cols, k->states, k->states, 0.5, 1), 0);
    check_bind(c, &a->d, check_matrix(c, "d", SPEY_F32, 1, k->cols, k->cols, 0, 1), 0);
}

static bool make_scan(check *c, const struct scan_case *k, spey_selective_scan_args *a)
{
    int n_seqs = 0;
    while (n_seqs < 5 && k->seqs[n_seqs].kv_len)
        n_seqs++;
    /* A chunk goes on where the chunk before it ended, which no problem alone can show: e2e does. */
    if (check_part(c) > n_seqs) return false;
    check_step step, whole = { .seqs = k->seqs, .n_seqs = n_seqs, .seq = -1 };
    if (!check_step_init(&step, c, k->seqs, n_seqs)) return false;
    check_name(c, "%s, %lld columns of %lld states, %s", k->what, (long long)k->cols,
               (long long)k->states, spey_dtype_name(k->dtype));
    spey_ragged *batch = check_batch(c, &a->batch, &step, 100);
    int64_t rows = check_step_tokens(&whole), first = check_step_first(&step);
    a->rows = check_step_tokens(&step);
    a->cols = k->cols;
    a->states = k->states;
    a->dtype = k->dtype;
    bind_inputs(c, k, rows, first, a);
    int64_t n = rows ? (rows - 1) * a->out_pitch + k->cols : 0;
    check_buffer *out = check_buffer_new(c, "out", k->dtype, n);
    check_bind(c, &a->out, out, first * a->out_pitch);
    check_output(c, out, first * a->out_pitch, a->rows, k->cols, a->out_pitch);
    check_states_new(c, k->group, k->cols * k->states, &step, batch, &a->state);
    return true;
}

static bool make(check *c, int index, void *args)
{
    return index < (int)(sizeof cases / sizeof cases[0]) && make_scan(c, &cases[index], args);
}

/* One state of one column, as it goes down the tokens: its value and how far a row's may be from it. */
typedef struct cell {
    double h, error;
} cell;

static const float *state_of(const spey_selective_scan_args *a, int64_t s)
{
    const spey_block_table *table = &a->batch->groups[a->state.group];
    int32_t block = table->blocks[s * table->pitch];
    return (const float *)(const void *)(a->state.base + a->state.offset +
                                         block * a->state.block_bytes);
}

/* numerics.md, Selective scan. */
static void advance(const spey_selective_scan_args *a, int64_t t, int64_t i, int64_t n, cell *h)
{
    const double u = check_unit(SPEY_F32);
    double dt = check_scalar(a->dt, a->dtype, t * a->dt_pitch + i);
    double delta = dt > 0 ? dt + log1p(exp(-dt)) : log1p(exp(dt));
    double rate = delta * exp((double)a->a_log[i * a->states + n]);
    double in = delta * check_scalar(a->x, a->dtype, t * a->x_pitch + i) *
                check_scalar(a->b, a->dtype, t * a->b_pitch + n);
    double decay = exp(-rate), kept = decay * h->h;
    h->error = decay * h->error + fabs(kept) * (14 * rate + 4) * u + fabs(in) * 13 * u;
    h->h = kept + in;
    h->error += 2 * u * fabs(h->h) + 0x1p-126;
}

static void bound_column(check *c, const spey_selective_scan_args *a, int64_t s, int64_t i)
{
    const double u = check_unit(SPEY_F32);
    const int64_t begin = a->batch->seq_start[s], end = a->batch->seq_start[s + 1];
    check_buffer *out = check_bound_to(c, &a->out), *states = check_bound_to(c, &a->state.base);
    const float *held = state_of(a, s) + i * a->states;
    const int64_t at = held - (const float *)(const void *)a->state.base;
    cell h[STATES_MAX] = { 0 };
    for (int64_t n = 0; n < a->states && a->batch->kv_len[s] > end - begin; n++)
        h[n].h = (double)held[n];
    for (int64_t t = begin; t < end; t++) {
        double x = check_scalar(a->x, a->dtype, t * a->x_pitch + i);
        double size = fabs((double)a->d[i] * x), error = 0;
        for (int64_t n = 0; n < a->states; n++) {
            double read = fabs(check_scalar(a->c, a->dtype, t * a->c_pitch + n));
            advance(a, t, i, n, &h[n]);
            size += read * fabs(h[n].h);
            error += read * h[n].error;
        }
        int64_t element = t * a->out_pitch + i;
        check_set_bound(out, element,
                        error + (double)(a->states + 2) * u * size +
                            check_rounding(a->dtype, check_reference(out, element)));
    }
    for (int64_t n = 0; n < a->states && end > begin; n++)
        check_set_bound(states, at + n, h[n].error);
}

static void bound(check *c, const void *args)
{
    const spey_selective_scan_args *a = args;
    for (int64_t s = 0; s < a->batch->n_seqs; s++)
        for (int64_t i = 0; i < a->cols; i++)
            bound_column(c, a, s, i);
}

static bool bench(check *c, int index, void *args)
{
    static const struct scan_case shapes[] = {
        { "decode", 5120, 16, SPEY_F32, 0, 0, -4, { { 1, 100 } } },
        { "prefill", 5120, 16, SPEY_F32, 0, 0, -4, { { 128, 128 } } },
    };
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const struct scan_case *k = &shapes[index];
    make_scan(c, k, args);
    double cells = (double)(k->seqs[0].n_tokens * k->cols);
    check_work(c, cells * 12 + (double)(k->cols * k->states * 12), cells * 16 * 20);
    return true;
}

const check_op check_selective_scan = { sizeof(spey_selective_scan_args), make, bound, bench };
