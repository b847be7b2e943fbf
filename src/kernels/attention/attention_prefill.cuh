/* The prefill kernel of attention on tensor cores. attention_mma.cuh explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_PREFILL_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_PREFILL_CUH

#include "kernels/attention/attention_tile.cuh"
#include "kernels/attention/attention_work.cuh"

enum { PREFILL_THREADS = 128, PREFILL_SEQS_EACH = 8 };

template <typename X> struct prefill_shape {
    /* As many rows as registers can hold; scaling needs some. */
    static constexpr int MT = X::D <= 128 && !X::SCALED ? 2 : 1, ROWS = 64 * MT;
    static constexpr int Q = ROWS * X::Q::PITCH, TILE = TILE_STRIPS * X::STRIP;
    static constexpr int SCALES = TILE_STRIPS * X::SCALES;
    static constexpr int BYTES = Q + 4 * (TILE + SCALES); /* two stages of K and V */

    /* Where the tile at cache index `tile` lies: K, then V. */
    static __device__ __forceinline__ uint32_t stage(uint32_t shared, int tile)
    {
        return shared + Q + tile / TILE_TOKENS % 2 * 2 * TILE;
    }

    /* Of that tile. */
    static __device__ __forceinline__ uint32_t scales(uint32_t shared, int tile)
    {
        return shared + Q + 4 * TILE + tile / TILE_TOKENS % 2 * 2 * SCALES;
    }
};

/* Rows [row, row + ROWS) of a sequence's pairs of token and query head. */
struct prefill_item {
    int seq, kv_head;
    int row, n_rows; /* n_rows: of the whole sequence */
    int first_token; /* of the sequence, in the batch */
    int past;        /* cache index of that token */
};

template <int ROWS>
static __device__ __forceinline__ int prefill_items(const attention_problem &p,
                                                    const attention_plan &plan, int seq)
{
    const int n = p.seq_start[seq + 1] - p.seq_start[seq];
    if (n == 0 || is_decoded(plan, n)) return 0;
    return (n * plan.group + ROWS - 1) / ROWS * static_cast<int>(p.a.n_kv_heads);
}

/* The last rows, which see the most, come first. */
template <int ROWS>
static __device__ __forceinline__ prefill_item prefill_item_at(const attention_problem &p,
                                                               const attention_plan &plan, int seq,
                                                               int inside)
{
    const int kv_heads = static_cast<int>(p.a.n_kv_heads);
    prefill_item item;
    item.seq = seq;
    item.kv_head = inside % kv_heads;
    item.first_token = p.seq_start[seq];
    item.n_rows = (p.seq_start[seq + 1] - item.first_token) * plan.group;
    item.row = ((item.n_rows - 1) / ROWS - inside / kv_heads) * ROWS;
    item.past = p.kv_len[seq] - (p.seq_start[seq + 1] - item.first_token);
    return item;
}

/* Of a warp's rows: which tokens all of them see, and which some do. */
struct warp_view {
    int all_begin, all_end, some_begin, some_end;
};

/* An item and its rows, found once by the CTA: in shared memory, for registers are short. */
template <int ROWS> struct prefill_shared {
    int n_rows;
    int first_token; /* add a row's cache index to get its token in the batch */
    int cache_len;
    cache_range range;
    warp_view views[PREFILL_THREADS / 32];
    row_place rows[ROWS]; /* those behind the last are the last */
    float max[ROWS / 32][PREFILL_THREADS], sum[ROWS / 32][PREFILL_THREADS]; /* as row_state */
};

template <int ROWS>
static __device__ __forceinline__ void
describe_rows(const attention_plan &plan, const prefill_item &item, prefill_shared<ROWS> *x)
{
    for (int row = threadIdx.x; row < ROWS; row += PREFILL_THREADS) {
        const int at = min(item.row + row, item.n_rows - 1), token = at / plan.group;
        x->rows[row] = { item.past + token, item.kv_head * plan.group + at - token * plan.group };
    }
}

static __device__ __forceinline__ warp_view view_of(const attention_problem &p, int first, int last,
                                                    int cache_len)
{
    return { first_visible(p.a, last), end_visible(p.a, first, cache_len),
             first_visible(p.a, first), end_visible(p.a, last, cache_len) };
}

