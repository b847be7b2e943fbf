/* How a warp of the decode kernel gets its strips: through a ring in shared memory that nobody else uses, in the order in which they
 * are needed, STRIPS of K and STRIPS of V for each of its tiles. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_RING_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_RING_CUH

#include "kernels/attention/attention_copy.cuh"

template <typename X, int STRIPS, int SLOTS> struct strip_ring {
    static constexpr int TILE = STRIPS * STRIP_TOKENS;
    static constexpr int BYTES = SLOTS * X::STRIP + (SLOTS * X::SCALES + 127) / 128 * 128;

    uint32_t address;
    int put, take;        /* slots */
    int next;             /* number of the strip to be copied */
    int tile, step;       /* first token of that strip's tile, and how far the next tile is */
    const uint8_t *place; /* where the strip of number next / 32 · 32 + lane begins */
    const float *scale_place;

    __device__ __forceinline__ uint32_t scales_at(int slot) const
    {
        return address + SLOTS * X::STRIP + slot * X::SCALES;
    }

    /* Tables are read for 32 strips at once, a lane each: nobody waits for them strip by strip. */
    __device__ __forceinline__ void find_strips(const attention_problem &p,
                                                const cache_range &range)
    {
        const int lane = threadIdx.x % 32, inside = lane % (2 * STRIPS);
        const int token = tile + lane / (2 * STRIPS) * step + inside % STRIPS * STRIP_TOKENS;
        const bool is_v = inside >= STRIPS;
        place = p.a.kv.base;
        scale_place = p.a.kv.token_scales;
        if (token + STRIP_TOKENS <= range.begin || token >= range.end) return;
        place = find_token(p, range, token, is_v);
        if constexpr (X::SCALED) scale_place = find_scale(p, range, token, is_v);
    }

    /* Strip INSIDE of the tile's 2 · STRIPS. */
    __device__ __forceinline__ void copy(const attention_problem &p, const cache_range &range,
                                         int inside)
    {
        const int lane = threadIdx.x % 32;
        if (inside == 0 && next % 32 == 0) find_strips(p, range);
        const int first = tile + inside % STRIPS * STRIP_TOKENS;
        const uint8_t *from = reinterpret_cast<const uint8_t *>(
            __shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(place), next % 32));
        const uint32_t to = address + put * X::STRIP;
        const bool is_v = inside >= STRIPS;
        if (first >= range.begin && first + STRIP_TOKENS <= range.end)
            copy_tokens<X, 32, STRIP_TOKENS, false>(to, from, p, range, first, is_v, lane);
        else if (tile < range.end)
            copy_tokens<X, 32, STRIP_TOKENS, true>(to, from, p, range, first, is_v, lane);
        if constexpr (X::SCALED) {
            const float *scales = reinterpret_cast<const float *>(__shfl_sync(
                0xffffffffu, reinterpret_cast<unsigned long long>(scale_place), next % 32));
            const bool there = first + lane >= range.begin && first + lane < range.end;
            if (lane < STRIP_TOKENS) copy_async4(scales_at(put) + lane * 4, scales + lane, there);
        }
        copy_commit();
        put = put + 1 == SLOTS ? 0 : put + 1;
        next++;
        if (inside == 2 * STRIPS - 1) tile += step;
    }

    /* Tiles at `first`, first + apart, … */
    __device__ __forceinline__ void begin(const attention_problem &p, const cache_range &range,
                                          uint32_t shared, int first, int apart)
    {
        address = shared;
        put = take = next = 0;
        tile = first;
        step = apart;
#pragma unroll
        for (int i = 0; i < SLOTS - 1; i++)
            copy(p, range, i % (2 * STRIPS));
    }

    /* The oldest strip, of number `inside` in its tile, has arrived; its slot. The one before it is no longer read: a new one takes
     * its slot. */
    __device__ __forceinline__ int turn(const attention_problem &p, const cache_range &range,
                                        int inside)
    {
        copy_wait<SLOTS - 2>();
        __syncwarp();
        copy(p, range, (inside + SLOTS - 1) % (2 * STRIPS));
        const int slot = take;
        take = take + 1 == SLOTS ? 0 : take + 1;
        return slot;
    }
};

#endif
