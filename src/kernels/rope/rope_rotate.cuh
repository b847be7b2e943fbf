/* Rotation of one head by threads that take a unit each, shared by rope and rope_append.
 *
 * A head is cut into units: first those of `pairs` pairs of the rotated part, then those of 2 · pairs (or less) elements of
 * what is only copied. PACKED: pairs is 8, and all of this is whole aligned packs of 8 elements; else it is 1. */
#ifndef SPEY_KERNELS_ROPE_ROPE_ROTATE_CUH
#define SPEY_KERNELS_ROPE_ROPE_ROTATE_CUH

#include "kernels/cuda/cache_element.cuh"
#include "kernels/rope/rope.h"

/* Elements of a head from `at`, and where they go. */
struct head_ends {
    const void *x;
    int64_t at;
    spey_dtype dtype;
    void *out;
    int64_t out_at;
    spey_dtype out_dtype;
    float inverse; /* of the scale of an E4M3 out */
};

template <bool PACKED> static __host__ __device__ constexpr int unit_pairs()
{
    return PACKED ? 8 : 1;
}

/* Units of a head: those that rotate, and all. */
template <bool PACKED> static inline int32_t rotated_units(int64_t rotary_dim)
{
    return static_cast<int32_t>(rotary_dim / 2 / unit_pairs<PACKED>());
}

template <bool PACKED> static inline int32_t units_of(int64_t head_dim, int64_t rotary_dim)
{
    return rotated_units<PACKED>(rotary_dim) +
           static_cast<int32_t>((head_dim - rotary_dim) / unit_pairs<PACKED>());
}

/* Can heads be cut into packs? */
static inline bool is_packed_head(int64_t head_dim, int64_t rotary_dim)
{
    return head_dim % 8 == 0 && rotary_dim % 16 == 0;
}

template <bool PACKED>
static __device__ __forceinline__ void copy_unit(const head_ends &h, int64_t i)
{
    if constexpr (PACKED) {
        float x[8];
        load8<true>(h.x, h.dtype, h.at + i, 8, x);
        cache_store8(h.out, h.out_dtype, h.out_at + i, h.inverse, x);
    } else {
        cache_store(h.out, h.out_dtype, h.out_at + i, h.inverse, load_any(h.x, h.dtype, h.at + i));
    }
}

/* Pairs [first, first + P). All are read before anything is written: out may be x. */
template <bool PACKED>
static __device__ __forceinline__ void rotate_unit(const head_ends &h, spey_rope_pairing pairing,
                                                   const float *table, int64_t half, int64_t first)
{
    constexpr int P = unit_pairs<PACKED>();
    const bool apart = pairing == SPEY_ROPE_HALF;
    const int64_t low = apart ? first : 2 * first, high = apart ? first + half : 2 * first + P;
    float x[2 * P], cosine[P], sine[P];
    if constexpr (PACKED) {
        const raw8 raw_low = load_raw8(h.x, h.dtype, h.at + low, true);
        const raw8 raw_high = load_raw8(h.x, h.dtype, h.at + high, true);
        const raw8 raw_cosine = load_raw8(table, SPEY_F32, first, true);
        const raw8 raw_sine = load_raw8(table, SPEY_F32, half + first, true);
        widen8(raw_low, h.dtype, x);
        widen8(raw_high, h.dtype, x + 8);
        widen8(raw_cosine, SPEY_F32, cosine);
        widen8(raw_sine, SPEY_F32, sine);
    } else {
        x[0] = load_any(h.x, h.dtype, h.at + low);
        x[1] = load_any(h.x, h.dtype, h.at + high);
        cosine[0] = table[first];
        sine[0] = table[half + first];
    }
    float a[P], b[P];
#pragma unroll
    for (int j = 0; j < P; j++) {
        const float xa = apart ? x[j] : x[2 * j], xb = apart ? x[P + j] : x[2 * j + 1];
        a[j] = fmaf(xa, cosine[j], -(xb * sine[j]));
        b[j] = fmaf(xb, cosine[j], xa * sine[j]);
    }
#pragma unroll
    for (int k = 0; k < 2 * P; k++) {
        const float one_after_other = k < P ? a[k % P] : b[k % P];
        const float by_turns = k % 2 == 0 ? a[k / 2] : b[k / 2];
        x[k] = apart ? one_after_other : by_turns;
    }
    if constexpr (PACKED) {
        cache_store8(h.out, h.out_dtype, h.out_at + low, h.inverse, x);
        cache_store8(h.out, h.out_dtype, h.out_at + high, h.inverse, x + 8);
    } else {
        cache_store(h.out, h.out_dtype, h.out_at + low, h.inverse, x[0]);
        cache_store(h.out, h.out_dtype, h.out_at + high, h.inverse, x[1]);
    }
}

/* Unit `u` of a head, `rotated` of which rotate. */
template <bool PACKED>
static __device__ __forceinline__ void turn_unit(const head_ends &h, spey_rope_pairing pairing,
                                                 const float *table, int64_t rotary_dim,
                                                 int32_t rotated, int32_t u)
{
    constexpr int P = unit_pairs<PACKED>();
    if (u < rotated)
        rotate_unit<PACKED>(h, pairing, table, rotary_dim / 2, static_cast<int64_t>(u) * P);
    else
        copy_unit<PACKED>(h, rotary_dim + static_cast<int64_t>(u - rotated) * P);
}

#endif
