/* kernels/paged.h for kernels: the batch by value, as launchers pass it. */
#ifndef SPEY_KERNELS_CUDA_PAGED_CUH
#define SPEY_KERNELS_CUDA_PAGED_CUH

#include "kernels/ragged.h"

/* Where a token lies in its sequence's cache. */
struct token_place {
    int32_t seq;
    int32_t index;
};

static __device__ __forceinline__ token_place place_of_token(const spey_ragged &batch, int64_t r)
{
    token_place place;
    place.seq = batch.token_seq[r];
    place.index =
        batch.kv_len[place.seq] - batch.seq_start[place.seq + 1] + static_cast<int32_t>(r);
    return place;
}

/* The token's slot in the block that holds it: K of head h begins at slot + k_offset + h * k_head_bytes + at * k_token_bytes. */
struct kv_slot {
    uint8_t *block;
    int32_t at;
};

static __device__ __forceinline__ kv_slot slot_of(const spey_kv_view &kv, const spey_ragged &batch,
                                                  token_place place)
{
    const spey_block_table &table = batch.groups[kv.group];
    const int32_t block = table.blocks[place.seq * table.pitch + place.index / kv.block_tokens];
    return { kv.base + block * kv.block_bytes, place.index % kv.block_tokens };
}

static __device__ __forceinline__ void *slot_k(const spey_kv_view &kv, kv_slot slot, int64_t head)
{
    return slot.block + kv.k_offset + head * kv.k_head_bytes + slot.at * kv.k_token_bytes;
}

static __device__ __forceinline__ void *slot_v(const spey_kv_view &kv, kv_slot slot, int64_t head)
{
    return slot.block + kv.v_offset + head * kv.v_head_bytes + slot.at * kv.v_token_bytes;
}

static __device__ __forceinline__ float *state_of(const spey_state_view &state,
                                                  const spey_ragged &batch, int64_t seq)
{
    const spey_block_table &table = batch.groups[state.group];
    return reinterpret_cast<float *>(
        state.base + table.blocks[seq * table.pitch] * state.block_bytes + state.offset);
}

/* Every K and V head of every token's slot begins on a 16-byte boundary. */
static inline bool is_aligned16(const spey_kv_view *kv)
{
    const uint64_t bits =
        reinterpret_cast<uintptr_t>(kv->base) |
        static_cast<uint64_t>(kv->block_bytes | kv->k_offset | kv->v_offset | kv->k_head_bytes |
                              kv->v_head_bytes | kv->k_token_bytes | kv->v_token_bytes);
    return bits % 16 == 0;
}

#endif
