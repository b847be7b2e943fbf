/* x to E4M3 with a scale for each row, before a product of E4M3 matrices: tensor/quant.h in the same arithmetic.
 *
 * who       A CTA of 256 threads takes a row; a thread takes packs of 8. By token: once through the row for its largest
 *           magnitude, again (from L1 or L2) to round it. Static: once.
 * moves     x once from memory, an eighth to a quarter of it out.
 * bound by  memory, or its launch for few rows. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/round_e4m3.cuh"
#include "kernels/gemm/gemm_finish.h"

enum { THREADS = 256, PACK = 8 };

/* PACKED: every row is whole aligned packs. */
template <bool PACKED>
static __device__ __forceinline__ float largest_of(const spey_gemm_args &a, int64_t first)
{
    float largest = 0.0f, v[PACK];
    for (int64_t c = threadIdx.x * PACK; c < a.k; c += THREADS * PACK) {
        load8<PACKED>(a.x, a.x_dtype, first + c, a.k - c, v);
        largest = largest_of8(v, largest);
    }
    return largest;
}

template <bool PACKED>
static __global__ void __launch_bounds__(THREADS)
    gemm_quantize(const spey_gemm_args a, uint8_t *out, float *scales)
{
    __shared__ float shared[2][THREADS / 32]; /* in turns: the row before may still be read */
    int turn = 0;
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x, turn ^= 1) {
        const int64_t first = row * a.x_pitch;
        const spey_e4m3_scale scale =
            a.x_quant == SPEY_INPUT_STATIC
                ? e4m3_static_scale(a.x_scale)
                : e4m3_scale_of(thread_max<THREADS>(largest_of<PACKED>(a, first), shared[turn]));
        if (threadIdx.x == 0) scales[row] = scale.scale;
        for (int64_t c = threadIdx.x * PACK; c < a.k; c += THREADS * PACK) {
            float v[PACK];
            load8<PACKED>(a.x, a.x_dtype, first + c, a.k - c, v);
            /* k is a multiple of 16: packs of the output are whole. */
            *reinterpret_cast<uint2 *>(out + row * a.k + c) = round8(v, scale.inverse);
        }
    }
}

void spey_gemm_quantize_launch(const spey_gemm_args *a, void *out, float *scales,
                               cudaStream_t stream)
{
    const unsigned grid = static_cast<unsigned>(a->rows < 65535 ? a->rows : 65535);
    uint8_t *bytes = static_cast<uint8_t *>(out);
    if (is_packed8(a->x, a->x_dtype, a->x_pitch))
        gemm_quantize<true><<<grid, THREADS, 0, stream>>>(*a, bytes, scales);
    else
        gemm_quantize<false><<<grid, THREADS, 0, stream>>>(*a, bytes, scales);
}
