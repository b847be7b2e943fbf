/* Products of FP32 weights with few outputs, which routers of experts are, in place of the library: that has few tiles of
 * outputs to spread over the SMs, and wants x converted first.
 *
 * who       A warp computes one output of 8 rows; lane l takes packs l, l + 32, … of 8 along k. The warps of a CTA share rows.
 * moves     w once for 8 rows, from the L2 cache; x from L1.
 * bound by  latency, then arithmetic.
 * bits      Depend on k alone. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/gemm/gemm_finish.h"

enum { THREADS = 256, ROWS = 8, STEP = 32 * 8, OUTPUTS_MAX = 512, BATCH_MAX = 512 };

static __global__ void __launch_bounds__(THREADS) narrow_rows(const spey_gemm_args a)
{
    const int lane = threadIdx.x % 32;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    const int64_t first = static_cast<int64_t>(blockIdx.y) * ROWS;
    begin_early();
    if (n >= a.n) return;
    float sums[ROWS] = {};
#pragma unroll 2
    for (int64_t k = lane * 8; k < a.k; k += STEP) {
        raw8 raw[ROWS];
        const raw8 raw_w = load_raw8(a.w, SPEY_F32, n * a.w_pitch + k, true);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            raw[r] = load_raw8(a.x, a.x_dtype, (first + r) * a.x_pitch + k, first + r < a.rows);
        float w[8];
        widen8(raw_w, SPEY_F32, w);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float x[8];
            widen8(raw[r], a.x_dtype, x);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sums[r] = fmaf(x[j], w[j], sums[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float sum = warp_sum(sums[r]) + (a.bias ? a.bias[n] : 0.0f);
        if (lane == 0 && first + r < a.rows)
            store_any(a.y, a.y_dtype, (first + r) * a.y_pitch + n, activate(sum, a.activation));
    }
}

bool spey_narrow_takes(const spey_gemm_args *a)
{
    return a->w_dtype == SPEY_F32 && a->n <= OUTPUTS_MAX && a->rows <= BATCH_MAX && a->k % 8 == 0 &&
           is_packed8(a->w, a->w_dtype, a->w_pitch) && is_packed8(a->x, a->x_dtype, a->x_pitch);
}

void spey_narrow_launch(const spey_device *device, const spey_gemm_args *a)
{
    const dim3 grid(static_cast<unsigned>((a->n + THREADS / 32 - 1) / (THREADS / 32)),
                    static_cast<unsigned>((a->rows + ROWS - 1) / ROWS));
    launch_early(device, { grid, dim3(THREADS), 0 }, narrow_rows, *a);
}
