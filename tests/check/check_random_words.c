#include "check.h"
#include "kernels/random_words/random_words.h"

/* Words are pairs of F32 to the harness: no bit pattern of these masks is a NaN. */
static const struct fill_case {
    int64_t words;
    uint64_t seed, keep, set;
} cases[] = {
    { 0, 1, 0x80ffffff80ffffffu, 0x3c0000003c000000u },
    { 1, 1, 0x80ffffff80ffffffu, 0x3c0000003c000000u },
    { 3, UINT64_MAX, 0x80ff80ff80ff80ffu, 0x3c003c003c003c00u },
    { 1000, 77, 0x80ff80ff80ff80ffu, 0x3c003c003c003c00u },
    { 300000, 5, 0x8787878787878787u, 0x3838383838383838u },
    { 257, 9, 0, 0x3f8000003f800000u },
};

static bool make(check *c, int index, void *args)
{
    if (index >= (int)(sizeof cases / sizeof cases[0]) || check_part(c) > 0) return false;
    const struct fill_case *k = &cases[index];
    spey_random_words_args *a = args;
    *a = (spey_random_words_args){
        .rows = k->words, .seed = k->seed, .keep = k->keep, .set = k->set
    };
    check_buffer *out = check_buffer_new(c, "out", SPEY_F32, 2 * k->words);
    check_bind(c, &a->out, out, 0);
    check_output(c, out, 0, 1, 2 * k->words, 2 * k->words);
    check_name(c, "%lld words, seed %llx, keep %llx, set %llx", (long long)k->words,
               (unsigned long long)k->seed, (unsigned long long)k->keep,
               (unsigned long long)k->set);
    return true;
}

static bool bench(check *c, int index, void *args)
{
    if (index > 0) return false;
    spey_random_words_args *a = args;
    *a = (spey_random_words_args){ .rows = 1 << 25,
                                   .keep = 0x80ff80ff80ff80ffu,
                                   .set = 0x3c003c003c003c00u };
    check_bind(c, &a->out, check_buffer_new(c, "out", SPEY_F32, 2 * a->rows), 0);
    check_name(c, "256 MiB");
    check_work(c, 8.0 * (double)a->rows, 10.0 * (double)a->rows);
    return true;
}

const check_op check_random_words = { sizeof(spey_random_words_args), make, NULL, bench };
