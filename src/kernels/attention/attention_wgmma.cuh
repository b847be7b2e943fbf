/* The prefill kernel of attention on Hopper's tensor cores: consumers, and the kernel. attention_wgmma_sm90.cu explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_WGMMA_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_WGMMA_CUH

#include "kernels/attention/attention_wgmma_widen.cuh"

/* The row of the item, of a thread's two (g and g + 8 of its warp's 16), that is in half `half`. */
static __device__ __forceinline__ int consumer_row(int consumer, int half)
{
    const int thread = threadIdx.x % WARPGROUP_THREADS;
    return consumer * CONSUMER_ROWS + thread / 32 * 16 + half * 8 + thread % 32 / 4;
}

static __device__ __forceinline__ row_place place_of_row(const wgmma_item &item, int group, int row)
{
    const int at = min(item.rows.row + row, item.rows.n_rows - 1), token = at / group;
    return { item.rows.past + token, item.rows.kv_head * group + at - token * group };
}

template <typename X>
static __device__ __forceinline__ void score_panels(float (&s)[X::S_TILES][4], uint64_t q,
                                                    uint64_t k)
{
#pragma unroll
    for (int i = 0; i < X::D / 16; i++)
        wgmma_rows(s, descriptor_at(q, i / 4 * WGMMA_ROWS * PANEL_ROW_BYTES + i % 4 * 32),
                   descriptor_at(k, i / 4 * X::TOKENS * PANEL_ROW_BYTES + i % 4 * 32), i > 0,
                   typename X::T());
    wgmma_commit();
}

template <typename X>
static __device__ __forceinline__ void weigh_panels(float (&o)[X::PARTS][X::O_TILES][4],
                                                    const uint32_t (&weights)[X::TOKENS / 16][4],
                                                    uint64_t v)
{
#pragma unroll
    for (int i = 0; i < X::TOKENS / 16; i++)
#pragma unroll
        for (int part = 0; part < X::PARTS; part++)
            wgmma_weigh(o[part], weights[i],
                        descriptor_at(v, (part * 2 * X::TOKENS + i * 16) * PANEL_ROW_BYTES),
                        typename X::T());
    wgmma_commit();
}

/* Sums so far of a thread's two rows. */
struct consumer_state {
    float max[2], sum[2], rescale[2];
};

/* Scores of a tile become weights. */
template <typename X>
static __device__ __forceinline__ void
weigh_scores(const attention_problem &p, int group, const wgmma_item &item, int consumer,
             float factor, int tile, float (&s)[X::S_TILES][4], consumer_state *state)
{
    const int first = tile * X::TOKENS;
    if (first < item.all[consumer].begin || first + X::TOKENS > item.all[consumer].end) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int index = place_of_row(item, group, consumer_row(consumer, half)).index;
            mask_row(s, half, first_visible(p.a, index) - first,
                     end_visible(p.a, index, item.cache_len) - first);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++)
        state->rescale[half] = softmax_row(s, half, &state->max[half], &state->sum[half], factor);
}