template <int ROWS>
static __device__ __forceinline__ void
describe_item(const attention_problem &p, const attention_plan &plan, const prefill_item &item,
              prefill_shared<ROWS> *x)
{
    constexpr int WARP_ROWS = ROWS / (PREFILL_THREADS / 32);
    const int cache_len = p.cache_len[item.seq], warp = threadIdx.x / 32;
    describe_rows(plan, item, x);
    __syncthreads();
    const warp_view whole = view_of(p, x->rows[0].index, x->rows[ROWS - 1].index, cache_len);
    x->views[warp] = view_of(p, x->rows[warp * WARP_ROWS].index,
                             x->rows[warp * WARP_ROWS + WARP_ROWS - 1].index, cache_len);
    x->n_rows = min(ROWS, item.n_rows - item.row);
    x->first_token = item.first_token - item.past;
    x->cache_len = cache_len;
    x->range = { item.seq, item.kv_head, whole.some_begin, whole.some_end };
    __syncthreads();
}

template <typename X, int ROWS>
static __device__ __forceinline__ void copy_rows(uint32_t to, const attention_problem &p,
                                                 const prefill_shared<ROWS> &x)
{
    const int chunks = static_cast<int>(p.a.k_dim) / 8;
    for (int i = threadIdx.x; i < ROWS * X::Q::CHUNKS; i += PREFILL_THREADS) {
        const int row = i / X::Q::CHUNKS, chunk = i % X::Q::CHUNKS;
        const int64_t token = x.first_token + x.rows[row].index;
        const int64_t at = token * p.a.q_pitch + x.rows[row].head * p.a.k_dim + chunk * 8;
        const bool there = row < x.n_rows && chunk < chunks;
        copy_q<X>(to, row, chunk, static_cast<const uint16_t *>(p.a.q) + (there ? at : 0),
                  p.a.dtype, there);
    }
}

template <typename X>
static __device__ __forceinline__ void copy_tile(uint32_t shared, const attention_problem &p,
                                                 const cache_range &range, int tile)
{
    using S = prefill_shape<X>;
    const uint32_t to = S::stage(shared, tile);
    const int thread = static_cast<int>(threadIdx.x);
    if (p.a.kv.block_tokens % TILE_TOKENS == 0) {
        copy_stretch<X, PREFILL_THREADS, TILE_TOKENS>(to, p, range, tile, false, thread);
        copy_stretch<X, PREFILL_THREADS, TILE_TOKENS>(to + S::TILE, p, range, tile, true, thread);
    } else {
#pragma unroll 1
        for (int i = 0; i < 2 * TILE_STRIPS; i++)
            copy_stretch<X, PREFILL_THREADS, STRIP_TOKENS>(to + i * X::STRIP, p, range,
                                                           tile + i % TILE_STRIPS * STRIP_TOKENS,
                                                           i >= TILE_STRIPS, thread);
    }
    static_assert(PREFILL_THREADS == 2 * TILE_TOKENS, "a thread has one scale");
    if constexpr (X::SCALED)
        copy_scale(S::scales(shared, tile) + thread * 4, p, range, tile + thread % TILE_TOKENS,
                   thread >= TILE_TOKENS);
    copy_commit();
}

template <int MT, int ROWS>
static __device__ __forceinline__ void save_state(prefill_shared<ROWS> *x,
                                                  const row_state<MT> &state)
{
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        x->max[i][threadIdx.x] = state.max[i];
        x->sum[i][threadIdx.x] = state.sum[i];
    }
}

template <int MT, int ROWS>
static __device__ __forceinline__ row_state<MT> load_state(const prefill_shared<ROWS> &x)
{
    row_state<MT> state;
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        state.max[i] = x.max[i][threadIdx.x];
        state.sum[i] = x.sum[i][threadIdx.x];
    }
    return state;
}

