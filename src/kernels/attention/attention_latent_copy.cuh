/* Attention with wide heads: how things lie in shared memory, items, and copies. attention_latent_sm90.cu explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_LATENT_COPY_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_LATENT_COPY_CUH

#include "kernels/attention/attention_prefill.cuh"

enum {
    LATENT_THREADS = 256,
    LATENT_WARPS = LATENT_THREADS / 32,
    LATENT_K = 576, /* largest head sizes */
    LATENT_V = 512,
    LATENT_COLUMNS = LATENT_V / LATENT_WARPS /* of the output, a warp's */
};

/* T: of q, K, V and the products. ROWS: pairs of token and query head in an item. Scores are cut over warps by rows, then by
 * tokens; outputs by columns. */
template <typename T_, int ROWS_> struct latent_traits {
    using T = T_;
    static constexpr int ROWS = ROWS_, ROW_WARPS = ROWS / 16;
    static constexpr int TOKEN_WARPS = LATENT_WARPS / ROW_WARPS;
    static constexpr int S_TILES = TILE_TOKENS / TOKEN_WARPS / 8;
    static constexpr int O_TILES = LATENT_COLUMNS / 8;
    static constexpr int K_PITCH = LATENT_K * 2, V_PITCH = LATENT_V * 2;
    static constexpr int WEIGHT_PITCH = TILE_TOKENS * 2;
    static constexpr int K = ROWS * K_PITCH, V = K + TILE_TOKENS * K_PITCH; /* Q lies at 0 */
    static constexpr int WEIGHTS = V + TILE_TOKENS * V_PITCH;
    static constexpr int BYTES = WEIGHTS + ROWS * WEIGHT_PITCH;
};

/* Byte of chunk `chunk` of row `row`: as attention_copy.cuh has it, within groups of 8 chunks. */
static __device__ __forceinline__ int wide_at(int pitch, int row, int chunk)
{
    return row * pitch + chunk / 8 * 128 + ((chunk ^ row) & 7) * 16;
}

/* An item, and its rows' sums: what warps tell each other. */
template <typename X> struct latent_shared {
    int n_rows;
    int first_token; /* add a row's cache index to get its token in the batch */
    int cache_len;
    int64_t slot;        /* of a decoded token in the partial results */
    int split, n_splits; /* 1: there are no partial results */
    cache_range range;
    int all_begin, all_end; /* what all rows see */
    row_place rows[X::ROWS];
    float max[X::TOKEN_WARPS][X::ROWS], sum[X::TOKEN_WARPS][X::ROWS];
    float row_max[X::ROWS], rescale[X::ROWS];
};

/* ---- items: of sequences with one token (DECODE), or of the others ---- */

template <typename X, bool DECODE>
static __device__ __forceinline__ int latent_items(const attention_problem &p,
                                                   const attention_plan &plan, int seq)
{
    const int n = p.seq_start[seq + 1] - p.seq_start[seq];
    if (n == 0 || is_decoded(plan, n) != DECODE) return 0;
    if (!DECODE) return prefill_items<X::ROWS>(p, plan, seq);
    const int splits = max(view_token(p, plan, seq, p.seq_start[seq + 1] - 1).n_splits, 1);
    return n * splits * ((plan.group + X::ROWS - 1) / X::ROWS) * static_cast<int>(p.a.n_kv_heads);
}

/* Fills `x` but for its rows' sums; false: a token has no such split. Every thread calls it. */
template <typename X>
static __device__ __forceinline__ bool describe_decoded(const attention_problem &p,
                                                        const attention_plan &plan, int seq,
                                                        int inside, latent_shared<X> *x)
{
    const int chunks = (plan.group + X::ROWS - 1) / X::ROWS, end = p.seq_start[seq + 1];
    const int heads = chunks * static_cast<int>(p.a.n_kv_heads);
    const int n = max(view_token(p, plan, seq, end - 1).n_splits, 1);
    const int chunk = inside % heads % chunks, kv_head = inside % heads / chunks;
    const int split = inside / heads % n, token = p.seq_start[seq] + inside / heads / n;
    const token_view view = view_token(p, plan, seq, token);
    if (split >= max(view.n_splits, 1)) return false;
    const int first = (view.first_split + split) * plan.split_tokens;
    const int group_left = plan.group - chunk * X::ROWS;
    x->n_rows = min(X::ROWS, group_left);
    x->first_token = token - view.index;
    x->cache_len = p.cache_len[seq];
    x->slot = plan.all_decode ? token : seq;
    x->split = split;
    x->n_splits = view.n_splits;
    x->range = { seq, kv_head, max(view.begin, first), min(view.end, first + plan.split_tokens) };
    x->all_begin = x->range.begin;
    x->all_end = x->range.end;
    if (threadIdx.x < X::ROWS)
        x->rows[threadIdx.x] = { view.index,
                                 kv_head * plan.group + chunk * X::ROWS +
                                     min(static_cast<int>(threadIdx.x), x->n_rows - 1) };
    return true;
}

