/* link on sm_80 and later.
 *
 * who       A thread moves one id.
 * bound by  latency: two loads one after the other. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/link/link.h"

enum { THREADS = 128 };

static __global__ void __launch_bounds__(THREADS) link_ids(const spey_link_args a)
{
    const int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (i >= a.rows) return;
    const int32_t id = a.found[a.numbers[i]];
    a.ids[a.places[i]] = id < 0 ? 0 : id;
}

static bool supports(const void *args)
{
    return static_cast<const spey_link_args *>(args)->rows <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_link_args *a = static_cast<const spey_link_args *>(args);
    if (a->rows == 0) return;
    const unsigned ctas = static_cast<unsigned>((a->rows + THREADS - 1) / THREADS);
    link_ids<<<ctas, THREADS, 0, spey_cuda_stream(lane)>>>(*a);
}

extern "C" const spey_kernel spey_link_sm80;
const spey_kernel spey_link_sm80 = { "link/sm80", 0, supports, nullptr, run, false };
