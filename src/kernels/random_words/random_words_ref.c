/* random_words: one multiplication chain for eight bytes, so it runs at the speed of memory, and the reference is the CPU's only
 * row. All lanes share the work, and the page faults. */
#include "base/splitmix.h"
#include "device/pool.h"
#include "kernels/random_words/random_words.h"
#include "kernels/rows.h"

static void run(const void *args, const spey_lane *lane)
{
    const spey_random_words_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1 << 18, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            a->out[i] = (spey_splitmix(a->seed + (uint64_t)i) & a->keep) | a->set;
}

const spey_kernel spey_random_words_ref = { .name = "random_words/ref", .run = run };
