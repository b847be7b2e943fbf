#include <math.h>

#include "check.h"
#include "kernels/rope/rope.h"

/* clang-format off */
static const struct table_case {
    const char *what;
    int64_t half;
    float magnitude;
    bool long_frequencies;
    int64_t long_from;
    double dynamic_factor, base;
    int64_t original;
    check_seq seqs[3]; /* ends with kv_len 0 */
} cases[] = {
    { "plain",              64, 1,     false, 0,    0, 1e4, 0,   { { 9, 9 }, { 1, 100 } } },
    { "one pair",            1, 1,     false, 0,    0, 1e4, 0,   { { 3, 7 } } },
    { "odd half",           13, 1.25f, false, 0,    0, 1e4, 0,   { { 3, 7 }, { 2, 2 } } },
    { "far",                32, 1,     false, 0,    0, 1e6, 0,   { { 2, 131000 }, { 1, 1000000 } } },
    { "near a zero of sin",  4, 1,     false, 0,    0, 1e4, 0,   { { 1, 1146406 }, { 1, 103991 } } },
    { "magnitude",          16, 0.5f,  false, 0,    0, 1e4, 0,   { { 4, 4 } } },
    { "long, some beyond",  24, 1.19f, true,  64,   0, 1e4, 0,   { { 2, 64 }, { 2, 65 }, { 3, 3 } } },
    { "long, from 0",       24, 1.19f, true,  0,    0, 1e4, 0,   { { 1, 1 } } },
    { "dynamic",            64, 1,     false, 0,    2, 1e4, 512, { { 3, 512 }, { 4, 513 }, { 5, 5000 } } },
    { "dynamic, base",      20, 1,     false, 0,    3, 5e5, 16,  { { 8, 20 } } },
    { "no tokens",          20, 1,     false, 0,    0, 5e5, 0,   { { 0, 20 } } },
};
/* clang-format on */

static int count(const check_seq seqs[3])
{
    int n = 0;
    while (n < 3 && seqs[n].kv_len)
        n++;
    return n;
}

static bool make_table(check *c, const struct table_case *k, spey_rope_table_args *a)
{
    /* A frequency of dynamic scaling depends on the whole length, so chunks of a sequence differ by contract. */
    int n_seqs = count(k->seqs);
    check_step step;
    if (!check_step_init(&step, c, k->seqs, n_seqs)) return false;
    if (check_part(c) > n_seqs && (k->dynamic_factor > 0 || k->long_frequencies)) return false;
    check_name(c, "%s, half %lld", k->what, (long long)k->half);
    check_batch(c, &a->batch, &step, 100);
    a->rows = check_step_tokens(&step);
    a->half = k->half;
    a->long_from = k->long_from;
    a->magnitude = k->magnitude;
    a->dynamic_factor = k->dynamic_factor;
    a->base = k->base;
    a->original_positions = k->original;
    check_buffer *inv_freq = check_buffer_new(c, "inv_freq", SPEY_F32, k->half);
    /* With dynamic scaling not those of its base, so that it is seen which ones were used. */
    double factor = k->dynamic_factor > 0 ? 0.9 : 1;
    for (int64_t i = 0; i < k->half; i++)
        check_set(inv_freq, i, factor * pow(k->base, -(double)i / (double)k->half));
    check_bind(c, &a->inv_freq, inv_freq, 0);
    if (k->long_frequencies) {
        check_buffer *longer = check_buffer_new(c, "inv_freq_long", SPEY_F32, k->half);
        for (int64_t i = 0; i < k->half; i++)
            check_set(longer, i, check_get(inv_freq, i) / (1 + (double)i));
        check_bind(c, &a->inv_freq_long, longer, 0);
    }
    check_step whole = { .seqs = k->seqs, .n_seqs = n_seqs, .seq = -1 };
    int64_t first = check_step_first(&step) * 2 * k->half;
    check_buffer *table =
        check_buffer_new(c, "table", SPEY_F32, check_step_tokens(&whole) * 2 * k->half);
    check_bind(c, &a->table, table, first);
    check_output(c, table, first, a->rows, 2 * k->half, 2 * k->half);
    return true;
}

static bool make(check *c, int index, void *args)
{
    return index < (int)(sizeof cases / sizeof cases[0]) && make_table(c, &cases[index], args);
}

/* docs/numerics.md, "Rotary embedding": the angle is the same float everywhere; its cosine is off by a unit before the
 * product and a unit after it. What is absolute is the error of the angle's reduction in double. */
static void bound(check *c, const void *args)
{
    const spey_rope_table_args *a = args;
    check_buffer *table = check_bound_to(c, &a->table);
    for (int64_t i = 0; i < a->rows * 2 * a->half; i++)
        check_set_bound(table, i,
                        2 * 0x1p-24 * fabs(check_reference(table, i)) +
                            check_rounding(SPEY_F32, check_reference(table, i)) +
                            0x1p-50 * fabs((double)a->magnitude));
}

static bool bench(check *c, int index, void *args)
{
    static const struct table_case shape = { "512 tokens",     64, 1, false, 0, 0, 1e4, 0,
                                             { { 512, 4096 } } };
    if (index) return false;
    make_table(c, &shape, args);
    check_work(c, 512.0 * 128 * 4, 512.0 * 128 * 20);
    return true;
}

const check_op check_rope_table = { sizeof(spey_rope_table_args), make, bound, bench };
