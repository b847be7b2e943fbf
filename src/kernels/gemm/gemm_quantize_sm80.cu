/* x to E4M3 with a scale for each row, before a product of E4M3 matrices: tensor/quant.h in the same arithmetic.
 *
 * who       A CTA of 256 threads takes a row; a thread takes packs of 8. By token: once through the row for its largest
 *           magnitude, again (from L1 or L2) to round it. Static: once.
 * moves     x once from memory, an eighth to a quarter of it out.
 * bound by  memory, or its launch for few rows. */
#include <cuda_fp8.h>

#include "kernels/cuda/element.cuh"
#include "kernels/gemm/gemm_finish.h"

enum { THREADS = 256, PACK = 8 };

static __device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

/* Every thread of the CTA gets the largest; `shared` has THREADS / 32 floats. */
static __device__ __forceinline__ float thread_max(float x, float *shared)
{
    x = warp_max(x);
    __syncthreads(); /* the row before has been read */
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(shared[threadIdx.x % (THREADS / 32)]);
}

/* PACKED: every row is whole aligned packs. */
template <bool PACKED>
static __device__ __forceinline__ float largest_of(const spey_gemm_args &a, int64_t first)
{
    float largest = 0.0f, v[PACK];
    for (int64_t c = threadIdx.x * PACK; c < a.k; c += THREADS * PACK) {
        load8<PACKED>(a.x, a.x_dtype, first + c, a.k - c, v);
#pragma unroll
        for (int j = 0; j < PACK; j++)
            largest = fmaxf(largest, fabsf(v[j]));
    }
    return largest;
}

/* Four elements, the first in the lowest byte. */
static __device__ __forceinline__ uint32_t round4(const float *v, float inverse)
{
    uint32_t bits = 0;
#pragma unroll
    for (int j = 0; j < 4; j++)
        bits |= static_cast<uint32_t>(
                    __nv_cvt_float_to_fp8(__fmul_rn(v[j], inverse), __NV_SATFINITE, __NV_E4M3))
                << (8 * j);
    return bits;
}

template <bool PACKED>
static __global__ void __launch_bounds__(THREADS)
    gemm_quantize(const spey_gemm_args a, uint8_t *out, float *scales)
{
    __shared__ float shared[THREADS / 32];
    for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
        const int64_t first = row * a.x_pitch;
        float scale, inverse;
        if (a.x_quant == SPEY_INPUT_STATIC) {
            scale = *a.x_scale;
            inverse = __fdiv_rn(1.0f, scale);
        } else {
            const float top = fmaxf(thread_max(largest_of<PACKED>(a, first), shared), 0x1p-60f);
            scale = __fdiv_rn(top, SPEY_E4M3_MAX);
            inverse = __fdiv_rn(SPEY_E4M3_MAX, top);
        }
        if (threadIdx.x == 0) scales[row] = scale;
        for (int64_t c = threadIdx.x * PACK; c < a.k; c += THREADS * PACK) {
            float v[PACK];
            load8<PACKED>(a.x, a.x_dtype, first + c, a.k - c, v);
            /* k is a multiple of 16: packs of the output are whole. */
            *reinterpret_cast<uint2 *>(out + row * a.k + c) =
                make_uint2(round4(v, inverse), round4(v + 4, inverse));
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
