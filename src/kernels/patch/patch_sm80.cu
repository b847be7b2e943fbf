/* patch on sm_80 and later.
 *
 * who       A thread writes one number.
 * bound by  latency: a load and a store. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/patch/patch.h"

enum { THREADS = 256 };

static __global__ void __launch_bounds__(THREADS) patch_words(const spey_patch_args a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.rows) return;
    const spey_patch patch = a.patches[i];
    a.words[patch.place] = patch.value;
}

static bool supports(const void *args)
{
    return static_cast<const spey_patch_args *>(args)->rows <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_patch_args *a = static_cast<const spey_patch_args *>(args);
    if (a->rows == 0) return;
    const unsigned ctas = static_cast<unsigned>((a->rows + THREADS - 1) / THREADS);
    patch_words<<<ctas, THREADS, 0, spey_cuda_stream(lane)>>>(*a);
}

extern "C" const spey_kernel spey_patch_sm80;
const spey_kernel spey_patch_sm80 = { "patch/sm80", 0, supports, nullptr, run, false };
