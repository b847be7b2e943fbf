#include <math.h>

#include "check.h"
#include "kernels/kv_append/kv_append.h"

/* clang-format off */
static const struct append_case {
    const char *what;
    int64_t n_heads, k_dim, v_dim;
    spey_dtype dtype, kv;
    int64_t pad;
    int32_t block_tokens, group;
    bool holes;
    check_seq seqs[4]; /* ends with kv_len 0 */
} cases[] = {
    { "one token",      1,  1,   1, SPEY_F32,  SPEY_F32,   0,  1, 0, false, { { 1, 1 } } },
    { "no tokens",      2, 16,  16, SPEY_F32,  SPEY_F32,   0, 16, 0, false, { { 0, 5 } } },
    { "prefill+decode", 2, 64,  64, SPEY_F32,  SPEY_F16,   3, 16, 1, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "chunk",          4, 80,  80, SPEY_F32,  SPEY_BF16,  0, 32, 0, true,  { { 40, 100 }, { 7, 64 } } },
    { "k and v differ", 3, 24,  40, SPEY_F32,  SPEY_F32,   5,  4, 2, true,  { { 9, 13 }, { 2, 8 }, { 3, 3 } } },
    { "odd",            3, 19,   7, SPEY_F32,  SPEY_F16,   1,  8, 0, true,  { { 9, 13 } } },
    { "odd",            3, 19,   7, SPEY_F32,  SPEY_BF16,  1,  8, 0, false, { { 9, 13 } } },
    { "bf16",           2, 128, 128, SPEY_BF16, SPEY_BF16, 8, 16, 0, false, { { 9, 20 }, { 1, 16 } } },
    { "bf16",           2, 64,  64, SPEY_BF16, SPEY_F16,   8, 16, 0, false, { { 9, 20 } } },
    { "f16",            2, 64,  64, SPEY_F16,  SPEY_F16,   8, 16, 0, true,  { { 9, 20 } } },
    { "e4m3",           3, 64,  48, SPEY_F32,  SPEY_E4M3,  3, 16, 1, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "e4m3, scaled",   3, 19,  37, SPEY_F32,  SPEY_E4M3,  0,  8, 0, false, { { 9, 13 } } },
    { "bf16",           2, 128, 128, SPEY_BF16, SPEY_E4M3, 8, 16, 0, false, { { 9, 20 }, { 1, 16 } } },
    { "i8",             3, 64,  48, SPEY_F32,  SPEY_I8,    3, 16, 1, true,  { { 20, 20 }, { 1, 33 }, { 1, 1 } } },
    { "i8, odd",        3, 19,  37, SPEY_F32,  SPEY_I8,    0,  8, 0, false, { { 9, 13 } } },
    { "bf16",           4, 128, 128, SPEY_BF16, SPEY_I8,   8, 16, 2, true,  { { 9, 20 }, { 1, 16 } } },
    { "f16",            2, 64,  64, SPEY_F16,  SPEY_F32,   8, 16, 0, true,  { { 9, 20 } } },
};
/* clang-format on */

/* Values whose conversion is hard: ties, the edges of F16's range, subnormals, infinities, NaN. */
static void put_hard_values(check_buffer *b, int64_t first, int64_t n)
{
    static const double hard[] = { 1 + 0x1p-11, 1 + 3 * 0x1p-11, 1 + 0x1p-8, 1 + 3 * 0x1p-8,
                                   65519.99,    65520,           -70000,     0x1p-24,
                                   0x1p-25,     3 * 0x1p-25,     0x1p-140,   -0.0,
                                   3.4e38 };
    for (int64_t i = 0; i < (int64_t)(sizeof hard / sizeof hard[0]) && i < n; i++)
        check_set(b, first + i, hard[i]);
}

