/* expert_linear on sm_80 and later: rows grouped by their expert, then matrix products over tiles of one expert each.
 *
 * 1. plan     One CTA counts the pairs (row, slot) of each expert, lays the experts' pairs one after the other, and cuts
 *             them into tiles of TM. The order of an expert's pairs is open; no result depends on it.
 * 2. product  One CTA per tile and 64 outputs. Tensor cores, with x rounded to w's 16-bit type, when w has 16 bits and
 *             the precision or x allows it; else FP32. Tiles of K go to shared memory: by asynchronous copies, several ahead, when
 *             x has the products' type and both lie in packs of 16 bytes; else through registers, one ahead.
 *             w E4M3 is widened when it is multiplied (or on its way through registers): to F16, with x in E4M3 as F16 too,
 *             when x is to be rounded (both exact, scales are put to the sums), else to BF16.
 * 3. combine  With sum: the products went to FP32 scratch, a thread adds the slots of one output in their order. Scratch is
 *             bounded: long batches go in chunks of rows.
 *
 * moves     Each used expert's weights once per TM of its rows; for few rows that is all.
 * bound by  memory while experts have under a hundred rows, then shared memory's bandwidth.
 *           Of E4M3, too, for few rows; for many a Hopper's own E4M3 products would be twice as fast.
 * bits      A row's sums go along K in one order, whatever the tile. */
#include "base/limits.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/round_e4m3.cuh"
#include "kernels/cuda/tile_mma.cuh"
#include "kernels/expert_linear/expert_linear.h"

enum { PLAN_THREADS = 1024, THREADS = 128, TN = 64, TK = 64, PITCH = TK + 8 };
/* Tiles are the grid's second dimension: at most 65535. */
enum { PAIRS_MAX = 1 << 19, SCRATCH_BYTES = 64 << 20 };

static_assert(static_cast<int>(SPEY_EXPERTS_MAX) <= static_cast<int>(PLAN_THREADS),
              "a thread for each expert");

/* x as products read it, and what the plan leaves in the workspace. */
struct expert_plan {
    const void *x;
    spey_dtype x_dtype;
    int64_t x_pitch;
    float *scales;  /* of x, [rows, slots] or with x_shared [rows]; NULL: x is as it was */
    int32_t *order; /* [pairs] pairs in the order of their experts */
    int4 *tiles;    /* expert, or -1: there is no such tile; its first pair in `order`; pairs */
    float *sums;    /* [pairs, n], with sum */
};

static __device__ __forceinline__ int expert_of(const spey_expert_linear_args &a, int32_t pair)
{
    const int32_t slots = static_cast<int32_t>(a.n_slots), row = pair / slots, s = pair % slots;
    return a.routing ? static_cast<int>(a.routing[(2 * row + 1) * a.n_slots + s]) : s;
}

/* Sum of the values of all threads before this one. */
static __device__ __forceinline__ int32_t sum_before(int32_t x, int32_t *shared)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t sum = x;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int32_t other = __shfl_up_sync(0xffffffffu, sum, offset);
        if (lane >= offset) sum += other;
    }
    __syncthreads();
    if (lane == 31) shared[warp] = sum;
    __syncthreads();
    int32_t before = 0;
    for (int w = 0; w < warp; w++)
        before += shared[w];
    return before + sum - x;
}

static __global__ void __launch_bounds__(PLAN_THREADS)
    expert_linear_plan(const spey_expert_linear_args a, const expert_plan p, int32_t tile_rows,
                       int32_t tiles_max)
{
    __shared__ int32_t count[PLAN_THREADS], cursor[PLAN_THREADS], shared[PLAN_THREADS / 32];
    __shared__ int32_t n_tiles;
    const int e = threadIdx.x, n_experts = static_cast<int>(a.n_experts);
    const int32_t pairs = static_cast<int32_t>(a.rows * a.n_slots);
    begin_early();
    count[e] = 0;
    __syncthreads();
    for (int32_t i = e; i < pairs; i += PLAN_THREADS)
        atomicAdd(&count[expert_of(a, i)], 1);
    __syncthreads();
    const int32_t mine = count[e], my_tiles = (mine + tile_rows - 1) / tile_rows;
    const int32_t start = sum_before(mine, shared), tiles = sum_before(my_tiles, shared);
    cursor[e] = start;
    for (int32_t t = 0; t < my_tiles; t++)
        p.tiles[tiles + t] =
            make_int4(e, start + t * tile_rows, min(mine - t * tile_rows, tile_rows), 0);
    if (e == n_experts - 1) n_tiles = tiles + my_tiles;
    __syncthreads();
    for (int32_t t = n_tiles + e; t < tiles_max; t += PLAN_THREADS)
        p.tiles[t] = make_int4(-1, 0, 0, 0);
    for (int32_t i = e; i < pairs; i += PLAN_THREADS)
        p.order[atomicAdd(&cursor[expert_of(a, i)], 1)] = i;
}

