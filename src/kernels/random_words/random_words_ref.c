/* random_words: one multiplication chain for eight bytes, so it runs at the speed of memory, and the reference is the CPU's only
 * row. All lanes share the work, and the page faults. */
#include "device/pool.h"
#include "kernels/random_words/random_words.h"
#include "kernels/rows.h"

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_random_words_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1 << 18, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            a->out[i] = (mix(a->seed + (uint64_t)i) & a->keep) | a->set;
}

const spey_kernel spey_random_words_ref = { .name = "random_words/ref", .run = run };
