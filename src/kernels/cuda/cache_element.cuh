/* Elements on their way into a KV cache: as cuda/element.cuh, and E4M3 divided by a head's scale (kernels/kv_bytes.h). */
#ifndef SPEY_KERNELS_CUDA_CACHE_ELEMENT_CUH
#define SPEY_KERNELS_CUDA_CACHE_ELEMENT_CUH

#include <cuda_fp8.h>

#include "kernels/cuda/element.cuh"

/* Two of them, the first in the low half; at most 448, NaN stays NaN. */
static __device__ __forceinline__ uint32_t e4m3_pair(float a, float b)
{
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
}

/* Eight elements whose address is a multiple of their size, at most 16. `inverse`: of E4M3's scale. */
static __device__ __forceinline__ void cache_store8(void *p, spey_dtype dtype, int64_t at,
                                                    float inverse, const float *in)
{
    if (dtype != SPEY_E4M3) {
        store8(p, dtype, at, in);
        return;
    }
    uint32_t words[2];
#pragma unroll
    for (int w = 0; w < 2; w++)
        words[w] = e4m3_pair(in[4 * w] * inverse, in[4 * w + 1] * inverse) |
                   e4m3_pair(in[4 * w + 2] * inverse, in[4 * w + 3] * inverse) << 16;
    *reinterpret_cast<uint2 *>(static_cast<uint8_t *>(p) + at) = make_uint2(words[0], words[1]);
}

static __device__ __forceinline__ void cache_store(void *p, spey_dtype dtype, int64_t at,
                                                   float inverse, float x)
{
    if (dtype == SPEY_E4M3)
        static_cast<uint8_t *>(p)[at] = static_cast<uint8_t>(e4m3_pair(x * inverse, 0.0f));
    else
        store_any(p, dtype, at, x);
}

/* The inverse of a head's scale; `scales` NULL: 1. */
static __device__ __forceinline__ float inverse_scale(const float *scales, int64_t head)
{
    return scales ? 1.0f / scales[head] : 1.0f;
}

static inline bool is_cache_element(spey_dtype dtype)
{
    return dtype == SPEY_E4M3 || is_float_16_or_32(dtype);
}

#endif