/* A CTA's tile: rows of one expert. */
struct tile {
    int expert; /* -1: there is no such tile */
    int32_t first, rows;
};

static __device__ __forceinline__ tile find_tile(const expert_plan &p)
{
    const int4 t = p.tiles[blockIdx.y];
    return { t.x, t.y, t.z };
}

static __device__ __forceinline__ int64_t x_begin(const spey_expert_linear_args &a,
                                                  const expert_plan &p, int32_t pair)
{
    const int32_t slots = static_cast<int32_t>(a.n_slots);
    return pair / slots * p.x_pitch + (a.x_shared ? 0 : pair % slots * a.k);
}

/* Output j of a pair. SCALED: w is E4M3. */
template <bool SCALED>
static __device__ __forceinline__ void put(const spey_expert_linear_args &a, const expert_plan &p,
                                           int expert, int32_t pair, int64_t j, float sum)
{
    if (j >= a.n) return;
    if (SCALED && p.scales)
        sum *= p.scales[a.x_shared ? pair / static_cast<int32_t>(a.n_slots) : pair];
    if (SCALED) sum *= a.w_scale[expert * a.n + j];
    if (a.bias) sum += a.bias[expert * a.n + j];
    const int32_t slots = static_cast<int32_t>(a.n_slots);
    if (a.sum)
        p.sums[pair * a.n + j] = sum;
    else
        store_any(a.y, a.dtype, pair / slots * a.y_pitch + pair % slots * a.n + j, sum);
}

/* ---- tensor cores ---- */

/* Packs of one tile of K on their way to shared memory; without PACKED they are fetched when they are put there. */
template <int MT> struct packs_on_way {
    raw8 x[MT];
    uint4 w[4];
};

template <typename T> struct operand_of;
template <> struct operand_of<__nv_bfloat16> {
    static constexpr spey_dtype dtype = SPEY_BF16;
};
template <> struct operand_of<__half> {
    static constexpr spey_dtype dtype = SPEY_F16;
};

/* Eight E4M3 at p, whose address is a multiple of 8, as eight of T. */
static __device__ __forceinline__ uint4 widen_pack(uint2 eight, __half)
{
    return make_uint4(widen_e4m3(eight.x, 0x10), widen_e4m3(eight.x, 0x32),
                      widen_e4m3(eight.y, 0x10), widen_e4m3(eight.y, 0x32));
}