template <typename X>
static __device__ __forceinline__ void describe_chunk(const attention_problem &p,
                                                      const attention_plan &plan, int seq,
                                                      int inside, latent_shared<X> *x)
{
    const prefill_item item = prefill_item_at<X::ROWS>(p, plan, seq, inside);
    const int last_row = min(item.row + X::ROWS, item.n_rows) - 1;
    const warp_view view = view_of(p, item.past + item.row / plan.group,
                                   item.past + last_row / plan.group, p.cache_len[seq]);
    x->n_rows = last_row - item.row + 1;
    x->first_token = item.first_token - item.past;
    x->cache_len = p.cache_len[seq];
    x->n_splits = 1;
    x->range = { seq, item.kv_head, view.some_begin, view.some_end };
    x->all_begin = view.all_begin;
    x->all_end = view.all_end;
    if (threadIdx.x < X::ROWS) {
        const int at = min(item.row + static_cast<int>(threadIdx.x), last_row);
        const int token = at / plan.group;
        x->rows[threadIdx.x] = { item.past + token,
                                 item.kv_head * plan.group + at - token * plan.group };
    }
}

/* ---- copies ---- */

template <typename X>
static __device__ __forceinline__ void copy_wide_rows(uint32_t to, const attention_problem &p,
                                                      const latent_shared<X> &x)
{
    const int lane = threadIdx.x % 32, chunks = static_cast<int>(p.a.k_dim) / 8;
    const uint16_t *q = static_cast<const uint16_t *>(p.a.q);
#pragma unroll 2
    for (int row = threadIdx.x / 32; row < X::ROWS; row += LATENT_WARPS) {
        const row_place place = x.rows[row];
        const int64_t token = x.first_token + place.index;
        const uint16_t *from = q + token * p.a.q_pitch + place.head * p.a.k_dim;
#pragma unroll
        for (int chunk = lane; chunk < LATENT_K / 8; chunk += 32) {
            const bool there = row < x.n_rows && chunk < chunks;
            copy_async16(to + wide_at(X::K_PITCH, row, chunk), there ? from + chunk * 8 : q, there);
        }
    }
}

/* A tile of K or V: each warp brings whole tokens. Those outside of the range become zeros, unread. */
template <int PITCH>
static __device__ __forceinline__ void copy_wide_tile(uint32_t to, const attention_problem &p,
                                                      const cache_range &range, int tile, bool is_v)
{
    const spey_kv_view &kv = p.a.kv;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int chunks = static_cast<int>(is_v ? p.a.v_dim : p.a.k_dim) / 8;
    const int64_t token_bytes = is_v ? kv.v_token_bytes : kv.k_token_bytes;
    const uint8_t *head = kv.base + head_offset(kv, range.kv_head, is_v);
    /* Lane i finds the warp's ith token. */
    const int mine = tile + warp + lane * LATENT_WARPS;
    token_slot slot = { 0, 0 };
    if (lane < TILE_TOKENS / LATENT_WARPS && mine >= range.begin && mine < range.end)
        slot = find_slot(p, range, mine);
    const int64_t offset = slot.block * kv.block_bytes + slot.inside * token_bytes;
#pragma unroll
    for (int i = 0; i < TILE_TOKENS / LATENT_WARPS; i++) {
        const int row = warp + i * LATENT_WARPS, token = tile + row;
        const uint8_t *from = head + __shfl_sync(0xffffffffu, offset, i);
#pragma unroll
        for (int chunk = lane; chunk < PITCH / 16; chunk += 32)
            copy_async16(to + wide_at(PITCH, row, chunk), from + chunk * 16,
                         chunk < chunks && token >= range.begin && token < range.end);
    }
    copy_commit();
}

#endif