template <typename X>
static __device__ __forceinline__ void rescale_sums(float (&o)[X::PARTS][X::O_TILES][4],
                                                    const consumer_state &state)
{
    if (!__any_sync(0xffffffffu, state.rescale[0] != 1.0f || state.rescale[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < X::PARTS * X::O_TILES * 4; i++)
        o[i / 4 / X::O_TILES][i / 4 % X::O_TILES][i % 4] *= state.rescale[i % 4 / 2];
}

template <typename X>
static __device__ __forceinline__ void pack_weights(uint32_t (&weights)[X::TOKENS / 16][4],
                                                    const float (&s)[X::S_TILES][4])
{
#pragma unroll
    for (int i = 0; i < X::TOKENS / 16; i++)
        weights_of<typename X::T>(weights[i], s, i);
}

template <typename X>
static __device__ __forceinline__ void hold_sums(float (&o)[X::PARTS][X::O_TILES][4])
{
#pragma unroll
    for (int part = 0; part < X::PARTS; part++)
        hold_registers(o[part]);
}

/* One arrival of each warp, when it has read what it needs. */
static __device__ __forceinline__ void release(uint32_t barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

/* Of four tiles of 8 columns each thread of a quad has one pair of each; it gets all of the tile that has its number. */
static __device__ __forceinline__ uint4 transpose_quad(const uint32_t pairs[4])
{
    const bool odd = threadIdx.x % 2, upper = threadIdx.x % 4 >= 2;
    uint32_t x[4]; /* two pairs of tile 0 or 1, two of 2 or 3 */
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t kept = odd ? pairs[i + 1] : pairs[i];
        const uint32_t got = __shfl_xor_sync(0xffffffffu, odd ? pairs[i] : pairs[i + 1], 1);
        x[i] = odd ? got : kept;
        x[i + 1] = odd ? kept : got;
    }
    const uint32_t low = __shfl_xor_sync(0xffffffffu, upper ? x[0] : x[2], 2);
    const uint32_t high = __shfl_xor_sync(0xffffffffu, upper ? x[1] : x[3], 2);
    return upper ? make_uint4(low, high, x[2], x[3]) : make_uint4(x[0], x[1], low, high);
}

/* Two elements of the output: of E4M3 (two bytes), or of 16 bits as the products are, unless those are widened. */
template <typename X, bool E4M3>
static __device__ __forceinline__ uint32_t pack_result(const spey_attention_args &a, float low,
                                                       float high)
{
    if (E4M3) return round_pair(low, high);
    if (X::WIDENS && a.dtype == SPEY_BF16) return pack2(low, high, __nv_bfloat16());
    return pack2(low, high, typename X::T());
}

/* Four such pairs. */
template <bool E4M3>
static __device__ __forceinline__ void store_chunk(void *out, int64_t at, uint4 chunk)
{
    if (E4M3)
        *reinterpret_cast<uint2 *>(static_cast<uint8_t *>(out) + at) =
            make_uint2(chunk.x | chunk.y << 16, chunk.z | chunk.w << 16);
    else
        *reinterpret_cast<uint4 *>(static_cast<uint16_t *>(out) + at) = chunk;
}

/* A row's output: tile by tile four stores of its quad are 32 elements. */
template <typename X, bool E4M3>
static __device__ __forceinline__ void consumer_results(const attention_problem &p, int group,
                                                        const wgmma_item &item, int consumer,
                                                        const float (&o)[X::PARTS][X::O_TILES][4],
                                                        const consumer_state &state, float factor)
{
    const int v_dim = static_cast<int>(p.a.v_dim);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float sum = quad_sum(state.sum[half]);
        const int row = consumer_row(consumer, half);
        const row_place place = place_of_row(item, group, row);
        const float scale = finish_row(p.a, place.head, state.max[half] * factor, sum);
        const int64_t token = item.rows.first_token - item.rows.past + place.index;
        const int64_t out = token * p.a.out_pitch + int64_t{ place.head } * v_dim;
#pragma unroll
        for (int n = 0; n < X::D / 8; n += 4) {
            uint32_t pairs[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float *pair = &o[(n + i) / X::O_TILES][(n + i) % X::O_TILES][2 * half];
                pairs[i] = pack_result<X, E4M3>(p.a, pair[0] * scale, pair[1] * scale);
            }
            const uint4 chunk = transpose_quad(pairs);
            const int d = (n + static_cast<int>(threadIdx.x) % 4) * 8;
            if (item.rows.row + row < item.rows.n_rows && d < v_dim)
                store_chunk<E4M3>(p.a.out, out + d, chunk);
        }
    }
}

/* What a consumer has in registers: of its rows, over the item's tiles so far. */
template <typename X> struct consumer_sums {
    float o[X::PARTS][X::O_TILES][4], s[X::S_TILES][4]; /* outputs; scores of one tile */
    uint32_t weights[X::TOKENS / 16][4];
    consumer_state state;
};

/* As release, unless the item's one tile is for the next one, too. (constexpr: even a condition that is always false
 * costs the others' loop its uniform registers.) */
template <typename X>
static __device__ __forceinline__ void release_tile(const wgmma_item &item, uint32_t barrier)
{
    if constexpr (X::BUNDLES)
        if (item.kept) return;
    release(barrier);
}

/* Begins the scores of an item's first tile, the nth of all. Behind the last item the products mean nothing. */
template <typename X>
static __device__ __forceinline__ void begin_item(const wgmma_item slots[ITEM_SLOTS], uint32_t item,
                                                  const wgmma_shared<X> &shared, int consumer,
                                                  uint32_t n, consumer_sums<X> *x)
{
    barrier_wait(shared.q_full(item), wgmma_shared<X>::q_phase(item));
    if (slots[item % ITEM_SLOTS].tiles > 0)
        barrier_wait(shared.full(false, n), wgmma_shared<X>::phase(n));
    fence_for_wgmma();
    wgmma_begin();
    score_panels<X>(x->s, shared.queries(consumer, item), shared.panels(false, n));
}

/* The tiles of an item, the nth that there is, *n the first; the last outputs are not waited for. */
template <typename X>
static __device__ __forceinline__ void consume_tiles(const attention_problem &p, int group,
                                                     const wgmma_item &item, uint32_t nth,
                                                     const wgmma_shared<X> &shared, int consumer,
                                                     float factor, uint32_t *n, consumer_sums<X> *x)
{
    using S = wgmma_shared<X>;
    const int last = item.tile, tiles = item.tiles;
    release_tile<X>(item, shared.empty(false, *n));
    if (tiles == 1) release(shared.q_empty(nth));
    weigh_scores<X>(p, group, item, consumer, factor, last, x->s, &x->state);
    pack_weights<X>(x->weights, x->s);
#pragma unroll 1
    for (int i = 1; i < tiles; i++, *n += 1) {
        barrier_wait(shared.full(false, *n + 1), S::phase(*n + 1));
        barrier_wait(shared.full(true, *n), S::phase(*n));
        fence_for_wgmma();
        wgmma_begin();
        score_panels<X>(x->s, shared.queries(consumer, nth), shared.panels(false, *n + 1));
        weigh_panels<X>(x->o, x->weights, shared.panels(true, *n));
        wgmma_wait<1>();
        hold_registers(x->s);
        release(shared.empty(false, *n + 1));
        if (i + 1 == tiles) release(shared.q_empty(nth));
        weigh_scores<X>(p, group, item, consumer, factor, last - i, x->s, &x->state);
        wgmma_wait<0>();
        hold_sums<X>(x->o);
        release(shared.empty(true, *n));
        rescale_sums<X>(x->o, x->state);
        pack_weights<X>(x->weights, x->s);
    }
    barrier_wait(shared.full(true, *n), S::phase(*n));
    fence_for_wgmma();
    wgmma_begin();
    weigh_panels<X>(x->o, x->weights, shared.panels(true, *n));
    *n += 1;
}

/* While an item's last outputs are computed and written, the next one's first scores are. */
template <typename X, bool E4M3>
static __device__ __forceinline__ void
consume(const attention_problem &p, const attention_plan &plan, const wgmma_shared<X> &shared,
        const wgmma_item slots[ITEM_SLOTS], int consumer)
{
    uint32_t n = 0;
    consumer_sums<X> x;
    begin_item<X>(slots, 0, shared, consumer, 0, &x);
    for (uint32_t items = 0;; items++) {
        const wgmma_item &item = slots[items % ITEM_SLOTS];
        wgmma_wait<0>();
        hold_registers(x.s);
        if (item.tiles < 0) break;
        const float factor = score_scale_of(p.a, item.rows.kv_head).factor;
        x.state = { { -INFINITY, -INFINITY }, { 0.0f, 0.0f }, { 1.0f, 1.0f } };
#pragma unroll
        for (int i = 0; i < X::PARTS * X::O_TILES * 4; i++)
            x.o[i / 4 / X::O_TILES][i / 4 % X::O_TILES][i % 4] = 0.0f;
        consume_tiles<X>(p, plan.group, item, items, shared, consumer, factor, &n, &x);
        const uint32_t last = n - 1;              /* its last tile */
        if constexpr (X::BUNDLES) n -= item.kept; /* the next item begins with the same tile */
        begin_item<X>(slots, items + 1, shared, consumer, n, &x);
        wgmma_wait<1>();
        hold_sums<X>(x.o);
        release_tile<X>(item, shared.empty(true, last));
        consumer_results<X, E4M3>(p, plan.group, item, consumer, x.o, x.state, factor);
    }
}

/* E4M3: what it writes. */
template <typename X, bool E4M3>
static __global__ void __launch_bounds__(WGMMA_THREADS, 1)
    attend_prefill_wgmma(const attention_problem p, const attention_plan plan, const int bundle)
{
    extern __shared__ __align__(1024) uint8_t dynamic[];
    __shared__ wgmma_item slots[ITEM_SLOTS];
    const wgmma_shared<X> shared = { (shared_address(dynamic) + 1023) / 1024 * 1024 };
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / WARPGROUP_THREADS, 0);
    if (threadIdx.x < X::N_BARRIERS) {
        const int i = static_cast<int>(threadIdx.x);
        barrier_init(shared.base + X::BARRIERS + i * 8, wgmma_shared<X>::arrivals(i));
        barrier_init_done();
    }
    __syncthreads();
    if (warpgroup == 0) {
        fewer_registers<PRODUCER_REGISTERS>();
        if constexpr (X::WIDENS)
            produce_widened<X>(p, plan, bundle, shared, slots);
        else
            produce<X>(p, plan, shared, slots);
    } else {
        more_registers<CONSUMER_REGISTERS>();
        wait_for_others();
        consume<X, E4M3>(p, plan, shared, slots, warpgroup - 1);
    }
}

#endif