static __device__ __forceinline__ uint4 widen_pack(uint2 eight, __nv_bfloat16)
{
    const uint4 half = widen_pack(eight, __half());
    const uint32_t pairs[4] = { half.x, half.y, half.z, half.w };
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float two[2];
        widen_pair(pairs[i], SPEY_F16, two);
        out[i] = narrow_pair(two[0], two[1], SPEY_BF16);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

static __device__ __forceinline__ float load_e4m3(const void *p, int64_t at)
{
    float two[2];
    widen_pair(widen_e4m3(static_cast<const uint8_t *>(p)[at], 0x10), SPEY_F16, two);
    return two[0];
}

/* Pack i of this thread: row and column in a tile of K. */
static __device__ __forceinline__ int pack_row(int i)
{
    return (i * THREADS + static_cast<int>(threadIdx.x)) / 8;
}

static __device__ __forceinline__ int pack_col()
{
    return static_cast<int>(threadIdx.x) % 8 * 8;
}

/* EIGHT: w is E4M3. x_at: where the rows of the tile begin in x, -1: no such row. w_at: likewise its first output's weights. */
template <int MT, bool EIGHT>
static __device__ __forceinline__ void fetch(const spey_expert_linear_args &a, const expert_plan &p,
                                             const int64_t *x_at, int64_t w_at, int64_t outputs,
                                             int64_t k, packs_on_way<MT> *way)
{
    const int64_t c = k + pack_col();
#pragma unroll
    for (int i = 0; i < MT; i++) {
        const int64_t at = x_at[pack_row(i)];
        way->x[i] = load_raw8(p.x, p.x_dtype, at + c, at >= 0 && c < a.k);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int64_t at = w_at + pack_row(i) * a.k + c;
        const bool inside = pack_row(i) < outputs && c < a.k;
        if constexpr (EIGHT) {
            uint2 eight = {};
            if (inside)
                eight = *reinterpret_cast<const uint2 *>(static_cast<const uint8_t *>(a.w) + at);
            way->w[i] = make_uint4(eight.x, eight.y, 0, 0);
        } else {
            way->w[i] = load_raw8(a.w, a.w_dtype, at, inside).low;
        }
    }
}

template <typename T, int MT, bool PACKED, bool EIGHT>
static __device__ __forceinline__ void
put_tile(const spey_expert_linear_args &a, const expert_plan &p, const int64_t *x_at, int64_t w_at,
         int64_t outputs, int64_t k, const packs_on_way<MT> &way, T *xs, T *ws)
{
    constexpr spey_dtype dtype = operand_of<T>::dtype;
    const int64_t c = k + pack_col();
#pragma unroll
    for (int i = 0; i < MT; i++) {
        const int64_t at = x_at[pack_row(i)];
        float x[8];
        if constexpr (PACKED)
            widen8(way.x[i], p.x_dtype, x);
        else
            load8<false>(p.x, p.x_dtype, at + c, at >= 0 ? a.k - c : 0, x);
        store8(xs, dtype, pack_row(i) * PITCH + pack_col(), x);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        T *to = ws + pack_row(i) * PITCH + pack_col();
        if constexpr (EIGHT && PACKED) {
            *reinterpret_cast<uint4 *>(to) = widen_pack(make_uint2(way.w[i].x, way.w[i].y), T());
        } else if constexpr (PACKED) {
            *reinterpret_cast<uint4 *>(to) = way.w[i];
        } else {
            float w[8];
            const int64_t at = w_at + pack_row(i) * a.k + c;
            const int64_t left = pack_row(i) < outputs ? a.k - c : 0;
#pragma unroll
            for (int j = 0; j < 8; j++)
                w[j] = j >= left ? 0.0f
                       : EIGHT   ? load_e4m3(a.w, at + j)
                                 : load_any(a.w, dtype, at + j);
            store8(to, dtype, 0, w);
        }
    }
}

/* The warp's 16 outputs of all rows, over one tile of K. */
template <typename T, int MT>
static __device__ __forceinline__ void multiply(const T *xs, const T *ws, float (&sums)[MT][2][4])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int k = 0; k < TK; k += 16) {
        uint32_t w[4];
        load_matrices(ws + (warp * 16 + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8,
                      w);
#pragma unroll
        for (int m = 0; m < MT; m++) {
            uint32_t x[4];
            load_matrices(xs + (m * 16 + lane % 16) * PITCH + k + lane / 16 * 8, x);
            multiply_add<T>(x, w[0], w[1], sums[m][0]);
            multiply_add<T>(x, w[2], w[3], sums[m][1]);
        }
    }
}

/* Row threadIdx.x of the tile: its pair, and where it begins in x; -1: there is none. */
static __device__ __forceinline__ void find_row(const spey_expert_linear_args &a,
                                                const expert_plan &p, const tile &t, int64_t *x_at,
                                                int32_t *pairs)
{
    const int32_t row = static_cast<int32_t>(threadIdx.x);
    const int32_t pair = row < t.rows ? p.order[t.first + row] : -1;
    pairs[row] = pair;
    x_at[row] = pair < 0 ? -1 : x_begin(a, p, pair);
}

/* The outputs from n on that this thread's sums are. */
template <int MT, bool EIGHT>
static __device__ __forceinline__ void
put_sums(const spey_expert_linear_args &a, const expert_plan &p, const tile &t,
         const int32_t *pairs, int64_t n, const float (&sums)[MT][2][4])
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < MT * 8; i++) {
        const int m = i / 8, half = i / 4 % 2, v = i % 4;
        const int row = m * 16 + lane / 4 + v / 2 * 8;
        const int64_t j = n + warp * 16 + half * 8 + lane % 4 * 2 + v % 2;
        if (row < t.rows) put<EIGHT>(a, p, t.expert, pairs[row], j, sums[m][half][v]);
    }
}

