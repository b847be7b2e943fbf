#include <math.h>

#include "check.h"
#include "kernels/rope/rope.h"

/* clang-format off */
static const struct append_case {
    const char *what;
    int64_t n_heads, n_kv_heads, head_dim, rotary_dim;
    spey_rope_pairing pairing;
    spey_dtype dtype, kv;
    int64_t pad;
    bool in_place;
    int32_t block_tokens, group;
    bool holes;
    check_seq seqs[4]; /* ends with kv_len 0 */
} cases[] = {
    { "one token",      1, 1,   2,   2, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_F32,  0, false,  1, 0, false, { { 1, 1 } } },
    { "no tokens",      2, 1,  16,  16, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_F32,  0, false, 16, 0, false, { { 0, 5 } } },
    { "prefill+decode", 6, 2,  64,  64, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_F16,  3, false, 16, 1, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "pairs",          6, 2,  64,  64, SPEY_ROPE_INTERLEAVED, SPEY_F32,  SPEY_BF16, 3, true,  16, 0, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "part rotated",   4, 4,  80,  32, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_BF16, 0, true,  32, 2, true,  { { 40, 100 }, { 7, 64 } } },
    { "no rotation",    4, 4,  40,   0, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_BF16, 2, false, 32, 0, true,  { { 5, 10 } } },
    { "odd",            3, 1,  19,  14, SPEY_ROPE_INTERLEAVED, SPEY_F32,  SPEY_F32,  1, false,  4, 0, true,  { { 9, 13 }, { 2, 8 } } },
    { "bf16",           8, 2, 128, 128, SPEY_ROPE_HALF,        SPEY_BF16, SPEY_BF16, 8, false, 16, 0, false, { { 9, 20 }, { 1, 16 } } },
    { "bf16 in place",  8, 2, 128,  64, SPEY_ROPE_HALF,        SPEY_BF16, SPEY_BF16, 8, true,  16, 0, false, { { 9, 20 }, { 1, 16 } } },
    { "e4m3",           6, 2,  64,  64, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_E4M3, 3, false, 16, 1, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "e4m3, scaled",   3, 3,  20,  14, SPEY_ROPE_INTERLEAVED, SPEY_F32,  SPEY_E4M3, 1, true,   4, 0, false, { { 9, 13 }, { 2, 8 } } },
    { "i8",             6, 2,  64,  64, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_I8,   3, true,  16, 1, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "i8, odd",        3, 1,  19,  14, SPEY_ROPE_INTERLEAVED, SPEY_F32,  SPEY_I8,   1, false,  4, 0, false, { { 9, 13 }, { 2, 8 } } },
    { "i8, no rotation", 3, 2, 40,   0, SPEY_ROPE_HALF,        SPEY_F32,  SPEY_I8,   1, false,  4, 0, false, { { 9, 13 }, { 2, 8 } } },
    { "f16",            2, 2,  64,  64, SPEY_ROPE_INTERLEAVED, SPEY_F16,  SPEY_F16,  8, false, 16, 0, true,  { { 9, 20 } } },
    { "bf16 to e4m3",   6, 2, 128, 128, SPEY_ROPE_HALF,        SPEY_BF16, SPEY_E4M3, 8, true,  16, 1, false, { { 9, 20 }, { 1, 16 }, { 30, 30 } } },
    { "bf16 to e4m3, part", 4, 4, 96, 32, SPEY_ROPE_INTERLEAVED, SPEY_BF16, SPEY_E4M3, 8, false, 32, 0, false, { { 9, 20 }, { 1, 16 } } },
    { "f16 to e4m3, part", 5, 1, 112, 48, SPEY_ROPE_HALF,      SPEY_F16,  SPEY_E4M3, 0, true,  16, 0, true,  { { 9, 20 }, { 1, 16 } } },
    { "bf16, no rotation", 3, 3, 48,  0, SPEY_ROPE_HALF,       SPEY_BF16, SPEY_BF16, 8, false, 16, 0, true,  { { 9, 20 }, { 1, 16 } } },
    { "bf16 to f16",    4, 2,  64,  64, SPEY_ROPE_HALF,        SPEY_BF16, SPEY_F16,  8, false, 16, 0, false, { { 9, 20 } } },
    { "bf16 to i8",     4, 2,  64,  64, SPEY_ROPE_HALF,        SPEY_BF16, SPEY_I8,   8, true,  16, 0, false, { { 9, 20 }, { 1, 16 } } },
    { "f16, wide",      2, 1, 256,  64, SPEY_ROPE_INTERLEAVED, SPEY_F16,  SPEY_F16,  8, false, 16, 0, false, { { 9, 20 }, { 1, 16 } } },
    /* So many that a thread takes several heads, the last one fewer. */
    { "many",          21, 2, 128,  96, SPEY_ROPE_HALF,        SPEY_BF16, SPEY_E4M3, 8, true,  64, 0, false, { { 171, 300 } } },
};
/* clang-format on */

