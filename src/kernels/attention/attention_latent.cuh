/* The kernel of attention with wide heads. attention_latent_sm90.cu explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_LATENT_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_LATENT_CUH

#include "kernels/attention/attention_latent_copy.cuh"

/* ---- a tile ---- */

/* Scores of a warp's 16 rows and 8 · S_TILES tokens. */
template <typename X>
static __device__ __forceinline__ void score_wide(float (&s)[X::S_TILES][4], uint32_t q, uint32_t k)
{
    const int lane = threadIdx.x % 32;
    q += wide_at(X::K_PITCH, lane % 16, lane / 16);
    k += wide_at(X::K_PITCH, lane % 8, lane / 8);
#pragma unroll 6
    for (int step = 0; step < LATENT_K / 32; step++) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
            load_matrix4(a[i], (q ^ (step % 2 * 64 + i * 32)) + step / 2 * 128);
#pragma unroll
        for (int n = 0; n < X::S_TILES; n++) {
            uint32_t b[4];
            load_matrix4(b, (k ^ step % 2 * 64) + step / 2 * 128 + n * 8 * X::K_PITCH);
            mma16816<typename X::T>(s[n], a[0], b[0], b[1]);
            mma16816<typename X::T>(s[n], a[1], b[2], b[3]);
        }
    }
}

/* Outputs of all rows, a warp's columns. */
template <typename X>
static __device__ __forceinline__ void weigh_wide(float (&o)[X::ROW_WARPS][X::O_TILES][4],
                                                  uint32_t weights, uint32_t v)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    weights += wide_at(X::WEIGHT_PITCH, lane % 16, lane / 16);
    v += wide_at(X::V_PITCH, lane % 16, lane / 16) + warp * LATENT_COLUMNS * 2;
#pragma unroll
    for (int strip = 0; strip < TILE_STRIPS; strip++) {
        uint32_t a[X::ROW_WARPS][4];
#pragma unroll
        for (int m = 0; m < X::ROW_WARPS; m++)
            load_matrix4(a[m], (weights ^ strip * 32) + m * 16 * X::WEIGHT_PITCH);
#pragma unroll
        for (int n = 0; n < X::O_TILES / 2; n++) {
            uint32_t b[4];
            load_matrix4_transposed(b, (v ^ n * 32) + strip * STRIP_TOKENS * X::V_PITCH);
#pragma unroll
            for (int m = 0; m < X::ROW_WARPS; m++) {
                mma16816<typename X::T>(o[m][2 * n], a[m], b[0], b[1]);
                mma16816<typename X::T>(o[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

/* A warp's place in the scores: its first row and its first token of the tile. */
struct score_place {
    int row, tokens;
};

template <typename X> static __device__ __forceinline__ score_place score_place_of()
{
    const int warp = threadIdx.x / 32;
    return { warp % X::ROW_WARPS * 16, warp / X::ROW_WARPS };
}

/* Bends and masks scores, and tells the others their maxima. `tile`: cache index of the tile. */
template <typename X>
static __device__ __forceinline__ void finish_scores(const attention_problem &p,
                                                     const score_scale &scale, int tile,
                                                     float (&s)[X::S_TILES][4], latent_shared<X> *x)
{
    const score_place at = score_place_of<X>();
    const int lane = threadIdx.x % 32, first = tile + at.tokens * X::S_TILES * 8;
    const bool masked = tile < x->all_begin || tile + TILE_TOKENS > x->all_end;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = at.row + half * 8 + lane / 4;
        const row_place place = x->rows[row];
        if (scale.bent) bend_row(p.a, s, half, scale.scale, first, place);
        if (masked) {
            const int begin = max(first_visible(p.a, place.index), x->range.begin);
            const int end = min(end_visible(p.a, place.index, x->cache_len), x->range.end);
            mask_row(s, half, begin - first, end - first);
        }
        float max = -INFINITY;
#pragma unroll
        for (int n = 0; n < X::S_TILES; n++)
            max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        max = quad_max(max);
        if (lane % 4 == 0) x->max[at.tokens][row] = max;
    }
}

/* Scores become weights in shared memory; maxima and sums go on. */
template <typename X>
static __device__ __forceinline__ void write_weights(uint32_t weights, float factor,
                                                     float (&s)[X::S_TILES][4], row_state<1> *state,
                                                     latent_shared<X> *x)
{
    const score_place at = score_place_of<X>();
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = at.row + half * 8 + lane / 4;
        float max = state->max[half], sum = 0.0f;
#pragma unroll
        for (int i = 0; i < X::TOKEN_WARPS; i++)
            max = fmaxf(max, x->max[i][row]);
        const float base = max == -INFINITY ? 0.0f : max * factor;
        const float rescale =
            max == state->max[half] ? 1.0f : exp2_fast(state->max[half] * factor - base);
#pragma unroll
        for (int n = 0; n < X::S_TILES; n++) {
            const float low = exp2_fast(fmaf(s[n][2 * half], factor, -base));
            const float high = exp2_fast(fmaf(s[n][2 * half + 1], factor, -base));
            sum += low + high;
            store_shared(weights + wide_at(X::WEIGHT_PITCH, row, at.tokens * X::S_TILES + n) +
                             lane % 4 * 4,
                         pack2(low, high, typename X::T()));
        }
        state->max[half] = max;
        state->sum[half] = fmaf(state->sum[half], rescale, sum);
        if (at.tokens == 0 && lane % 4 == 0) x->rescale[row] = rescale;
    }
}

template <typename X>
static __device__ __forceinline__ void rescale_wide(float (&o)[X::ROW_WARPS][X::O_TILES][4],
                                                    const latent_shared<X> &x)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < X::ROW_WARPS; m++) {
        const float low = x.rescale[m * 16 + lane / 4], high = x.rescale[m * 16 + 8 + lane / 4];
        if (!__any_sync(0xffffffffu, low != 1.0f || high != 1.0f)) continue;
#pragma unroll
        for (int i = 0; i < X::O_TILES * 4; i++)
            o[m][i / 4][i % 4] *= i % 4 < 2 ? low : high;
    }
}

/* ---- an item ---- */

/* Every row's maximum and sum to where all warps see them. */
template <typename X>
static __device__ __forceinline__ void gather_sums(const row_state<1> &state, latent_shared<X> *x)
{
    const score_place at = score_place_of<X>();
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = at.row + half * 8 + lane / 4;
        const float sum = quad_sum(state.sum[half]);
        if (lane % 4 == 0) x->sum[at.tokens][row] = sum;
        if (at.tokens == 0 && lane % 4 == 0) x->row_max[row] = state.max[half];
    }
    __syncthreads();
}

