#include "check.h"
#include "kernels/random_normal/random_normal.h"

/* Scales as weights have them, ones that make E4M3 saturate and F16 subnormal, and a seed whose words wrap around. */
static const struct normal_case {
    spey_dtype dtype;
    int64_t words;
    uint64_t seed;
    float scale;
} cases[] = {
    { SPEY_BF16, 0, 1, 0.013f },     { SPEY_BF16, 1, 1, 0.013f },
    { SPEY_BF16, 1000, 77, 0.013f }, { SPEY_F16, 3, UINT64_MAX, 0.013f },
    { SPEY_F16, 1001, 5, 0x1p-16f }, { SPEY_F32, 1, 2, 1 },
    { SPEY_F32, 20001, 3, 0.013f },  { SPEY_E4M3, 1, 4, 69 },
    { SPEY_E4M3, 1001, 6, 69 },      { SPEY_E4M3, 257, UINT64_MAX - 100, 200 },
    { SPEY_E4M3, 300, 8, 0x1p-7f },  { SPEY_BF16, 300000, 9, 3 },
    { SPEY_E4M3, 300000, 10, 69 },
};

static check_buffer *new_output(check *c, spey_random_normal_args *a)
{
    int64_t n = a->rows * 8 / (int64_t)spey_dtype_bytes(a->dtype);
    check_buffer *out = check_buffer_new(c, "out", a->dtype, n);
    check_bind(c, &a->out, out, 0);
    return out;
}

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0]) || check_part(c) > 0) return false;
    const struct normal_case *k = &cases[index];
    spey_random_normal_args *a = args;
    *a = (spey_random_normal_args){
        .rows = k->words, .seed = k->seed, .scale = k->scale, .dtype = k->dtype
    };
    check_buffer *out = new_output(c, a);
    check_output(c, out, 0, 1, check_length(out), check_length(out));
    check_name(c, "%lld words of %s, seed %llx, scale %g", (long long)k->words,
               spey_dtype_name(k->dtype), (unsigned long long)k->seed, (double)k->scale);
    return true;
}

static bool bench(check *c, int index, void *args)
{
    static const spey_dtype dtypes[] = { SPEY_BF16, SPEY_E4M3, SPEY_F32 };
    if (index > 2) return false;
    spey_random_normal_args *a = args;
    *a = (spey_random_normal_args){ .rows = 1 << 25, .scale = 0.013f, .dtype = dtypes[index] };
    new_output(c, a);
    check_name(c, "256 MiB of %s", spey_dtype_name(a->dtype));
    check_work(c, 8.0 * (double)a->rows, 0);
    return true;
}

const check_op check_random_normal = { sizeof(spey_random_normal_args), make, NULL, bench };