static bool make_append(check *c, const struct append_case *k, spey_rope_append_args *a)
{
    int n_seqs = 0;
    while (n_seqs < 4 && k->seqs[n_seqs].kv_len)
        n_seqs++;
    check_step step, whole = { .seqs = k->seqs, .n_seqs = n_seqs, .seq = -1 };
    if (!check_step_init(&step, c, k->seqs, n_seqs)) return false;
    check_name(c, "%s, heads %lld/%lld of %lld, rotate %lld, %s to %s", k->what,
               (long long)k->n_heads, (long long)k->n_kv_heads, (long long)k->head_dim,
               (long long)k->rotary_dim, spey_dtype_name(k->dtype), spey_dtype_name(k->kv));
    spey_ragged *batch = check_batch(c, &a->batch, &step, 100);
    int64_t rows = check_step_tokens(&whole), first = check_step_first(&step);
    int64_t q_width = k->n_heads * k->head_dim;
    int64_t width = q_width + 2 * k->n_kv_heads * k->head_dim;
    a->rows = check_step_tokens(&step);
    a->n_heads = k->n_heads;
    a->n_kv_heads = k->n_kv_heads;
    a->head_dim = k->head_dim;
    a->rotary_dim = k->rotary_dim;
    a->pairing = k->pairing;
    a->dtype = k->dtype;
    a->qkv_pitch = width + k->pad;
    a->q_pitch = k->in_place ? a->qkv_pitch : q_width + 2 * k->pad;
    if (k->rotary_dim)
        check_bind(c, &a->table,
                   check_matrix(c, "table", SPEY_F32, rows, k->rotary_dim, k->rotary_dim, 0, 1),
                   first * k->rotary_dim);
    check_buffer *qkv = check_matrix(c, "qkv", k->dtype, rows, width, a->qkv_pitch, 0, 1);
    int64_t n = rows ? (rows - 1) * a->q_pitch + q_width : 0;
    check_buffer *q = k->in_place ? qkv : check_buffer_new(c, "q_out", k->dtype, n);
    check_bind(c, &a->qkv, qkv, first * a->qkv_pitch);
    check_bind(c, &a->q_out, q, first * a->q_pitch);
    check_output(c, q, first * a->q_pitch, a->rows, q_width, a->q_pitch);
    const check_cache cache = { .dtype = k->kv,
                                .group = k->group,
                                .block_tokens = k->block_tokens,
                                .n_heads = k->n_kv_heads,
                                .k_dim = k->head_dim,
                                .v_dim = k->head_dim,
                                .pad = k->holes,
                                .scaled = !k->holes };
    check_buffer *pool = check_cache_new(c, &cache, &step, batch, &a->kv);
    for (int s = 0; s < batch->n_seqs; s++) {
        int seq = step.seq < 0 ? s : step.seq;
        for (int64_t i = batch->kv_len[s] - (batch->seq_start[s + 1] - batch->seq_start[s]);
             i < batch->kv_len[s]; i++) {
            for (int64_t h = 0; h < k->n_kv_heads; h++) {
                check_output(c, pool, check_cache_k(c, &a->kv, seq, h, i), 1, k->head_dim, 0);
                check_output(c, pool, check_cache_v(c, &a->kv, seq, h, i), 1, k->head_dim, 0);
                if (k->kv != SPEY_I8) continue;
                check_buffer *scales = check_bound_to(c, &a->kv.token_scales);
                check_output(c, scales, check_cache_k_scale(c, &a->kv, seq, h, i), 1, 1, 0);
                check_output(c, scales, check_cache_v_scale(c, &a->kv, seq, h, i), 1, 1, 0);
            }
        }
    }
    return true;
}

static bool make(check *c, int index, void *args)
{
    return index < (int)(sizeof cases / sizeof cases[0]) && make_append(c, &cases[index], args);
}

/* One head that starts at element `x` of qkv and lands at element `at` of `out`, divided by `scale`. Returns the largest
 * error before that. */