template <typename X>
static __device__ __forceinline__ void
latent_results(const attention_problem &p, const attention_plan &plan, const latent_shared<X> &x,
               const float (&o)[X::ROW_WARPS][X::O_TILES][4], float factor)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int v_dim = static_cast<int>(p.a.v_dim);
#pragma unroll
    for (int i = 0; i < 2 * X::ROW_WARPS; i++) {
        const int row = i * 8 + lane / 4;
        if (row >= x.n_rows) continue;
        const row_place place = x.rows[row];
        const float max = x.row_max[row] * factor;
        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < X::TOKEN_WARPS; k++)
            sum += x.sum[k][row];
        const bool whole = x.n_splits <= 1;
        const float scale = whole ? finish_row(p.a, place.head, max, sum) : 1.0f;
        const int64_t token = x.first_token + place.index;
        const int64_t at = whole ? token * p.a.out_pitch + int64_t{ place.head } * v_dim
                                 : (x.slot * p.a.n_heads + place.head) * plan.splits_max + x.split;
        if (!whole && warp == 0 && lane % 4 == 0) {
            plan.partial_max[at] = max;
            plan.partial_sum[at] = sum;
        }
#pragma unroll
        for (int n = 0; n < X::O_TILES; n++) {
            const int d = warp * LATENT_COLUMNS + n * 8 + lane % 4 * 2;
            const float *pair = &o[i / 2][n][i % 2 * 2];
            if (d >= v_dim) continue;
            if (whole)
                store2(p.a, at + d, pair[0] * scale, pair[1] * scale);
            else
                *reinterpret_cast<float2 *>(plan.partial + at * v_dim + d) =
                    make_float2(pair[0], pair[1]);
        }
    }
}

/* K of the next tile comes while weights are made and used, V while scores are. */
template <typename X>
static __device__ __forceinline__ void
latent(const attention_problem &p, const attention_plan &plan, latent_shared<X> *x, uint32_t shared)
{
    const score_place at = score_place_of<X>();
    const score_scale scale = score_scale_of(p.a, x->range.kv_head);
    int tile = x->range.begin / TILE_TOKENS * TILE_TOKENS;
    copy_wide_rows<X>(shared, p, *x);
    copy_wide_tile<X::K_PITCH>(shared + X::K, p, x->range, tile, false);
    row_state<1> state = no_rows<1>();
    float o[X::ROW_WARPS][X::O_TILES][4] = {};
    for (; tile < x->range.end; tile += TILE_TOKENS) {
        copy_wait<0>();
        __syncthreads();
        copy_wide_tile<X::V_PITCH>(shared + X::V, p, x->range, tile, true);
        float s[X::S_TILES][4] = {};
        score_wide<X>(s, shared + at.row * X::K_PITCH,
                      shared + X::K + at.tokens * X::S_TILES * 8 * X::K_PITCH);
        finish_scores<X>(p, scale, tile, s, x);
        __syncthreads();
        if (tile + TILE_TOKENS < x->range.end)
            copy_wide_tile<X::K_PITCH>(shared + X::K, p, x->range, tile + TILE_TOKENS, false);
        else
            copy_commit();
        write_weights<X>(shared + X::WEIGHTS, scale.factor, s, &state, x);
        copy_wait<1>();
        __syncthreads();
        rescale_wide<X>(o, *x);
        weigh_wide<X>(o, shared + X::WEIGHTS, shared + X::V);
    }
    copy_wait<0>();
    gather_sums<X>(state, x);
    latent_results<X>(p, plan, *x, o, scale.factor);
}

template <typename X, bool DECODE>
static __global__ void __launch_bounds__(LATENT_THREADS, 1)
    attend_latent(const attention_problem p, const attention_plan plan)
{
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ latent_shared<X> described;
    item_cursor cursor = no_items();
    const auto count = [&](int seq) { return latent_items<X, DECODE>(p, plan, seq); };
    int seq, inside;
    for (int i = static_cast<int>(blockIdx.x);
         find_item(&cursor, p.n_seqs, i, count, &seq, &inside); i += static_cast<int>(gridDim.x)) {
        bool some = true;
        __syncthreads(); /* the last item's rows are no longer read */
        if (DECODE)
            some = describe_decoded<X>(p, plan, seq, inside, &described);
        else
            describe_chunk<X>(p, plan, seq, inside, &described);
        __syncthreads();
        if (some) latent<X>(p, plan, &described, shared_address(shared));
    }
}

#endif
