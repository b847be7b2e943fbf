/* The decode kernel of attention on tensor cores. attention_mma.cuh explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_CUH

#include "kernels/attention/attention_tile.cuh"
#include "kernels/attention/attention_work.cuh"
#include "kernels/cuda/launch.cuh"

/* DECODE_CTAS only says how many registers a thread may have: all. */
enum { DECODE_CTAS = 8, SHARED_BYTES = 227 << 10 };

template <typename X> struct decode_shape {
    static constexpr int WANTED = ((X::D <= 64 ? 24 : 16) << 10) / X::STRIP;
    static constexpr int SLOTS = WANTED < 4 ? 4 : WANTED > 12 ? 12 : WANTED;
    static constexpr int Q = DECODE_ROWS * X::Q::PITCH;
    static constexpr int BYTES = Q + SLOTS * (X::STRIP + X::SCALES);
    static constexpr int PER_SM = SHARED_BYTES / (BYTES + 1024);
};

struct decode_item {
    int seq, token, kv_head;
    int head, n_heads; /* first query head, and how many */
    int split;         /* of the token's */
    token_view view;
};

static __device__ __forceinline__ int decode_items(const attention_problem &p,
                                                   const attention_plan &plan, int seq)
{
    const int first = p.seq_start[seq], end = p.seq_start[seq + 1];
    if (first == end || !is_decoded(plan, end - first)) return 0;
    /* The last token sees the most splits. */
    const int n = view_token(p, plan, seq, end - 1).n_splits;
    return (end - first) * max(n, 1) * plan.chunks * static_cast<int>(p.a.n_kv_heads);
}

/* Item `inside` of sequence seq. False: its token has no such split. */
static __device__ __forceinline__ bool decode_item_at(const attention_problem &p,
                                                      const attention_plan &plan, int seq,
                                                      int inside, decode_item *item)
{
    const int heads = plan.chunks * static_cast<int>(p.a.n_kv_heads), end = p.seq_start[seq + 1];
    const int n = max(view_token(p, plan, seq, end - 1).n_splits, 1);
    const int chunk = inside % heads % plan.chunks, kv_head = inside % heads / plan.chunks;
    item->seq = seq;
    item->split = inside / heads % n;
    item->token = p.seq_start[seq] + inside / heads / n;
    item->kv_head = kv_head;
    item->head = kv_head * plan.group + chunk * DECODE_ROWS;
    item->n_heads = min(int{ DECODE_ROWS }, plan.group - chunk * DECODE_ROWS);
    item->view = view_token(p, plan, seq, item->token);
    return item->split < max(item->view.n_splits, 1);
}

/* The queries of an item: 16 rows, those behind the last zero. */
template <typename X>
static __device__ __forceinline__ void copy_queries(uint32_t to, const attention_problem &p,
                                                    const decode_item &item)
{
    const int chunks = static_cast<int>(p.a.k_dim) / 8;
    const uint16_t *q = static_cast<const uint16_t *>(p.a.q) + item.token * p.a.q_pitch;
    for (int i = threadIdx.x; i < DECODE_ROWS * X::Q::CHUNKS; i += 32) {
        const int row = i / X::Q::CHUNKS, chunk = i % X::Q::CHUNKS;
        const bool there = row < item.n_heads && chunk < chunks;
        const int64_t at = (item.head + row) * p.a.k_dim + chunk * 8;
        copy_q<X>(to, row, chunk, q + (there ? at : 0), p.a.dtype, there);
    }
}

/* Strips go through the ring in the order in which they are needed: four of K and four of V for each tile. */
template <typename X> struct strip_ring {
    uint32_t address;
    int put, take;   /* slots */
    int next;        /* strip to be copied */
    uint32_t scales; /* of the strip that was turned to last */

    __device__ __forceinline__ uint32_t scales_at(int slot) const
    {
        return address + decode_shape<X>::SLOTS * X::STRIP + slot * X::SCALES;
    }

    __device__ __forceinline__ void copy(const attention_problem &p, const cache_range &range,
                                         int tile, int tiles_end)
    {
        const int first = tile + next / 8 * TILE_TOKENS + next % 4 * STRIP_TOKENS;
        const int lane = threadIdx.x % 32;
        if (tile + next / 8 * TILE_TOKENS < tiles_end) {
            copy_stretch<X, 32, STRIP_TOKENS>(address + put * X::STRIP, p, range, first,
                                              next % 8 >= 4, lane);
            if (X::SCALED && lane < STRIP_TOKENS)
                copy_scale(scales_at(put) + lane * 4, p, range, first + lane, next % 8 >= 4);
        }
        copy_commit();
        put = put + 1 == decode_shape<X>::SLOTS ? 0 : put + 1;
        next++;
    }

    /* The oldest strip has arrived; its address. The one before it is no longer read: a new one takes its slot. */
    __device__ __forceinline__ uint32_t turn(const attention_problem &p, const cache_range &range,
                                             int tile, int tiles_end)
    {
        copy_wait<decode_shape<X>::SLOTS - 2>();
        __syncwarp();
        copy(p, range, tile, tiles_end);
        const uint32_t at = address + take * X::STRIP;
        scales = scales_at(take);
        take = take + 1 == decode_shape<X>::SLOTS ? 0 : take + 1;
        return at;
    }
};