template <typename T, int MT, bool PACKED, bool EIGHT>
static __global__ void __launch_bounds__(THREADS)
    expert_linear_mma(const spey_expert_linear_args a, const expert_plan p)
{
    constexpr int TM = 16 * MT;
    __shared__ __align__(16) T xs[2][TM * PITCH], ws[2][TN * PITCH];
    __shared__ int64_t x_at[TM];
    __shared__ int32_t pairs[TM];
    begin_early();
    const tile t = find_tile(p);
    if (t.expert < 0) return;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * TN;
    const int64_t w_at = (t.expert * a.n + n) * a.k, outputs = a.n - n;
    if (threadIdx.x < TM) find_row(a, p, t, x_at, pairs);
    __syncthreads();
    float sums[MT][2][4] = {};
    packs_on_way<MT> way = {};
    if (PACKED) fetch<MT, EIGHT>(a, p, x_at, w_at, outputs, 0, &way);
    put_tile<T, MT, PACKED, EIGHT>(a, p, x_at, w_at, outputs, 0, way, xs[0], ws[0]);
    __syncthreads();
    int stage = 0;
    for (int64_t k = 0; k < a.k; k += TK, stage ^= 1) {
        const bool more = k + TK < a.k;
        if (PACKED && more) fetch<MT, EIGHT>(a, p, x_at, w_at, outputs, k + TK, &way);
        multiply<T, MT>(xs[stage], ws[stage], sums);
        if (more)
            put_tile<T, MT, PACKED, EIGHT>(a, p, x_at, w_at, outputs, k + TK, way, xs[stage ^ 1],
                                           ws[stage ^ 1]);
        __syncthreads();
    }
    put_sums<MT, EIGHT>(a, p, t, pairs, n, sums);
}

/* The same when x has the type of the products and both matrices lie in packs of 16 bytes: those go to shared memory without a
 * register on their way, STAGES - 1 tiles of K before they are needed. E4M3 weights are widened by the warp that multiplies with
 * them, which is one. */
template <int MT, bool EIGHT> struct stream_shape {
    static constexpr int K = EIGHT && MT == 1 ? 128 : 64, STAGES = MT == 1 ? 4 : 3;
    /* Bytes. Rows begin 4 or 20 banks apart. */
    static constexpr int X_PITCH = 2 * K + 16, W_PITCH = (EIGHT ? K : 2 * K) + 16;
    static constexpr int X_BYTES = MT * 16 * X_PITCH, STAGE_BYTES = X_BYTES + TN * W_PITCH;
    static constexpr int BYTES = STAGES * STAGE_BYTES;
};

/* Columns [k, k + K) of the rows of x. */
template <typename S, int ROWS>
static __device__ __forceinline__ void fetch_x(const void *x, const int64_t *x_at, int64_t k,
                                               int64_t k_end, uint32_t to)
{
    constexpr int PACKS = S::K / 8;
#pragma unroll
    for (int i = threadIdx.x; i < ROWS * PACKS; i += THREADS) {
        const int row = i / PACKS, c = i % PACKS * 8;
        const bool inside = x_at[row] >= 0 && k + c < k_end;
        const uint16_t *from = static_cast<const uint16_t *>(x) + (inside ? x_at[row] + k + c : 0);
        copy_async16(to + row * S::X_PITCH + c * 2, from, inside);
    }
}

/* And of the weights of the CTA's outputs, which begin at w. */
template <typename S, bool EIGHT>
static __device__ __forceinline__ void fetch_w(const uint8_t *w, int64_t outputs, int64_t k,
                                               int64_t k_end, uint32_t to)
{
    constexpr int BYTES = EIGHT ? 1 : 2, PACKS = S::K * BYTES / 16;
#pragma unroll
    for (int i = threadIdx.x; i < TN * PACKS; i += THREADS) {
        const int row = i / PACKS, c = i % PACKS * 16;
        const bool inside = row < outputs && k + c / BYTES < k_end;
        copy_async16(to + row * S::W_PITCH + c, w + (inside ? (row * k_end + k) * BYTES + c : 0),
                     inside);
    }
}

/* Two E4M3 of shared memory as T. */
template <typename T> static __device__ __forceinline__ uint32_t load_wide(uint32_t address)
{
    uint16_t two;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(two) : "r"(address) : "memory");
    const uint32_t half = widen_e4m3(two, 0x10);
    if constexpr (operand_of<T>::dtype == SPEY_F16) return half;
    float x[2];
    widen_pair(half, SPEY_F16, x);
    return narrow_pair(x[0], x[1], SPEY_BF16);
}