template <typename X, int MT, int ROWS>
static __device__ __forceinline__ void
prefill_results(const attention_problem &p, const prefill_shared<ROWS> &x,
                const float o[MT][X::D / 8][4], float factor, int first_row)
{
    const int lane = threadIdx.x % 32, v_dim = static_cast<int>(p.a.v_dim);
    const row_state<MT> state = load_state<MT>(x);
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        const int row = first_row + i / 2 * 16 + i % 2 * 8 + lane / 4;
        const float sum = quad_sum(state.sum[i]);
        if (row >= x.n_rows) continue;
        const row_place place = x.rows[row];
        const float scale = finish_row(p.a, place.head, state.max[i] * factor, sum);
        const int64_t at =
            (x.first_token + place.index) * p.a.out_pitch + int64_t{ place.head } * v_dim;
#pragma unroll
        for (int n = 0; n < X::D / 8; n++) {
            const int d = output_place<X>(n, lane);
            const float2 pair = output_pair<X>(o[i / 2], n, i % 2);
            if (d < v_dim) store2(p.a, at + d, pair.x * scale, pair.y * scale);
        }
    }
}

template <typename X, int MT>
static __device__ __forceinline__ void scale_tile(float (*s)[8][4], uint32_t scales)
{
#pragma unroll
    for (int strip = 0; strip < TILE_STRIPS; strip++)
        scale_strip<MT>(s, strip, scales + strip * X::SCALES);
}

/* A warp passes over tiles that none of its rows sees, which changes nothing but time. */
template <typename X, int ROWS>
static __device__ __forceinline__ void prefill(const attention_problem &p, prefill_shared<ROWS> *x,
                                               uint32_t shared)
{
    using S = prefill_shape<X>;
    constexpr int MT = S::MT;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first_row = warp * 16 * MT;
    const auto place = [&](int m, int half) {
        return x->rows[first_row + m * 16 + half * 8 + lane / 4];
    };
    int tile = x->range.begin / TILE_TOKENS * TILE_TOKENS;
    copy_rows<X>(shared, p, *x);
    copy_tile<X>(shared, p, x->range, tile);
    save_state<MT>(x, no_rows<MT>());
    float o[MT][X::D / 8][4] = {};
    for (; tile < x->range.end; tile += TILE_TOKENS) {
        copy_wait<0>();
        __syncthreads();
        if (tile + TILE_TOKENS < x->range.end)
            copy_tile<X>(shared, p, x->range, tile + TILE_TOKENS);
        const warp_view view = x->views[warp];
        if (tile >= view.some_end || tile + TILE_TOKENS <= view.some_begin) continue;
        const bool masked = tile < view.all_begin || tile + TILE_TOKENS > view.all_end;
        const uint32_t stage = S::stage(shared, tile);
        float s[MT][8][4] = {};
        score_strips<X, MT, TILE_STRIPS>(s, 0, shared + first_row * X::Q::PITCH, stage, lane);
        const score_scale scale = score_scale_of(p.a, x->range.kv_head);
        if constexpr (X::SCALED) scale_tile<X, MT>(s, S::scales(shared, tile));
        if (scale.bent) bend_scores<MT>(p.a, s, scale.scale, tile, place);
        if (masked) mask_scores<MT>(p.a, s, tile, x->cache_len, place);
        row_state<MT> state = load_state<MT>(*x);
        softmax<MT, X::D / 8>(s, o, state.max, state.sum, scale.factor);
        save_state<MT>(x, state);
        if constexpr (X::SCALED) scale_tile<X, MT>(s, S::scales(shared, tile) + S::SCALES);
#pragma unroll
        for (int strip = 0; strip < TILE_STRIPS; strip++)
            weigh_strip<X, MT>(o, s, strip, stage + S::TILE + strip * X::STRIP, lane);
    }
    prefill_results<X, MT>(p, *x, o, score_scale_of(p.a, x->range.kv_head).factor, first_row);
}

template <typename X>
static __global__ void __launch_bounds__(PREFILL_THREADS)
    attend_prefill(const attention_problem p, const attention_plan plan)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    constexpr int rows = prefill_shape<X>::ROWS;
    __shared__ prefill_shared<rows> described;
    item_cursor cursor = no_items();
    const auto count = [&](int seq) { return prefill_items<rows>(p, plan, seq); };
    int seq, inside;
    if (!find_item<PREFILL_SEQS_EACH>(&cursor, p.n_seqs, static_cast<int>(blockIdx.x), count, &seq,
                                      &inside))
        return;
    describe_item(p, plan, prefill_item_at<rows>(p, plan, seq, inside), &described);
    prefill<X>(p, &described, shared_address(shared));
}

#endif
