/* argmax on sm_80 and later.
 *
 * who       One CTA of 1024 threads per row. cuda/order.cuh says how a float and its place are compared at once.
 * moves     x once, four packs of 16 bytes in flight per thread.
 * bound by  memory for many rows; for one by what a single SM reads: a vocabulary of 128k takes some 5 µs. */
#include "kernels/argmax/argmax.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/order.cuh"

enum { THREADS = 1024, PACKS = 4 };

template <bool PACKED>
static __global__ void __launch_bounds__(THREADS) argmax_rows(const spey_argmax_args a)
{
    constexpr int N = PACKED ? 4 : 1, STEP = THREADS * N;
    __shared__ uint64_t shared[THREADS / 32];
    const float *x = a.x + blockIdx.x * a.x_pitch;
    const uint32_t cols = static_cast<uint32_t>(a.cols);
    uint64_t best = 0;
    begin_early();
    for (uint32_t c = threadIdx.x * N; c < cols; c += PACKS * STEP) {
        float values[PACKS][N];
#pragma unroll
        for (int i = 0; i < PACKS; i++)
            load_pack<N>(x + c + i * STEP, c + i * STEP < cols, values[i]);
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
#pragma unroll
            for (int j = 0; j < N; j++)
                if (c + i * STEP < cols)
                    best = larger(best, order_of(values[i][j], c + i * STEP + j));
        }
    }
    best = warp_largest(best);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    best = warp_largest(shared[threadIdx.x]);
    if (threadIdx.x == 0) a.out[blockIdx.x] = place_of(best);
}

static bool supports(const void *args)
{
    const spey_argmax_args *a = static_cast<const spey_argmax_args *>(args);
    return a->cols <= INT32_MAX / 2 && a->rows <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_argmax_args *a = static_cast<const spey_argmax_args *>(args);
    if (a->rows == 0) return;
    const unsigned rows = static_cast<unsigned>(a->rows);
    const bool packed = is_aligned16(a->x) && a->x_pitch % 4 == 0 && a->cols % 4 == 0;
    launch_early(spey_cuda_device(lane), { dim3(rows), dim3(THREADS), 0 },
                 packed ? argmax_rows<true> : argmax_rows<false>, *a);
}

extern "C" const spey_kernel spey_argmax_sm80;
const spey_kernel spey_argmax_sm80 = { "argmax/sm80", 0, supports, nullptr, run, false };
