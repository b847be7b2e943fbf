/* Elements of a 16- or 32-bit float type, one at a time and in packs of 16 bytes. */
#ifndef SPEY_KERNELS_CUDA_ELEMENT_CUH
#define SPEY_KERNELS_CUDA_ELEMENT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "tensor/dtype.h"

static __device__ __forceinline__ float to_f32(float x)
{
    return x;
}

static __device__ __forceinline__ float to_f32(__half x)
{
    return __half2float(x);
}

static __device__ __forceinline__ float to_f32(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* Round to nearest even. */
static __device__ __forceinline__ void from_f32(float x, float *out)
{
    *out = x;
}

static __device__ __forceinline__ void from_f32(float x, __half *out)
{
    *out = __float2half_rn(x);
}

static __device__ __forceinline__ void from_f32(float x, __nv_bfloat16 *out)
{
    *out = __float2bfloat16_rn(x);
}

/* N elements that are loaded and stored at once: their address is a multiple of the size. */
template <typename T, int N> struct alignas(N * sizeof(T)) pack {
    T at[N];
};

/* N elements at p, or zeros without touching p. */
template <int N, typename T>
static __device__ __forceinline__ void load_pack(const T *p, bool inside, float *out)
{
    pack<T, N> loaded = {};
    if (inside) loaded = *reinterpret_cast<const pack<T, N> *>(p);
#pragma unroll
    for (int j = 0; j < N; j++)
        out[j] = to_f32(loaded.at[j]);
}

template <int N, typename T>
static __device__ __forceinline__ void store_pack(T *p, bool inside, const float *in)
{
    pack<T, N> packed;
#pragma unroll
    for (int j = 0; j < N; j++)
        from_f32(in[j], &packed.at[j]);
    if (inside) *reinterpret_cast<pack<T, N> *>(p) = packed;
}

/* The first `left` (any number) of N elements at p, the rest zero. PACKED: left is 0 or less, or at least N, and p is
 * aligned: one access. */
template <int N, bool PACKED, typename T>
static __device__ __forceinline__ void load_some(const T *p, int left, float *out)
{
    if constexpr (PACKED) {
        load_pack<N>(p, left > 0, out);
    } else {
#pragma unroll
        for (int j = 0; j < N; j++)
            out[j] = j < left ? to_f32(p[j]) : 0.0f;
    }
}

template <int N, bool PACKED, typename T>
static __device__ __forceinline__ void store_some(T *p, int left, const float *in)
{
    if constexpr (PACKED) {
        store_pack<N>(p, left > 0, in);
    } else {
#pragma unroll
        for (int j = 0; j < N; j++)
            if (j < left) from_f32(in[j], &p[j]);
    }
}

/* ---- F32, F16 or BF16, known at run time: the same for a whole launch, so that branches cost little ---- */

static __device__ __forceinline__ float load_any(const void *p, spey_dtype dtype, int64_t at)
{
    if (dtype == SPEY_F32) return static_cast<const float *>(p)[at];
    if (dtype == SPEY_F16) return to_f32(static_cast<const __half *>(p)[at]);
    return to_f32(static_cast<const __nv_bfloat16 *>(p)[at]);
}

static __device__ __forceinline__ void store_any(void *p, spey_dtype dtype, int64_t at, float x)
{
    if (dtype == SPEY_F32)
        static_cast<float *>(p)[at] = x;
    else if (dtype == SPEY_F16)
        from_f32(x, static_cast<__half *>(p) + at);
    else
        from_f32(x, static_cast<__nv_bfloat16 *>(p) + at);
}

/* Eight elements as they lie in memory. Loads come before all conversions, so that many are in flight. */
struct raw8 {
    uint4 low, high; /* high: of F32 */
};

/* Elements [at, at + 8) of p, whose address is a multiple of 16; zeros without touching p. */
static __device__ __forceinline__ raw8 load_raw8(const void *p, spey_dtype dtype, int64_t at,
                                                 bool inside)
{
    raw8 raw = {};
    const bool wide = dtype == SPEY_F32;
    const uint4 *from =
        reinterpret_cast<const uint4 *>(static_cast<const char *>(p) + at * (wide ? 4 : 2));
    if (inside) raw.low = from[0];
    if (inside && wide) raw.high = from[1];
    return raw;
}

static __device__ __forceinline__ void widen_pair(uint32_t pair, spey_dtype dtype, float *out)
{
    if (dtype == SPEY_F16) {
        const float2 two = __half22float2(*reinterpret_cast<const __half2 *>(&pair));
        out[0] = two.x;
        out[1] = two.y;
    } else {
        out[0] = __uint_as_float(pair << 16);
        out[1] = __uint_as_float(pair & 0xffff0000u);
    }
}

static __device__ __forceinline__ void widen8(const raw8 &raw, spey_dtype dtype, float *out)
{
    const uint32_t low[4] = { raw.low.x, raw.low.y, raw.low.z, raw.low.w };
    const uint32_t high[4] = { raw.high.x, raw.high.y, raw.high.z, raw.high.w };
    if (dtype == SPEY_F32) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            out[j] = __uint_as_float(low[j]);
            out[4 + j] = __uint_as_float(high[j]);
        }
    } else {
#pragma unroll
        for (int j = 0; j < 4; j++)
            widen_pair(low[j], dtype, out + 2 * j);
    }
}

