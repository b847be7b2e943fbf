/* The decode kernel of attention on tensor cores. attention_mma.cuh explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_CUH

#include "kernels/attention/attention_decode_ring.cuh"
#include "kernels/attention/attention_decode_tile.cuh"
#include "kernels/attention/attention_work.cuh"
#include "kernels/cuda/launch.cuh"

enum {
    SHARED_BYTES = 227 << 10,
    CTA_BYTES_MAX = 99 << 10
}; /* an SM's on sm_90, a CTA's on sm_89 */

/* What a CTA has: 8 · NT heads, tiles of STRIPS strips, a ring for each warp. 16 warps are on an SM, or as many as their registers and
 * rings of three strips and more allow. */
template <typename X, int NT_> struct decode_shape {
    static constexpr int NT = NT_, HEADS = 8 * NT, STRIPS = 4 / NT;
    static constexpr int WARPS = X::BYTES == 1 ? 2 : 4, THREADS = 32 * WARPS;
    static constexpr int CTAS = (NT * X::D > 128 ? 8 : NT > 1 ? 12 : 16) / WARPS;
    static constexpr int STATS = WARPS * HEADS * 2 * 4, HEAD = 512;
    static constexpr int SHARE = SHARED_BYTES / CTAS - 1024;
    static constexpr int ROOM = (SHARE < CTA_BYTES_MAX ? SHARE : CTA_BYTES_MAX) - HEAD;
    static constexpr int WANTED = ROOM / WARPS / (X::STRIP + X::SCALES);
    static constexpr int SLOTS = WANTED < 12 ? WANTED : 12;
    using ring = strip_ring<X, STRIPS, SLOTS>;
    static constexpr int BYTES = HEAD + WARPS * ring::BYTES;
    /* Floats from a head's output to the next in shared memory: stores of a warp meet different banks. */
    static constexpr int PITCH = X::D + 4;
    static_assert(STATS <= HEAD && BYTES <= HEAD + ROOM && SLOTS > 2, "");
    static_assert(HEADS * PITCH * 4 <= ring::BYTES, "");
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
    item->head = kv_head * plan.group + chunk * plan.item_heads;
    item->n_heads = min(plan.item_heads, plan.group - chunk * plan.item_heads);
    item->view = view_token(p, plan, seq, item->token);
    return item->split < max(item->view.n_splits, 1);
}

/* What a warp found, in its own ring, and maxima and sums before all rings. */
template <typename S, typename X>
static __device__ __forceinline__ void
leave_results(uint8_t *shared, const decode_state<X, S::NT> &state, float factor)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float *stats = reinterpret_cast<float *>(shared) + warp * S::HEADS * 2;
    float *o = reinterpret_cast<float *>(shared + S::HEAD + warp * S::ring::BYTES);
#pragma unroll
    for (int i = 0; i < 2 * S::NT; i++) {
        const int n = i / 2, j = i % 2, head = n * 8 + lane % 4 * 2 + j;
        const float sum = column_sum(state.sum[n][j]);
        if (lane < 4) stats[head] = state.max[n][j] * factor;
        if (lane < 4) stats[S::HEADS + head] = sum;
#pragma unroll
        for (int m = 0; m < X::D / 16; m++) {
            o[head * S::PITCH + element_of<X>(m, 0, lane)] = state.o[n][m][j];
            o[head * S::PITCH + element_of<X>(m, 1, lane)] = state.o[n][m][2 + j];
        }
    }
}

/* Four elements of a head, out of all warps' parts. */
struct decode_part {
    float max, sum;
    float4 o;
};

template <typename S>
static __device__ __forceinline__ decode_part join_warps(const uint8_t *shared, int head, int d)
{
    const float *stats = reinterpret_cast<const float *>(shared) + head;
    decode_part part = { -INFINITY, 0.0f, make_float4(0.0f, 0.0f, 0.0f, 0.0f) };
#pragma unroll
    for (int w = 0; w < S::WARPS; w++)
        part.max = fmaxf(part.max, stats[w * S::HEADS * 2]);
    const float base = part.max == -INFINITY ? 0.0f : part.max;
#pragma unroll
    for (int w = 0; w < S::WARPS; w++) {
        const float *o = reinterpret_cast<const float *>(shared + S::HEAD + w * S::ring::BYTES);
        const float4 four = *reinterpret_cast<const float4 *>(o + head * S::PITCH + d);
        const float weight = exp2_fast(stats[w * S::HEADS * 2] - base);
        part.sum = fmaf(stats[w * S::HEADS * 2 + S::HEADS], weight, part.sum);
        part.o.x = fmaf(four.x, weight, part.o.x);
        part.o.y = fmaf(four.y, weight, part.o.y);
        part.o.z = fmaf(four.z, weight, part.o.z);
        part.o.w = fmaf(four.w, weight, part.o.w);
    }
    return part;
}

