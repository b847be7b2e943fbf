/* random_words on sm_80 and later.
 *
 * who       Threads take words in turn, as many CTAs as keep every SM busy.
 * bound by  memory. */
#include "base/splitmix.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/random_words/random_words.h"

enum { THREADS = 256 };
static const int64_t grid_max = 1 << 16;

static __global__ void __launch_bounds__(THREADS) fill_words(const spey_random_words_args a)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < a.rows;
         i += step)
        a.out[i] = (spey_splitmix(a.seed + static_cast<uint64_t>(i)) & a.keep) | a.set;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_random_words_args *a = static_cast<const spey_random_words_args *>(args);
    if (a->rows == 0) return;
    const int64_t ctas = (a->rows + THREADS - 1) / THREADS;
    fill_words<<<static_cast<unsigned>(ctas < grid_max ? ctas : grid_max), THREADS, 0,
                 spey_cuda_stream(lane)>>>(*a);
}

extern "C" const spey_kernel spey_random_words_sm80;
const spey_kernel spey_random_words_sm80 = { "random_words/sm80", 0, nullptr, nullptr, run, false };