static __device__ __forceinline__ uint32_t narrow_pair(float a, float b, spey_dtype dtype)
{
    if (dtype == SPEY_F16) {
        const __half2 two = __floats2half2_rn(a, b);
        return *reinterpret_cast<const uint32_t *>(&two);
    }
    const __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<const uint32_t *>(&two);
}

static __device__ __forceinline__ void store8(void *p, spey_dtype dtype, int64_t at,
                                              const float *in)
{
    const bool wide = dtype == SPEY_F32;
    uint4 *to = reinterpret_cast<uint4 *>(static_cast<char *>(p) + at * (wide ? 4 : 2));
    if (wide) {
        to[0] = make_uint4(__float_as_uint(in[0]), __float_as_uint(in[1]), __float_as_uint(in[2]),
                           __float_as_uint(in[3]));
        to[1] = make_uint4(__float_as_uint(in[4]), __float_as_uint(in[5]), __float_as_uint(in[6]),
                           __float_as_uint(in[7]));
    } else {
        to[0] = make_uint4(narrow_pair(in[0], in[1], dtype), narrow_pair(in[2], in[3], dtype),
                           narrow_pair(in[4], in[5], dtype), narrow_pair(in[6], in[7], dtype));
    }
}

/* `left` elements (any number) of at most 8 from p, zeros behind them. PACKED: left is 0 or less, or at least 8, and p is
 * aligned. */
template <bool PACKED>
static __device__ __forceinline__ void load8(const void *p, spey_dtype dtype, int64_t at,
                                             int64_t left, float *out)
{
    if constexpr (PACKED) {
        widen8(load_raw8(p, dtype, at, left > 0), dtype, out);
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++)
            out[j] = j < left ? load_any(p, dtype, at + j) : 0.0f;
    }
}

template <bool PACKED>
static __device__ __forceinline__ void store_some8(void *p, spey_dtype dtype, int64_t at,
                                                   int64_t left, const float *in)
{
    if constexpr (PACKED) {
        if (left > 0) store8(p, dtype, at, in);
    } else {
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (j < left) store_any(p, dtype, at + j, in[j]);
    }
}

static inline bool is_float_16_or_32(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

/* True when p (NULL is fine) begins on a 16-byte boundary. */
static inline bool is_aligned16(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

/* Rows at p, `pitch` elements apart, can be read in packs of 8: every one begins on a 16-byte boundary. */
static inline bool is_packed8(const void *p, spey_dtype dtype, int64_t pitch)
{
    return is_aligned16(p) && pitch * (dtype == SPEY_F32 ? 4 : 2) % 16 == 0;
}

#endif