/* multiply() of such a tile; k in the same order. */
template <typename T, int MT, bool EIGHT>
static __device__ __forceinline__ void multiply_stage(uint32_t xs, float (&sums)[MT][2][4])
{
    using S = stream_shape<MT, EIGHT>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t ws = xs + S::X_BYTES;
#pragma unroll
    for (int k = 0; k < S::K; k += 16) {
        uint32_t w[4];
        if constexpr (EIGHT) {
            const uint32_t at = ws + (warp * 16 + lane / 4) * S::W_PITCH + k + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[i] = load_wide<T>(at + i / 2 * 8 * S::W_PITCH + i % 2 * 8);
        } else {
            load_matrix4(w, ws + (warp * 16 + lane / 16 * 8 + lane % 8) * S::W_PITCH +
                                (k + lane / 8 % 2 * 8) * 2);
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            uint32_t x[4];
            load_matrix4(x, xs + (m * 16 + lane % 16) * S::X_PITCH + (k + lane / 16 * 8) * 2);
            multiply_add<T>(x, w[0], w[1], sums[m][0]);
            multiply_add<T>(x, w[2], w[3], sums[m][1]);
        }
    }
}

template <typename T, int MT, bool EIGHT>
static __global__ void __launch_bounds__(THREADS)
    expert_linear_stream(const spey_expert_linear_args a, const expert_plan p)
{
    using S = stream_shape<MT, EIGHT>;
    constexpr int TM = 16 * MT;
    extern __shared__ __align__(16) uint8_t stages[];
    __shared__ int64_t x_at[TM];
    __shared__ int32_t pairs[TM];
    begin_early();
    const tile t = find_tile(p);
    if (t.expert < 0) return;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * TN, outputs = a.n - n;
    const uint8_t *w =
        static_cast<const uint8_t *>(a.w) + (t.expert * a.n + n) * a.k * (EIGHT ? 1 : 2);
    const uint32_t first = shared_address(stages);
#pragma unroll
    for (int s = 0; s < S::STAGES - 1; s++) /* the weights do not wait for the rows' places */
        fetch_w<S, EIGHT>(w, outputs, s * S::K, a.k, first + s * S::STAGE_BYTES + S::X_BYTES);
    if (threadIdx.x < TM) find_row(a, p, t, x_at, pairs);
    __syncthreads();
#pragma unroll
    for (int s = 0; s < S::STAGES - 1; s++) {
        fetch_x<S, TM>(p.x, x_at, s * S::K, a.k, first + s * S::STAGE_BYTES);
        copy_commit();
    }
    float sums[MT][2][4] = {};
    int now = 0, next = S::STAGES - 1;
    for (int64_t k = 0; k < a.k; k += S::K) {
        copy_wait<S::STAGES - 2>();
        __syncthreads(); /* it is there for all, and nobody reads the stage that is written next */
        const int64_t ahead = k + (S::STAGES - 1) * S::K;
        const uint32_t to = first + next * S::STAGE_BYTES;
        if (ahead < a.k) {
            fetch_w<S, EIGHT>(w, outputs, ahead, a.k, to + S::X_BYTES);
            fetch_x<S, TM>(p.x, x_at, ahead, a.k, to);
        }
        copy_commit();
        multiply_stage<T, MT, EIGHT>(first + now * S::STAGE_BYTES, sums);
        next = now;
        now = now + 1 == S::STAGES ? 0 : now + 1;
    }
    put_sums<MT, EIGHT>(a, p, t, pairs, n, sums);
}

/* ---- FP32 ---- */

enum { EXACT_TM = 16, EXACT_TK = 32 };

