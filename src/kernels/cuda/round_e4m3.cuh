/* Rows to E4M3: tensor/quant.h in the same arithmetic. */
#ifndef SPEY_KERNELS_CUDA_ROUND_E4M3_CUH
#define SPEY_KERNELS_CUDA_ROUND_E4M3_CUH

#include <cuda_fp8.h>
#include <stdint.h>

#include "tensor/quant.h"

static __device__ __forceinline__ spey_e4m3_scale e4m3_scale_of(float largest)
{
    const float top = fmaxf(largest, 0x1p-60f);
    return { __fdiv_rn(top, SPEY_E4M3_MAX), __fdiv_rn(SPEY_E4M3_MAX, top) };
}

static __device__ __forceinline__ spey_e4m3_scale e4m3_static_scale(const float *scale)
{
    return { *scale, __fdiv_rn(1.0f, *scale) };
}

/* Two elements, the first in the low byte. */
static __device__ __forceinline__ uint32_t round_pair(float a, float b)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 890
    /* Saturated. From 2^-6 on the fraction is cut to 3 bits; below, adding 2^14 leaves the number in steps of 2^-9 in
     * the low bits. What the toolkit does instead takes hundreds of instructions. */
    uint32_t codes = 0;
    const float two[2] = { a, b };
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float x = fminf(fabsf(two[j]), SPEY_E4M3_MAX);
        const uint32_t bits = __float_as_uint(x);
        const uint32_t small = __float_as_uint(x + 16384.0f) - __float_as_uint(16384.0f);
        const uint32_t large = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
        const uint32_t code = x < 0x1p-6f ? small : large;
        const uint32_t sign = __float_as_uint(two[j]) >> 24 & 0x80u;
        codes |= (two[j] != two[j] ? 0x7fu : code | sign) << (8 * j);
    }
    return codes;
#else
    return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
#endif
}

/* Eight elements, times `inverse`, in the order of memory. */
static __device__ __forceinline__ uint2 round8(const float *v, float inverse)
{
    uint32_t two[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        two[j] = round_pair(__fmul_rn(v[2 * j], inverse), __fmul_rn(v[2 * j + 1], inverse));
    return make_uint2(two[0] | two[1] << 16, two[2] | two[3] << 16);
}

static __device__ __forceinline__ float largest_of8(const float *v, float largest)
{
#pragma unroll
    for (int j = 0; j < 8; j++)
        largest = fmaxf(largest, fabsf(v[j]));
    return largest;
}

/* Rows of E4M3 at p can be written in packs of 8. */
static inline bool is_packed_e4m3(const void *p, int64_t pitch)
{
    return reinterpret_cast<uintptr_t>(p) % 8 == 0 && pitch % 8 == 0;
}

#endif
