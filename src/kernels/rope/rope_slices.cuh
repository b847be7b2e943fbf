/* rope_append of 16-bit rows in whole packs, where all that can be constant is.
 *
 * A head is cut into slices of two packs of 8 elements. A thread takes the same slice of HEADS neighbouring heads of a token, so
 * that it loads cosines and sines once and has all its loads in flight together; V's slices, and those that do not rotate,
 * are the same two packs without the rotation. No index is divided. */
#ifndef SPEY_KERNELS_ROPE_ROPE_SLICES_CUH
#define SPEY_KERNELS_ROPE_ROPE_SLICES_CUH

#include "kernels/cuda/cache_element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/paged.cuh"
#include "kernels/rope/rope.h"

enum { SLICE_ELEMENTS = 16, SLICE_THREADS = 256, SLICE_HEADS = 2 };

/* Cosines and sines of a slice's 8 pairs. */
struct slice_angles {
    float cosine[8], sine[8];
};

static __device__ __forceinline__ void load_floats4(const float *from, float *to)
{
    const float4 x = *reinterpret_cast<const float4 *>(from);
    to[0] = x.x;
    to[1] = x.y;
    to[2] = x.z;
    to[3] = x.w;
}

/* APART: the packs have the two elements of the same pairs; else 4 pairs each. */
template <bool APART>
static __device__ __forceinline__ slice_angles load_angles(const float *table, int half, int slice)
{
    const int first = APART ? 8 * slice : 4 * slice, second = APART ? first + 4 : first + half / 2;
    slice_angles angles;
    load_floats4(table + first, angles.cosine);
    load_floats4(table + second, angles.cosine + 4);
    load_floats4(table + half + first, angles.sine);
    load_floats4(table + half + second, angles.sine + 4);
    return angles;
}

/* x: the elements of the first pack, then of the second. */
template <bool APART>
static __device__ __forceinline__ void turn_slice(const slice_angles &angles, float (&x)[16])
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float *a = &x[APART ? i : 2 * i], *b = &x[APART ? i + 8 : 2 * i + 1];
        const float xa = *a, xb = *b, cosine = angles.cosine[i], sine = angles.sine[i];
        *a = fmaf(xa, cosine, -(xb * sine));
        *b = fmaf(xb, cosine, xa * sine);
    }
}

/* Where a slice's packs are in its head, in elements. */
struct slice_place {
    int first, second;
    bool turns;
};

/* `turned` of a head's slices rotate. Neighbouring threads have neighbouring packs in both halves of a stretch. */
static __device__ __forceinline__ slice_place place_of_slice(int slice, int slices, int turned)
{
    if (slice < turned) return { 8 * slice, 8 * (slice + turned), true };
    return { 8 * (slice + turned), 8 * (slice + slices), false };
}

/* How a launch covers heads: thread (x, y, z) has slice x, heads of lane y, token z. */
template <spey_dtype T, bool E4M3, bool APART, int HEADS>
static __global__ void __launch_bounds__(SLICE_THREADS, 2)
    rope_append_slices(const spey_rope_append_args a, const spey_ragged batch)
{
    const int lane = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
    const int q_heads = static_cast<int>(a.n_heads), kv_heads = static_cast<int>(a.n_kv_heads);
    const int head = lane * HEADS, end = min(head + HEADS, q_heads + 2 * kv_heads);
    const int64_t r = static_cast<int64_t>(blockIdx.x) * blockDim.z + threadIdx.z;
    let_next_begin();
    if (r >= a.rows || head >= end) {
        wait_for_others();
        return;
    }
    const int dim = static_cast<int>(a.head_dim), slices = static_cast<int>(blockDim.x);
    const int slice = static_cast<int>(threadIdx.x);
    const slice_place turning =
        place_of_slice(slice, slices, static_cast<int>(a.rotary_dim) / SLICE_ELEMENTS);
    const slice_place still = { 8 * slice, 8 * (slice + slices), false };
    kv_slot slot = {};
    /* One head a thread is for few tokens: then the slot is found while others still run. */
    if (HEADS == 1 && end > q_heads) slot = slot_of(a.kv, batch, place_of_token(batch, r));
    wait_for_others();

    const int64_t x = r * a.qkv_pitch + head * dim;
    raw8 raw[HEADS][2];
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        const slice_place place = head + i < q_heads + kv_heads ? turning : still;
        raw[i][0] = load_raw8(a.qkv, T, x + i * dim + place.first, head + i < end);
        raw[i][1] = load_raw8(a.qkv, T, x + i * dim + place.second, head + i < end);
    }
    slice_angles angles = {};
    if (turning.turns && head < q_heads + kv_heads)
        angles = load_angles<APART>(a.table + r * a.rotary_dim, static_cast<int>(a.rotary_dim) / 2,
                                    slice);
    if (HEADS > 1 && end > q_heads) slot = slot_of(a.kv, batch, place_of_token(batch, r));
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
        const int h = head + i;
        if (h >= end) continue;
        const bool is_v = h >= q_heads + kv_heads;
        const int kv_head = h - q_heads - (is_v ? kv_heads : 0);
        const slice_place place = is_v ? still : turning;
        float values[16];
        widen8(raw[i][0], T, values);
        widen8(raw[i][1], T, values + 8);
        if (place.turns) turn_slice<APART>(angles, values);
        if (h < q_heads) {
            const int64_t out = r * a.q_pitch + h * dim;
            store8(a.q_out, T, out + place.first, values);
            store8(a.q_out, T, out + place.second, values + 8);
            continue;
        }
        void *to = is_v ? slot_v(a.kv, slot, kv_head) : slot_k(a.kv, slot, kv_head);
        const float *scales = is_v ? a.kv.v_scale : a.kv.k_scale;
        const float inverse = E4M3 ? inverse_scale(scales, kv_head) : 1.0f;
        cache_store8(to, E4M3 ? SPEY_E4M3 : T, place.first, inverse, values);
        cache_store8(to, E4M3 ? SPEY_E4M3 : T, place.second, inverse, values + 8);
    }
}