/* A head's output, or what its split gives to it: four elements from d on. */
static __device__ __forceinline__ void give_part(const attention_problem &p,
                                                 const attention_plan &plan,
                                                 const decode_item &item, int head, int d,
                                                 const decode_part &part)
{
    const float4 o = part.o;
    if (item.view.n_splits <= 1) {
        const float scale = finish_row(p.a, item.head + head, part.max, part.sum);
        const int64_t at = item.token * p.a.out_pitch + (item.head + head) * p.a.v_dim + d;
        store2(p.a, at, o.x * scale, o.y * scale);
        store2(p.a, at + 2, o.z * scale, o.w * scale);
        return;
    }
    const int64_t slot = plan.all_decode ? item.token : item.seq;
    const int64_t at = (slot * p.a.n_heads + item.head + head) * plan.splits_max + item.split;
    if (d == 0) plan.partial_max[at] = part.max;
    if (d == 0) plan.partial_sum[at] = part.sum;
    *reinterpret_cast<float4 *>(plan.partial + at * p.a.v_dim + d) = o;
}

/* A warp's tiles of an item: one of as many as there are warps. */
template <typename S, typename X>
static __device__ __forceinline__ void
decode_tiles(const attention_problem &p, const cache_range &range, const decode_item &item,
             const score_scale &scale, uint32_t shared, decode_state<X, S::NT> *state)
{
    constexpr int TILE = S::ring::TILE, STRIPS = S::STRIPS;
    const int warp = threadIdx.x / 32, first = range.begin / TILE * TILE + warp * TILE;
    typename S::ring ring;
    ring.begin(p, range, shared + S::HEAD + warp * S::ring::BYTES, first, S::WARPS * TILE);
    decode_queries<X, S::NT> q;
    load_queries(&q, p,
                 static_cast<const uint16_t *>(p.a.q) + item.token * p.a.q_pitch +
                     item.head * p.a.k_dim,
                 item.n_heads);
    clear_state(state);
    for (int tile = first; tile < range.end; tile += S::WARPS * TILE) {
        float s[S::NT][STRIPS][4] = {};
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            const int slot = ring.turn(p, range, strip);
            score_strip<X>(s, strip, q, ring.address + slot * X::STRIP);
            if constexpr (X::SCALED) scale_rows(s, strip, ring.scales_at(slot));
        }
        if (scale.bent)
            bend_columns(p.a, s, scale.scale, item.head, item.n_heads, tile - item.view.index);
        if (tile < range.begin || tile + TILE > range.end)
            mask_rows(s, range.begin - tile, range.end - tile);
        soften<X>(s, state, scale.factor);
#pragma unroll
        for (int strip = 0; strip < STRIPS; strip++) {
            const int slot = ring.turn(p, range, STRIPS + strip);
            if constexpr (X::SCALED) scale_rows(s, strip, ring.scales_at(slot));
            weigh_strip<X>(state, s, strip, ring.address + slot * X::STRIP);
        }
    }
    copy_wait<0>();
    __syncwarp(); /* what is written next lies in the ring */
}

template <typename S, typename X>
static __device__ __forceinline__ void decode(const attention_problem &p,
                                              const attention_plan &plan, const decode_item &item,
                                              uint8_t *shared)
{
    const int split = item.view.first_split + item.split;
    const cache_range range = { item.seq, item.kv_head,
                                max(item.view.begin, split * plan.split_tokens),
                                min(item.view.end, (split + 1) * plan.split_tokens) };
    const score_scale scale = score_scale_of(p.a, item.kv_head);
    decode_state<X, S::NT> state;
    decode_tiles<S, X>(p, range, item, scale, shared_address(shared), &state);
    leave_results<S>(shared, state, scale.factor);
    __syncthreads();
    for (int i = threadIdx.x; i < S::HEADS * X::D / 4; i += S::THREADS) {
        const int head = i / (X::D / 4), d = i % (X::D / 4) * 4;
        if (head < item.n_heads && d < p.a.v_dim)
            give_part(p, plan, item, head, d, join_warps<S>(shared, head, d));
    }
    __syncthreads(); /* the next item's copies write where this one read */
}

template <typename X, int NT>
static __global__ void __launch_bounds__(decode_shape<X, NT>::THREADS, decode_shape<X, NT>::CTAS)
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
        if (there) decode<decode_shape<X, NT>, X>(p, plan, item, shared);
    }
    wait_for_others(); /* those without an item, too */
}

#endif