/* A thread has 2 rows and 4 outputs. */
static __global__ void __launch_bounds__(THREADS)
    expert_linear_exact(const spey_expert_linear_args a, const expert_plan p)
{
    __shared__ float xs[EXACT_TM][EXACT_TK + 1], ws[TN][EXACT_TK + 1];
    __shared__ int64_t x_at[EXACT_TM];
    __shared__ int32_t pairs[EXACT_TM];
    begin_early();
    const tile t = find_tile(p);
    if (t.expert < 0) return;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * TN, w_at = (t.expert * a.n + n) * a.k;
    if (threadIdx.x < EXACT_TM) {
        const bool inside = static_cast<int32_t>(threadIdx.x) < t.rows;
        pairs[threadIdx.x] = inside ? p.order[t.first + static_cast<int32_t>(threadIdx.x)] : -1;
        x_at[threadIdx.x] = inside ? x_begin(a, p, pairs[threadIdx.x]) : -1;
    }
    __syncthreads();
    const int column = threadIdx.x % 16, row = threadIdx.x / 16, lane = threadIdx.x % 32;
    float sums[2][4] = {};
    for (int64_t k = 0; k < a.k; k += EXACT_TK) {
        __syncthreads();
        const bool inside = k + lane < a.k;
        for (int i = threadIdx.x / 32; i < EXACT_TM; i += THREADS / 32)
            xs[i][lane] =
                inside && x_at[i] >= 0 ? load_any(p.x, p.x_dtype, x_at[i] + k + lane) : 0.0f;
        for (int i = threadIdx.x / 32; i < TN; i += THREADS / 32) {
            const int64_t at = w_at + i * a.k + k + lane;
            const bool eight = a.w_dtype == SPEY_E4M3;
            ws[i][lane] = !inside || n + i >= a.n ? 0.0f
                          : eight                 ? load_e4m3(a.w, at)
                                                  : load_any(a.w, a.w_dtype, at);
        }
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < EXACT_TK; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float w = ws[column + 16 * j][i];
                sums[0][j] = fmaf(xs[row][i], w, sums[0][j]);
                sums[1][j] = fmaf(xs[row + 8][i], w, sums[1][j]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const int r = row + i / 4 * 8;
        const int64_t j = n + column + i % 4 * 16;
        if (r < t.rows && a.w_dtype == SPEY_E4M3)
            put<true>(a, p, t.expert, pairs[r], j, sums[i / 4][i % 4]);
        else if (r < t.rows)
            put<false>(a, p, t.expert, pairs[r], j, sums[i / 4][i % 4]);
    }
}

/* ---- inputs in E4M3 ---- */

/* A warp rounds the k elements of one slot of a row (of a row, when slots share them), to E4M3 as F16: tensor/quant.h in the same
 * arithmetic. PACKED: in packs of 8. */
template <bool PACKED>
static __global__ void __launch_bounds__(THREADS)
    expert_linear_quantize(const spey_expert_linear_args a, const expert_plan p, __half *out)
{
    const int64_t parts = a.x_shared ? 1 : a.n_slots;
    const int64_t at = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    begin_early();
    if (at >= a.rows * parts) return;
    const int64_t first = at / parts * a.x_pitch + at % parts * a.k;
    spey_e4m3_scale scale;
    float x[8];
    if (a.x_quant == SPEY_INPUT_STATIC) {
        scale = e4m3_static_scale(a.x_scale);
    } else {
        float largest = 0.0f;
#pragma unroll 4
        for (int64_t i = lane * 8; i < a.k; i += 256) {
            load8<PACKED>(a.x, a.dtype, first + i, a.k - i, x);
            largest = largest_of8(x, largest);
        }
        scale = e4m3_scale_of(warp_max(largest));
    }
    if (lane == 0) p.scales[at] = scale.scale;
#pragma unroll 4
    for (int64_t i = lane * 8; i < a.k; i += 256) {
        load8<PACKED>(a.x, a.dtype, first + i, a.k - i, x);
        const uint2 rounded = round8(x, scale.inverse);
        const uint4 wide = widen_pack(rounded, __half());
        if constexpr (PACKED) {
            *reinterpret_cast<uint4 *>(out + at * a.k + i) = wide;
        } else {
            const uint32_t pairs[4] = { wide.x, wide.y, wide.z, wide.w };
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (i + j < a.k)
                    out[at * a.k + i + j] =
                        __ushort_as_half(static_cast<unsigned short>(pairs[j / 2] >> j % 2 * 16));
        }
    }
}

/* ---- combine ---- */

static __global__ void __launch_bounds__(UNIT_THREADS)
    expert_linear_combine(const spey_expert_linear_args a, const float *sums)
{
    const int64_t j = my_unit();
    begin_early();
    if (j >= a.n) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        float sum = 0.0f;
        for (int64_t s = 0; s < a.n_slots; s++)
            sum = fmaf(a.routing[2 * r * a.n_slots + s], sums[(r * a.n_slots + s) * a.n + j], sum);
        store_any(a.y, a.dtype, r * a.y_pitch + j, sum);
    }
}

/* ---- launches ---- */

