/* Products of one or two rows of x with weights of 16 bits, in place of the library, whose algorithms for so few rows are
 * slower (8192 x 2048 on an H100: 15 µs with it, 12 with this, launch included).
 *
 * who       A warp computes one output of all rows; lane l takes packs l, l + 32, … of 8 weights.
 * moves     w once, eight packs of 16 bytes of each lane in flight; x from L1.
 * bound by  memory.
 * bits      Depend on k alone. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/gemm/gemm_finish.h"

enum { THREADS = 256, PACKS = 8, STEP = 32 * 8 };

/* x as the products take it: rounded to w's type. */
template <spey_dtype W>
static __device__ __forceinline__ void load_x(const spey_gemm_args &a, int64_t at, bool inside,
                                              float *x)
{
    widen8(load_raw8(a.x, a.x_dtype, at, inside), a.x_dtype, x);
    if (a.x_dtype == W) return;
#pragma unroll
    for (int j = 0; j < 8; j += 2)
        widen_pair(narrow_pair(x[j], x[j + 1], W), W, x + j);
}

template <spey_dtype W, int ROWS>
static __global__ void __launch_bounds__(THREADS) gemv_rows(const spey_gemm_args a)
{
    const int lane = threadIdx.x % 32;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    if (n >= a.n) return;
    float sums[ROWS] = {};
    for (int64_t k = lane * 8; k < a.k; k += PACKS * STEP) {
        raw8 w[PACKS];
#pragma unroll
        for (int i = 0; i < PACKS; i++)
            w[i] = load_raw8(a.w, W, n * a.w_pitch + k + i * STEP, k + i * STEP < a.k);
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            float weights[8];
            widen8(w[i], W, weights);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                float x[8];
                load_x<W>(a, r * a.x_pitch + k + i * STEP, k + i * STEP < a.k, x);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    sums[r] = fmaf(x[j], weights[j], sums[r]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        const float sum = warp_sum(sums[r]) + (a.bias ? a.bias[n] : 0.0f);
        if (lane == 0) store_any(a.y, a.y_dtype, r * a.y_pitch + n, activate(sum, a.activation));
    }
}

template <spey_dtype W> static void launch(const spey_gemm_args *a, cudaStream_t stream)
{
    const unsigned grid = static_cast<unsigned>((a->n + THREADS / 32 - 1) / (THREADS / 32));
    if (a->rows == 1)
        gemv_rows<W, 1><<<grid, THREADS, 0, stream>>>(*a);
    else
        gemv_rows<W, 2><<<grid, THREADS, 0, stream>>>(*a);
}

bool spey_gemv_takes(const spey_gemm_args *a)
{
    if (a->rows > 2 || (a->w_dtype != SPEY_F16 && a->w_dtype != SPEY_BF16)) return false;
    return a->k % 8 == 0 && is_packed8(a->w, a->w_dtype, a->w_pitch) &&
           is_packed8(a->x, a->x_dtype, a->x_pitch);
}

void spey_gemv_launch(const spey_gemm_args *a, cudaStream_t stream)
{
    if (a->w_dtype == SPEY_F16)
        launch<SPEY_F16>(a, stream);
    else
        launch<SPEY_BF16>(a, stream);
}