/* Heads whose scale is no ordinary number: head 1 has an infinity, head 2 a NaN in its place or nothing but tiny ones. */
static void put_hard_heads(check_buffer *b, const struct append_case *k, int64_t dim, bool tiny)
{
    if (k->n_heads < 3) return;
    check_set(b, dim + dim / 2, tiny ? -(double)INFINITY : (double)INFINITY);
    for (int64_t i = 0; i < dim && tiny; i++)
        check_set(b, 2 * dim + i, i % 2 ? 7e-31 : -5e-31);
    if (!tiny) check_set(b, 2 * dim + dim - 1, (double)NAN);
}

static bool make_append(check *c, const struct append_case *k, spey_kv_append_args *a)
{
    int n_seqs = 0;
    while (n_seqs < 4 && k->seqs[n_seqs].kv_len)
        n_seqs++;
    check_step step, whole = { .seqs = k->seqs, .n_seqs = n_seqs, .seq = -1 };
    if (!check_step_init(&step, c, k->seqs, n_seqs)) return false;
    check_name(c, "%s, %lld heads %lld/%lld, %s to %s, blocks of %d", k->what,
               (long long)k->n_heads, (long long)k->k_dim, (long long)k->v_dim,
               spey_dtype_name(k->dtype), spey_dtype_name(k->kv), k->block_tokens);
    spey_ragged *batch = check_batch(c, &a->batch, &step, 100);
    int64_t k_width = k->n_heads * k->k_dim, v_width = k->n_heads * k->v_dim;
    int64_t rows = check_step_tokens(&whole), first = check_step_first(&step);
    a->rows = check_step_tokens(&step);
    a->n_heads = k->n_heads;
    a->k_dim = k->k_dim;
    a->v_dim = k->v_dim;
    a->dtype = k->dtype;
    a->k_pitch = k_width + k->pad;
    a->v_pitch = v_width + 2 * k->pad;
    check_buffer *key = check_matrix(c, "k", k->dtype, rows, k_width, a->k_pitch, 0, 1);
    check_buffer *value = check_matrix(c, "v", k->dtype, rows, v_width, a->v_pitch, 0, 1);
    if (rows) {
        put_hard_values(key, 0, k_width);
        put_hard_values(value, (rows - 1) * a->v_pitch, v_width);
        if (spey_dtype_bytes(k->kv) == 1) put_hard_heads(key, k, k->k_dim, true);
        if (spey_dtype_bytes(k->kv) == 1) put_hard_heads(value, k, k->v_dim, false);
    }
    check_bind(c, &a->k, key, first * a->k_pitch);
    check_bind(c, &a->v, value, first * a->v_pitch);
    const check_cache cache = { .dtype = k->kv,
                                .group = k->group,
                                .block_tokens = k->block_tokens,
                                .n_heads = k->n_heads,
                                .k_dim = k->k_dim,
                                .v_dim = k->v_dim,
                                .pad = k->holes,
                                .scaled = !k->holes };
    check_buffer *pool = check_cache_new(c, &cache, &step, batch, &a->kv);
    for (int s = 0; s < batch->n_seqs; s++) {
        int seq = step.seq < 0 ? s : step.seq;
        for (int64_t i = batch->kv_len[s] - (batch->seq_start[s + 1] - batch->seq_start[s]);
             i < batch->kv_len[s]; i++) {
            for (int64_t h = 0; h < k->n_heads; h++) {
                check_output(c, pool, check_cache_k(c, &a->kv, seq, h, i), 1, k->k_dim, 0);
                check_output(c, pool, check_cache_v(c, &a->kv, seq, h, i), 1, k->v_dim, 0);
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

static bool bench(check *c, int index, void *args)
{
    static const struct append_case shapes[] = {
        { "prefill", 8, 128, 128, SPEY_F32, SPEY_BF16, 0, 16, 0, false, { { 512, 512 } } },
        { "prefill", 8, 128, 128, SPEY_F32, SPEY_F16, 0, 16, 0, false, { { 512, 512 } } },
    };
    if (index >= (int)(sizeof shapes / sizeof shapes[0])) return false;
    make_append(c, &shapes[index], args);
    check_work(c, 512.0 * 8 * 256 * (4 + 2), 0);
    return true;
}

const check_op check_kv_append = { sizeof(spey_kv_append_args), make, NULL, bench };
