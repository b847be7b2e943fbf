/* The decode kernel of attention on tensor cores. attention_mma.cuh explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_CUH

#include "kernels/attention/attention_decode_ring.cuh"
#include "kernels/attention/attention_decode_tile.cuh"
#include "kernels/attention/attention_work.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/launch.cuh"

enum {
    SHARED_BYTES = 227 << 10, /* an SM's on sm_90 */
    CTA_BYTES_MAX = 99 << 10, /* a CTA's on sm_89 */
};

/* What a CTA has: 8 · NT heads, tiles of STRIPS strips, a ring for each warp. 16 warps are on an SM, or as many as their registers and
 * rings of three strips and more allow. FEW: for few items, whose strips all warps of a cluster share out; short rings leave
 * room for the kernels before and after. */
template <typename X, int NT_, bool FEW_> struct decode_shape {
    static constexpr bool FEW = FEW_;
    static constexpr int NT = NT_, HEADS = 8 * NT, STRIPS = FEW ? 1 : 4 / NT;
    static constexpr int WARPS = X::BYTES == 1 && !FEW ? 2 : 4, THREADS = 32 * WARPS;
    static constexpr int CTAS = (FEW || NT * X::D > 128 ? 8 : NT > 1 ? 12 : 16) / WARPS;
    static constexpr int STATS = WARPS * HEADS * 2 * 4, HEAD = FEW ? 1024 : 512;
    static constexpr int SHARE = SHARED_BYTES / CTAS - 1024;
    static constexpr int ROOM = (SHARE < CTA_BYTES_MAX ? SHARE : CTA_BYTES_MAX) - HEAD;
    static constexpr int WANTED = (ROOM / WARPS - X::SCALES) / (X::STRIP + X::SCALES);
    static constexpr int LIMIT = FEW ? 5 : 12, SLOTS = WANTED < LIMIT ? WANTED : LIMIT;
    using ring = strip_ring<X, STRIPS, SLOTS>;
    static constexpr int BYTES = HEAD + WARPS * ring::BYTES;
    /* Floats from a head's output to the next in shared memory: stores of a warp meet different banks. */
    static constexpr int PITCH = X::D + 4;
    static_assert(STATS + FEW * 2 * HEADS * 4 <= HEAD && BYTES <= HEAD + ROOM && SLOTS > 2, "");
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

/* Four elements of a head, out of several parts. */
struct decode_part {
    float max, sum;
    float4 o;
};

/* Parts come by LOAD(i, &sum, &o), their maxima by MAX(i): n of them. */
template <typename MAX, typename LOAD>
static __device__ __forceinline__ decode_part join_parts(int n, MAX max_of, LOAD load)
{
    decode_part part = { -INFINITY, 0.0f, make_float4(0.0f, 0.0f, 0.0f, 0.0f) };
#pragma unroll
    for (int i = 0; i < n; i++)
        part.max = fmaxf(part.max, max_of(i));
    const float base = part.max == -INFINITY ? 0.0f : part.max;
#pragma unroll
    for (int i = 0; i < n; i++) {
        float sum;
        float4 o;
        load(i, &sum, &o);
        const float weight = exp2_fast(max_of(i) - base);
        part.sum = fmaf(sum, weight, part.sum);
        part.o.x = fmaf(o.x, weight, part.o.x);
        part.o.y = fmaf(o.y, weight, part.o.y);
        part.o.z = fmaf(o.z, weight, part.o.z);
        part.o.w = fmaf(o.w, weight, part.o.w);
    }
    return part;
}

template <typename S>
static __device__ __forceinline__ decode_part join_warps(const uint8_t *shared, int head, int d)
{
    const float *stats = reinterpret_cast<const float *>(shared) + head;
    const auto max_of = [&](int w) { return stats[w * S::HEADS * 2]; };
    const auto load = [&](int w, float *sum, float4 *o) {
        const uint8_t *ring = shared + S::HEAD + w * S::ring::BYTES;
        *sum = stats[w * S::HEADS * 2 + S::HEADS];
        *o = *reinterpret_cast<const float4 *>(ring + (head * S::PITCH + d) * 4);
    };
    return join_parts(S::WARPS, max_of, load);
}

/* The CTA's own part, for others of its cluster: in the place of its first warp's, maxima and sums behind those of all warps. */
template <typename S>
static __device__ __forceinline__ void leave_part(uint8_t *shared, int head, int d,
                                                  const decode_part &part)
{
    float *stats = reinterpret_cast<float *>(shared + S::STATS) + head;
    if (d == 0) stats[0] = part.max;
    if (d == 0) stats[S::HEADS] = part.sum;
    *reinterpret_cast<float4 *>(shared + S::HEAD + (head * S::PITCH + d) * 4) = part.o;
}

template <typename S, int CTAS>
static __device__ __forceinline__ decode_part join_ctas(uint32_t shared, int head, int d)
{
    float max[CTAS];
#pragma unroll
    for (int i = 0; i < CTAS; i++)
        max[i] = cluster_load(cluster_address(shared + S::STATS + head * 4, i));
    const auto max_of = [&](int i) { return max[i]; };
    const auto load = [&](int i, float *sum, float4 *o) {
        const uint32_t there = cluster_address(shared, i);
        *sum = cluster_load(there + S::STATS + (S::HEADS + head) * 4);
        *o = cluster_load4(there + S::HEAD + (head * S::PITCH + d) * 4);
    };
    return join_parts(CTAS, max_of, load);
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

/* A warp's tiles of an item: every n-th from the `mine`-th on, n being all warps that share it. */
struct decode_share {
    int mine, n;
};

template <typename S, typename X>
static __device__ __forceinline__ void
decode_tiles(const attention_problem &p, const cache_range &range, const decode_item &item,
             const decode_share &share, float factor, uint32_t shared,
             decode_state<X, S::NT> *state)
{
    constexpr int TILE = S::ring::TILE, STRIPS = S::STRIPS;
    const int first = range.begin / TILE * TILE + share.mine * TILE, step = share.n * TILE;
    const score_scale scale = score_scale_of(p.a, item.kv_head);
    typename S::ring ring;
    ring.begin(p, range, shared, first, step);
    decode_queries<X, S::NT> q;
    load_queries(&q, p,
                 static_cast<const uint16_t *>(p.a.q) + item.token * p.a.q_pitch +
                     item.head * p.a.k_dim,
                 item.n_heads);
    clear_state(state);
    for (int tile = first; tile < range.end; tile += step) {
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
        soften<X>(s, state, factor);
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

/* What the CTAs of a cluster found: each gives its share of the item's elements. */
template <typename S, typename X, int CTAS>
static __device__ __forceinline__ void give_joined(const attention_problem &p,
                                                   const attention_plan &plan,
                                                   const decode_item &item, uint32_t shared)
{
    constexpr int SHARE = S::HEADS * X::D / 4 / CTAS;
    for (int i = threadIdx.x; i < SHARE; i += S::THREADS) {
        const int at = cluster_rank() * SHARE + i, head = at / (X::D / 4), d = at % (X::D / 4) * 4;
        if (head < item.n_heads && d < p.a.v_dim)
            give_part(p, plan, item, head, d, join_ctas<S, CTAS>(shared, head, d));
    }
}

template <typename S, typename X>
static __device__ __forceinline__ void decode(const attention_problem &p,
                                              const attention_plan &plan, const decode_item &item,
                                              uint8_t *shared)
{
    const int split = item.view.first_split + item.split, warp = threadIdx.x / 32;
    const int ctas = S::FEW ? cluster_size() : 1;
    const decode_share share = { S::FEW ? warp * ctas + cluster_rank() : warp, S::WARPS * ctas };
    const cache_range range = { item.seq, item.kv_head,
                                max(item.view.begin, split * plan.split_tokens),
                                min(item.view.end, (split + 1) * plan.split_tokens) };
    const float factor = score_scale_of(p.a, item.kv_head).factor;
    const uint32_t address = shared_address(shared);
    decode_state<X, S::NT> state;
    decode_tiles<S, X>(p, range, item, share, factor, address + S::HEAD + warp * S::ring::BYTES,
                       &state);
    leave_results<S>(shared, state, factor);
    __syncthreads();
    for (int i = threadIdx.x; i < S::HEADS * X::D / 4; i += S::THREADS) {
        const int head = i / (X::D / 4), d = i % (X::D / 4) * 4;
        if (head >= item.n_heads || d >= p.a.v_dim) continue;
        const decode_part part = join_warps<S>(shared, head, d);
        if (ctas > 1)
            leave_part<S>(shared, head, d, part);
        else
            give_part(p, plan, item, head, d, part);
    }
    if constexpr (S::FEW) {
        if (ctas > 1) cluster_sync();
        if (ctas == 2) give_joined<S, X, 2>(p, plan, item, address);
        if (ctas == 4) give_joined<S, X, 4>(p, plan, item, address);
        if (ctas > 1) return cluster_sync(); /* others have read this CTA's part */
    }
    __syncthreads(); /* the next item's copies write where this one read */
}

template <typename X, int NT, bool FEW>
static __global__ void __launch_bounds__(decode_shape<X, NT, FEW>::THREADS,
                                         decode_shape<X, NT, FEW>::CTAS)
    attend_decode(const attention_problem p, const attention_plan plan)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    const int ctas = FEW ? cluster_size() : 1;
    item_cursor cursor = no_items();
    const auto count = [&](int seq) { return decode_items(p, plan, seq); };
    int seq, inside;
    let_next_begin();
    for (int i = static_cast<int>(blockIdx.x) / ctas;
         find_item(&cursor, p.n_seqs, i, count, &seq, &inside);
         i += static_cast<int>(gridDim.x) / ctas) {
        decode_item item;
        const bool there = decode_item_at(p, plan, seq, inside, &item);
        wait_for_others(); /* the batch's tables were there before */
        if (there) decode<decode_shape<X, NT, FEW>, X>(p, plan, item, shared);
    }
    wait_for_others(); /* those without an item, too */
}

#endif
