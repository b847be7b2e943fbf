/* A head's elements into an I8 cache, with their scale (kernels/kv_bytes.h), by one warp. */
#ifndef SPEY_KERNELS_KV_APPEND_KV_APPEND_I8_CUH
#define SPEY_KERNELS_KV_APPEND_KV_APPEND_I8_CUH

#include "kernels/cuda/paged.cuh"

enum { I8_WARPS = 4 };

/* VALUE(i): element i, the same number whenever it is asked for. Pass one finds the largest, pass two divides. */
template <typename VALUE>
static __device__ __forceinline__ void store_i8_head(int8_t *to, float *scale, int dim, VALUE value)
{
    const int lane = threadIdx.x % 32;
    uint32_t most = 0; /* bits of numbers that are not negative are ordered as they are, NaN last */
    for (int i = lane; i < dim; i += 32)
        most = max(most, __float_as_uint(fabsf(value(i))));
    const float m = __uint_as_float(__reduce_max_sync(0xffffffffu, most));
    const bool finite = m < INFINITY, some = finite && m >= SPEY_KV_I8_SMALLEST;
    const float inverse = some ? static_cast<float>(127.0 / static_cast<double>(m)) : 0.0f;
    for (int i = lane; i < dim; i += 32)
        to[i] = static_cast<int8_t>(some ? __float2int_rn(value(i) * inverse) : 0);
    if (lane != 0) return;
    *scale = some ? static_cast<float>(static_cast<double>(m) / 127.0)
                  : __uint_as_float(finite ? 0 : 0x7fc00000);
}

/* The scale of K (or V) of head `head` in a token's slot. */
static __device__ __forceinline__ float *token_scale(const spey_kv_view &kv,
                                                     const spey_ragged &batch, token_place place,
                                                     int64_t first, int64_t head)
{
    const spey_block_table &table = batch.groups[kv.group];
    const int64_t block = table.blocks[place.seq * table.pitch + place.index / kv.block_tokens];
    return kv.token_scales + block * kv.scale_block + first + head * kv.block_tokens +
           place.index % kv.block_tokens;
}

/* One warp for each token and each head of K, then of V. */
static inline dim3 i8_grid(int64_t rows, int64_t n_kv_heads)
{
    return dim3(static_cast<unsigned>((2 * n_kv_heads + I8_WARPS - 1) / I8_WARPS),
                static_cast<unsigned>(rows < 65535 ? rows : 65535));
}

#endif