/* Can slices do it? The caller knows that addresses and pitches are those of whole packs. */
static inline bool is_sliced(const spey_rope_append_args *a)
{
    const bool cached = a->n_kv_heads == 0 || a->kv.dtype == a->dtype || a->kv.dtype == SPEY_E4M3;
    return a->dtype != SPEY_F32 && cached && a->head_dim % SLICE_ELEMENTS == 0 &&
           a->rotary_dim % SLICE_ELEMENTS == 0 && a->head_dim <= SLICE_ELEMENTS * SLICE_THREADS;
}

template <spey_dtype T, bool E4M3, bool APART, int HEADS>
static void launch_slices(const spey_rope_append_args *a, const spey_device *device)
{
    const unsigned heads = static_cast<unsigned>(a->n_heads + 2 * a->n_kv_heads);
    const unsigned slices = static_cast<unsigned>(a->head_dim / SLICE_ELEMENTS);
    const unsigned lanes = (heads + HEADS - 1) / HEADS, most = SLICE_THREADS / slices;
    const unsigned parts = (lanes + most - 1) / most, lanes_each = (lanes + parts - 1) / parts;
    unsigned tokens = 1; /* more where heads are few */
    while (tokens < 64 && tokens < a->rows && 2 * tokens * lanes_each * slices <= SLICE_THREADS)
        tokens *= 2;
    const unsigned rows = static_cast<unsigned>((a->rows + tokens - 1) / tokens);
    launch_early(device, { dim3(rows, parts), dim3(slices, lanes_each, tokens), 0 },
                 rope_append_slices<T, E4M3, APART, HEADS>, *a, *a->batch);
}

/* Few slices are spread over the card; many have more in flight for each instruction. */
template <spey_dtype T, bool E4M3, bool APART>
static void launch_heads(const spey_rope_append_args *a, const spey_device *device)
{
    const int64_t slices =
        a->rows * (a->n_heads + 2 * a->n_kv_heads) * (a->head_dim / SLICE_ELEMENTS);
    if (slices <= int64_t{ device->sms } * 256)
        launch_slices<T, E4M3, APART, 1>(a, device);
    else
        launch_slices<T, E4M3, APART, SLICE_HEADS>(a, device);
}

template <spey_dtype T>
static void launch_sliced(const spey_rope_append_args *a, const spey_device *device)
{
    const bool e4m3 = a->n_kv_heads > 0 && a->kv.dtype == SPEY_E4M3;
    const bool apart = a->pairing == SPEY_ROPE_HALF;
    if (e4m3 && apart) return launch_heads<T, true, true>(a, device);
    if (e4m3) return launch_heads<T, true, false>(a, device);
    if (apart) return launch_heads<T, false, true>(a, device);
    launch_heads<T, false, false>(a, device);
}

#endif