static size_t align_up(size_t bytes)
{
    return (bytes + 255) & ~static_cast<size_t>(255);
}

/* Slots of a row that have an x of their own. */
static int64_t x_parts(const spey_expert_linear_args *a)
{
    return a->x_shared ? 1 : a->n_slots;
}

static bool is_quantized(const spey_expert_linear_args *a)
{
    return a->w_dtype == SPEY_E4M3 && a->x_quant != SPEY_INPUT_AS_IS;
}

/* Rows that go through the plan, and through scratch, at once. */
static int64_t chunk_rows(const spey_expert_linear_args *a)
{
    const int64_t sum_bytes = a->sum ? a->n_slots * a->n * 4 : 0;
    const int64_t x_bytes = is_quantized(a) ? x_parts(a) * a->k * 2 : 0;
    const int64_t row_bytes = 1 + (sum_bytes > x_bytes ? sum_bytes : x_bytes);
    const int64_t fit = row_bytes < SCRATCH_BYTES / 128 ? SCRATCH_BYTES / row_bytes : 128;
    const int64_t pairs = PAIRS_MAX / a->n_slots, rows = fit < pairs ? fit : pairs;
    return rows < a->rows ? rows : a->rows;
}

static size_t lay_out(const spey_expert_linear_args *a, uint8_t *workspace, expert_plan *p)
{
    const size_t rows = static_cast<size_t>(chunk_rows(a));
    const size_t pairs = rows * static_cast<size_t>(a->n_slots);
    const size_t parts = is_quantized(a) ? rows * static_cast<size_t>(x_parts(a)) : 0;
    const size_t order = align_up(pairs * 4);
    const size_t tiles = align_up((pairs / 16 + static_cast<size_t>(a->n_experts)) * sizeof(int4));
    const size_t scales = align_up(parts * 4), x = align_up(parts * static_cast<size_t>(a->k) * 2);
    p->order = reinterpret_cast<int32_t *>(workspace);
    p->tiles = reinterpret_cast<int4 *>(workspace + order);
    p->scales = parts ? reinterpret_cast<float *>(workspace + order + tiles) : nullptr;
    p->x = parts ? workspace + order + tiles + scales : nullptr;
    p->sums = reinterpret_cast<float *>(workspace + order + tiles + scales + x);
    return order + tiles + scales + x + (a->sum ? pairs * static_cast<size_t>(a->n) * 4 : 0);
}

static size_t workspace(const void *args)
{
    expert_plan p;
    return lay_out(static_cast<const spey_expert_linear_args *>(args), nullptr, &p);
}

static bool uses_mma(const spey_expert_linear_args *a)
{
    if (a->w_dtype == SPEY_E4M3) return is_quantized(a) || a->precision == SPEY_PRECISION_16;
    if (a->w_dtype != SPEY_F16 && a->w_dtype != SPEY_BF16) return false;
    return a->dtype == a->w_dtype || (a->dtype == SPEY_F32 && a->precision == SPEY_PRECISION_16);
}

/* Both matrices in packs of 16 bytes, x of the products' type. */
template <typename T, bool EIGHT>
static bool can_stream(const spey_expert_linear_args *a, const expert_plan &p)
{
    return p.x_dtype == operand_of<T>::dtype && a->k % (EIGHT ? 16 : 8) == 0 &&
           is_aligned16(a->w) && is_packed8(p.x, p.x_dtype, p.x_pitch);
}

template <typename T, int MT, bool EIGHT>
static void launch_mma(const spey_device *device, const spey_expert_linear_args *a,
                       const expert_plan &p, dim3 grid)
{
    using S = stream_shape<MT, EIGHT>;
    const launch_shape shape = { grid, dim3(THREADS), 0 };
    if (can_stream<T, EIGHT>(a, p)) {
        cudaFuncSetAttribute(expert_linear_stream<T, MT, EIGHT>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, S::BYTES);
        launch_early(device, { grid, dim3(THREADS), S::BYTES }, expert_linear_stream<T, MT, EIGHT>,
                     *a, p);
    } else if (a->k % 8 == 0 && is_aligned16(a->w) && is_packed8(p.x, p.x_dtype, p.x_pitch)) {
        launch_early(device, shape, expert_linear_mma<T, MT, true, EIGHT>, *a, p);
    } else {
        launch_early(device, shape, expert_linear_mma<T, MT, false, EIGHT>, *a, p);
    }
}

