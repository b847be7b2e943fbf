/* Elements of a 16- or 32-bit float type, one at a time and in packs of 16 bytes. */
#ifndef SPEY_KERNELS_CUDA_ELEMENT_CUH
#define SPEY_KERNELS_CUDA_ELEMENT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

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

/* True when p (NULL is fine) begins on a 16-byte boundary. */
static inline bool is_aligned16(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

#endif