/* A row's output, or what its split gives to it. */
template <typename X>
static __device__ __forceinline__ void
decode_results(const attention_problem &p, const attention_plan &plan, const decode_item &item,
               const float o[X::D / 8][4], const row_state<1> &state, float factor)
{
    const int lane = threadIdx.x % 32, v_dim = static_cast<int>(p.a.v_dim);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + half * 8;
        const float sum = quad_sum(state.sum[half]), max = state.max[half] * factor;
        if (row >= item.n_heads) continue;
        const int64_t head = item.head + row;
        if (item.view.n_splits <= 1) {
            const float scale = finish_row(p.a, head, max, sum);
            const int64_t at = item.token * p.a.out_pitch + head * v_dim;
#pragma unroll
            for (int n = 0; n < X::D / 8; n++) {
                const int d = output_place<X>(n, lane);
                const float2 pair = output_pair<X>(o, n, half);
                if (d < v_dim) store2(p.a, at + d, pair.x * scale, pair.y * scale);
            }
            continue;
        }
        const int64_t slot = plan.all_decode ? item.token : item.seq;
        const int64_t at = (slot * p.a.n_heads + head) * plan.splits_max + item.split;
        if (lane % 4 == 0) plan.partial_max[at] = max;
        if (lane % 4 == 0) plan.partial_sum[at] = sum;
#pragma unroll
        for (int n = 0; n < X::D / 8; n++) {
            const int d = output_place<X>(n, lane);
            if (d < v_dim)
                *reinterpret_cast<float2 *>(plan.partial + at * v_dim + d) =
                    output_pair<X>(o, n, half);
        }
    }
}

template <typename X>
static __device__ __forceinline__ void decode(const attention_problem &p,
                                              const attention_plan &plan, const decode_item &item,
                                              uint32_t shared)
{
    const int lane = threadIdx.x % 32, split = item.view.first_split + item.split;
    const cache_range range = { item.seq, item.kv_head,
                                max(item.view.begin, split * plan.split_tokens),
                                min(item.view.end, (split + 1) * plan.split_tokens) };
    const int first = range.begin / TILE_TOKENS * TILE_TOKENS;

    copy_queries<X>(shared, p, item); /* in the first strip's group */
    strip_ring<X> ring = { shared + decode_shape<X>::Q, 0, 0, 0, 0 };
    for (int i = 0; i < decode_shape<X>::SLOTS - 1; i++)
        ring.copy(p, range, first, range.end);
    const auto place = [&](int, int half) -> row_place {
        return { item.view.index, item.head + min(lane / 4 + half * 8, item.n_heads - 1) };
    };
    const score_scale scale = score_scale_of(p.a, item.kv_head);
    float o[1][X::D / 8][4] = {};
    row_state<1> state = no_rows<1>();
    for (int tile = first; tile < range.end; tile += TILE_TOKENS) {
        float s[1][8][4] = {};
#pragma unroll
        for (int strip = 0; strip < TILE_STRIPS; strip++) {
            score_strips<X, 1, 1>(s, strip, shared, ring.turn(p, range, first, range.end), lane);
            if constexpr (X::SCALED) scale_strip<1>(s, strip, ring.scales);
        }
        if (scale.bent) bend_scores<1>(p.a, s, scale.scale, tile, place);
        if (tile < range.begin || tile + TILE_TOKENS > range.end)
            mask_range(s[0], range.begin - tile, range.end - tile);
        softmax<1, X::D / 8>(s, o, state.max, state.sum, scale.factor);
#pragma unroll
        for (int strip = 0; strip < TILE_STRIPS; strip++) {
            const uint32_t at = ring.turn(p, range, first, range.end);
            if constexpr (X::SCALED) scale_strip<1>(s, strip, ring.scales);
            weigh_strip<X, 1>(o, s, strip, at, lane);
        }
    }
    copy_wait<0>();
    __syncwarp(); /* the next item's copies write where this one read */
    decode_results<X>(p, plan, item, o[0], state, scale.factor);
}

template <typename X>
static __global__ void __launch_bounds__(32, DECODE_CTAS)
    attend_decode(const attention_problem p, const attention_plan plan)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    item_cursor cursor = no_items();
    const auto count = [&](int seq) { return decode_items(p, plan, seq); };
    int seq, inside;
    let_next_begin();
    for (int i = static_cast<int>(blockIdx.x);
         find_item(&cursor, p.n_seqs, i, count, &seq, &inside); i += static_cast<int>(gridDim.x)) {
        decode_item item;
        const bool there = decode_item_at(p, plan, seq, inside, &item);
        wait_for_others(); /* the batch's tables were there before */
        if (there) decode<X>(p, plan, item, shared_address(shared));
    }
    wait_for_others(); /* those without an item, too */
}

#endif