template <typename T, bool EIGHT>
static void launch_tiles(const spey_device *device, const spey_expert_linear_args *a,
                         const expert_plan &p, dim3 grid, bool tall)
{
    if (tall)
        launch_mma<T, 4, EIGHT>(device, a, p, grid);
    else
        launch_mma<T, 1, EIGHT>(device, a, p, grid);
}

/* x as products read it: as it is, or rounded into scratch. */
static void prepare_x(const spey_device *device, const spey_expert_linear_args *a, expert_plan *p)
{
    if (!is_quantized(a)) {
        p->x = a->x;
        p->x_dtype = a->dtype;
        p->x_pitch = a->x_pitch;
        return;
    }
    const int64_t parts = x_parts(a), warps = THREADS / 32;
    p->x_dtype = SPEY_F16;
    p->x_pitch = parts * a->k;
    const launch_shape shape = { dim3(static_cast<unsigned>((a->rows * parts + warps - 1) / warps)),
                                 dim3(THREADS), 0 };
    __half *out = static_cast<__half *>(const_cast<void *>(p->x));
    if (a->k % 8 == 0 && is_packed8(a->x, a->dtype, a->x_pitch))
        launch_early(device, shape, expert_linear_quantize<true>, *a, *p, out);
    else
        launch_early(device, shape, expert_linear_quantize<false>, *a, *p, out);
}

static void launch(const spey_device *device, const spey_expert_linear_args *a, expert_plan p)
{
    prepare_x(device, a, &p);
    const int64_t pairs = a->rows * a->n_slots;
    const bool mma = uses_mma(a), tall = mma && pairs >= 32 * a->n_experts;
    const int32_t tm = mma ? tall ? 64 : 16 : static_cast<int32_t>(EXACT_TM);
    /* An expert has at most one tile that is not full. */
    const int64_t partial = pairs < a->n_experts ? pairs : a->n_experts;
    const dim3 grid(static_cast<unsigned>((a->n + TN - 1) / TN),
                    static_cast<unsigned>(pairs / tm + partial));
    launch_early(device, { dim3(1), dim3(PLAN_THREADS), 0 }, expert_linear_plan, *a, p, tm,
                 static_cast<int32_t>(grid.y));
    if (!mma)
        launch_early(device, { grid, dim3(THREADS), 0 }, expert_linear_exact, *a, p);
    else if (is_quantized(a))
        launch_tiles<__half, true>(device, a, p, grid, tall);
    else if (a->w_dtype == SPEY_E4M3)
        launch_tiles<__nv_bfloat16, true>(device, a, p, grid, tall);
    else if (a->w_dtype == SPEY_F16)
        launch_tiles<__half, false>(device, a, p, grid, tall);
    else
        launch_tiles<__nv_bfloat16, false>(device, a, p, grid, tall);
    if (!a->sum) return;
    const unit_grid g = grid_of_units(a->rows, a->n);
    launch_early(device, shape_of(g), expert_linear_combine, *a, p.sums);
}

static bool supports(const void *args)
{
    const spey_expert_linear_args *a = static_cast<const spey_expert_linear_args *>(args);
    const bool e4m3 = a->w_dtype == SPEY_E4M3;
    return is_float_16_or_32(a->dtype) && (e4m3 || is_float_16_or_32(a->w_dtype)) &&
           a->n_experts <= SPEY_EXPERTS_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    spey_expert_linear_args a = *static_cast<const spey_expert_linear_args *>(args);
    if (a.rows == 0 || a.n == 0) return;
    expert_plan p;
    lay_out(&a, static_cast<uint8_t *>(a.workspace), &p);
    const int64_t rows = a.rows, step = chunk_rows(&a), bytes = a.dtype == SPEY_F32 ? 4 : 2;
    for (int64_t begin = 0; begin < rows; begin += step) {
        a.rows = rows - begin < step ? rows - begin : step;
        launch(spey_cuda_device(lane), &a, p);
        a.x = static_cast<const uint8_t *>(a.x) + a.rows * a.x_pitch * bytes;
        a.y = static_cast<uint8_t *>(a.y) + a.rows * a.y_pitch * bytes;
        if (a.routing) a.routing += a.rows * 2 * a.n_slots;
    }
}

extern "C" const spey_kernel spey_expert_linear_sm80;
const spey_kernel spey_expert_linear_sm80 = {
    "expert_linear/sm80", 0, supports, workspace, run, false
};
