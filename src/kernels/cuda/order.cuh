/* The larger of two floats with their places: a number of the same order whose low half is the complement of the place, so
 * that one comparison of 64 bits decides. NaN is above everything. */
#ifndef SPEY_KERNELS_CUDA_ORDER_CUH
#define SPEY_KERNELS_CUDA_ORDER_CUH

#include <math.h>
#include <stdint.h>

/* Larger for a larger x, then for a lower index. */
static __device__ __forceinline__ uint64_t order_of(float x, uint32_t index)
{
    const uint32_t bits = __float_as_uint(x == 0.0f ? 0.0f : x); /* the zeros are equal */
    uint32_t high = bits >> 31 ? ~bits : bits | 0x80000000u;
    if (isnan(x)) high = 0xffffffffu;
    return static_cast<uint64_t>(high) << 32 | ~index;
}

static __device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static __device__ __forceinline__ uint64_t warp_largest(uint64_t x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x = larger(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

/* The place; -1: NaN, all are -infinity, or there was none. */
static __device__ __forceinline__ int32_t place_of(uint64_t order)
{
    const uint32_t high = static_cast<uint32_t>(order >> 32);
    return high == 0xffffffffu || high <= 0x007fffffu ? -1 : ~static_cast<int32_t>(order);
}

/* The float, when there is a place. */
static __device__ __forceinline__ float float_of(uint64_t order)
{
    const uint32_t high = static_cast<uint32_t>(order >> 32);
    return __uint_as_float(high >> 31 ? high & 0x7fffffffu : ~high);
}

#endif