static double bound_head(const spey_rope_append_args *a, int64_t r, int64_t x, check_buffer *out,
                         spey_dtype dtype, int64_t at, double scale)
{
    int64_t half = a->rotary_dim / 2;
    double most = 0;
    for (int64_t p = 0; p < half; p++) {
        bool is_half = a->pairing == SPEY_ROPE_HALF;
        int64_t first = is_half ? p : 2 * p, second = is_half ? p + half : 2 * p + 1;
        double xa = fabs(check_scalar(a->qkv, a->dtype, x + first));
        double xb = fabs(check_scalar(a->qkv, a->dtype, x + second));
        double cosine = fabs((double)a->table[r * a->rotary_dim + p]);
        double sine = fabs((double)a->table[r * a->rotary_dim + half + p]);
        double error_a = 2 * 0x1p-24 * (xa * cosine + xb * sine);
        double error_b = 2 * 0x1p-24 * (xb * cosine + xa * sine);
        check_set_bound(out, at + first,
                        error_a / scale + check_rounding(dtype, check_reference(out, at + first)));
        check_set_bound(out, at + second,
                        error_b / scale + check_rounding(dtype, check_reference(out, at + second)));
        most = fmax(most, fmax(error_a, error_b));
    }
    return most;
}

/* K of KV head h of token r. I8: the scale follows the largest element, which is off by as much as any; and with it all
 * elements, so also those that are not rotated may fall to the other side of a tie. */
static void bound_key(check *c, const spey_rope_append_args *a, int64_t r, int64_t h)
{
    int s = a->batch->token_seq[r];
    int64_t i = a->batch->kv_len[s] - a->batch->seq_start[s + 1] + r;
    int64_t x = r * a->qkv_pitch + (a->n_heads + h) * a->head_dim;
    int64_t at = check_cache_k(c, &a->kv, s, h, i);
    check_buffer *pool = check_bound_to(c, &a->kv.base);
    double scale = a->kv.k_scale ? (double)a->kv.k_scale[h] : 1;
    if (a->kv.dtype != SPEY_I8) {
        bound_head(a, r, x, pool, a->kv.dtype, at, scale);
        return;
    }
    check_buffer *scales = check_bound_to(c, &a->kv.token_scales);
    int64_t scale_at = check_cache_k_scale(c, &a->kv, s, h, i);
    scale = check_reference(scales, scale_at);
    double error = bound_head(a, r, x, pool, SPEY_I8, at, scale);
    for (int64_t d = a->rotary_dim; d < a->head_dim && a->rotary_dim; d++)
        check_set_bound(pool, at + d, 1);
    if (a->rotary_dim) check_set_bound(scales, scale_at, error / 127 + 4 * 0x1p-24 * scale);
}

/* docs/numerics.md, "Rotary embedding". V, and what is not rotated, stays exact. */
static void bound(check *c, const void *args)
{
    const spey_rope_append_args *a = args;
    check_buffer *q = check_bound_to(c, &a->q_out);
    for (int64_t r = 0; r < a->rows; r++) {
        for (int64_t h = 0; h < a->n_heads; h++)
            bound_head(a, r, r * a->qkv_pitch + h * a->head_dim, q, a->dtype,
                       r * a->q_pitch + h * a->head_dim, 1);
        for (int64_t h = 0; h < a->n_kv_heads; h++)
            bound_key(c, a, r, h);
    }
}

static bool bench(check *c, int index, void *args)
{
    /* clang-format off */
    static const struct append_case shapes[] = {
        { "prefill", 32, 8, 128, 128, SPEY_ROPE_HALF, SPEY_F32,  SPEY_BF16, 0, true,  16, 0, false, { { 512, 512 } } },
        { "many",    64, 8, 128, 128, SPEY_ROPE_HALF, SPEY_BF16, SPEY_BF16, 0, true,  64, 0, false, { { 2048, 2048 } } },
        { "many",    64, 8, 128, 128, SPEY_ROPE_HALF, SPEY_BF16, SPEY_E4M3, 0, true,  64, 0, false, { { 2880, 2880 } } },
        { "some",    32, 8, 128, 128, SPEY_ROPE_HALF, SPEY_BF16, SPEY_E4M3, 0, true,  64, 0, false, { { 256, 256 } } },
        { "one",     32, 8, 128, 128, SPEY_ROPE_HALF, SPEY_BF16, SPEY_BF16, 0, true,  64, 0, false, { { 1, 100 } } },
    };
    /* clang-format on */
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    const struct append_case *k = &shapes[index];
    make_append(c, k, args);
    const double q = (double)(k->seqs[0].n_tokens * k->n_heads * k->head_dim);
    const double kv = (double)(k->seqs[0].n_tokens * 2 * k->n_kv_heads * k->head_dim);
    const double bytes = (double)spey_dtype_bytes(k->dtype);
    check_work(c, q * 2 * bytes + kv * (bytes + (double)spey_dtype_bytes(k->kv)), (q + kv / 2) * 3);
    return true;
}

const check_op check_rope_append = { sizeof(spey_rope_append_args), make, bound, bench };
