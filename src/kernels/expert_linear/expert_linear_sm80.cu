/* expert_linear on sm_80 and later: rows grouped by their expert, then matrix products over tiles of one expert each.
 *
 * 1. plan     One CTA counts the pairs (row, slot) of each expert, lays the experts' pairs one after the other, and cuts
 *             them into tiles of TM. The order of an expert's pairs is open; no result depends on it.
 * 2. product  One CTA per tile and 64 outputs. Tensor cores, with x rounded to w's 16-bit type, when w has 16 bits and
 *             the precision or x allows it; else FP32. Tiles of K go to shared memory, the next one into registers meanwhile.
 *             w E4M3 is widened on its way to shared memory: to F16, with x in E4M3 as F16 too, when x is to be rounded
 *             (both exact, scales are put to the sums), else to BF16.
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
    int32_t *start; /* [n_experts + 1] of each expert in `order` */
    int32_t *tiles; /* [n_experts + 1] tiles before each expert's */
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
    expert_linear_plan(const spey_expert_linear_args a, const expert_plan p, int32_t tile_rows)
{
    __shared__ int32_t count[PLAN_THREADS], cursor[PLAN_THREADS], shared[PLAN_THREADS / 32];
    const int e = threadIdx.x, n_experts = static_cast<int>(a.n_experts);
    const int32_t pairs = static_cast<int32_t>(a.rows * a.n_slots);
    count[e] = 0;
    __syncthreads();
    for (int32_t i = e; i < pairs; i += PLAN_THREADS)
        atomicAdd(&count[expert_of(a, i)], 1);
    __syncthreads();
    const int32_t mine = count[e], my_tiles = (mine + tile_rows - 1) / tile_rows;
    const int32_t start = sum_before(mine, shared), tiles = sum_before(my_tiles, shared);
    cursor[e] = start;
    if (e < n_experts) {
        p.start[e] = start;
        p.tiles[e] = tiles;
    }
    if (e == n_experts - 1) {
        p.start[n_experts] = start + mine;
        p.tiles[n_experts] = tiles + my_tiles;
    }
    __syncthreads();
    for (int32_t i = e; i < pairs; i += PLAN_THREADS)
        p.order[atomicAdd(&cursor[expert_of(a, i)], 1)] = i;
}

/* A CTA's tile: rows of one expert. */
struct tile {
    int expert; /* -1: there is no such tile */
    int32_t first, rows;
};

static __device__ __forceinline__ tile find_tile(const spey_expert_linear_args &a,
                                                 const expert_plan &p, int32_t index, int tile_rows)
{
    int low = 0, high = static_cast<int>(a.n_experts);
    if (index >= p.tiles[high]) return { -1, 0, 0 };
    while (high - low > 1) { /* the last expert whose first tile is not behind `index` */
        const int middle = (low + high) / 2;
        if (p.tiles[middle] <= index)
            low = middle;
        else
            high = middle;
    }
    const int32_t first = p.start[low] + (index - p.tiles[low]) * tile_rows;
    const int32_t left = p.start[low + 1] - first;
    return { low, first, left < tile_rows ? left : tile_rows };
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

template <typename T, int MT, bool PACKED, bool EIGHT>
static __global__ void __launch_bounds__(THREADS)
    expert_linear_mma(const spey_expert_linear_args a, const expert_plan p)
{
    constexpr int TM = 16 * MT;
    __shared__ __align__(16) T xs[2][TM * PITCH], ws[2][TN * PITCH];
    __shared__ int64_t x_at[TM];
    __shared__ int32_t pairs[TM];
    const tile t = find_tile(a, p, static_cast<int32_t>(blockIdx.y), TM);
    if (t.expert < 0) return;
    const int64_t n = static_cast<int64_t>(blockIdx.x) * TN;
    const int64_t w_at = (t.expert * a.n + n) * a.k, outputs = a.n - n;
    if (threadIdx.x < TM) {
        const bool inside = static_cast<int32_t>(threadIdx.x) < t.rows;
        const int32_t pair = inside ? p.order[t.first + static_cast<int32_t>(threadIdx.x)] : -1;
        pairs[threadIdx.x] = pair;
        x_at[threadIdx.x] = inside ? x_begin(a, p, pair) : -1;
    }
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
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 0; i < MT * 8; i++) {
        const int m = i / 8, half = i / 4 % 2, v = i % 4;
        const int row = m * 16 + lane / 4 + v / 2 * 8;
        const int64_t j = n + warp * 16 + half * 8 + lane % 4 * 2 + v % 2;
        if (row < t.rows) put<EIGHT>(a, p, t.expert, pairs[row], j, sums[m][half][v]);
    }
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
    const tile t = find_tile(a, p, static_cast<int32_t>(blockIdx.y), EXACT_TM);
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
 * arithmetic. */
static __global__ void __launch_bounds__(THREADS)
    expert_linear_quantize(const spey_expert_linear_args a, const expert_plan p, __half *out)
{
    const int64_t parts = a.x_shared ? 1 : a.n_slots;
    const int64_t at = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (at >= a.rows * parts) return;
    const int64_t first = at / parts * a.x_pitch + at % parts * a.k;
    spey_e4m3_scale scale;
    if (a.x_quant == SPEY_INPUT_STATIC) {
        scale = e4m3_static_scale(a.x_scale);
    } else {
        float largest = 0.0f;
        for (int64_t i = lane; i < a.k; i += 32)
            largest = fmaxf(largest, fabsf(load_any(a.x, a.dtype, first + i)));
        scale = e4m3_scale_of(warp_max(largest));
    }
    if (lane == 0) p.scales[at] = scale.scale;
    for (int64_t i = lane; i < a.k; i += 32) {
        const float x = __fmul_rn(load_any(a.x, a.dtype, first + i), scale.inverse);
        const uint32_t wide = widen_e4m3(round_pair(x, 0.0f), 0x10);
        out[at * a.k + i] = __ushort_as_half(static_cast<unsigned short>(wide & 0xffff));
    }
}

/* ---- combine ---- */

static __global__ void __launch_bounds__(UNIT_THREADS)
    expert_linear_combine(const spey_expert_linear_args a, const float *sums)
{
    const int64_t j = my_unit();
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
    const size_t experts = align_up(static_cast<size_t>(a->n_experts + 1) * 4);
    const size_t scales = align_up(parts * 4), x = align_up(parts * static_cast<size_t>(a->k) * 2);
    p->order = reinterpret_cast<int32_t *>(workspace);
    p->start = reinterpret_cast<int32_t *>(workspace + order);
    p->tiles = reinterpret_cast<int32_t *>(workspace + order + experts);
    p->scales = parts ? reinterpret_cast<float *>(workspace + order + 2 * experts) : nullptr;
    p->x = parts ? workspace + order + 2 * experts + scales : nullptr;
    p->sums = reinterpret_cast<float *>(workspace + order + 2 * experts + scales + x);
    return order + 2 * experts + scales + x + (a->sum ? pairs * static_cast<size_t>(a->n) * 4 : 0);
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

template <typename T, int MT, bool EIGHT>
static void launch_mma(const spey_expert_linear_args *a, const expert_plan &p, dim3 grid,
                       cudaStream_t stream)
{
    if (a->k % 8 == 0 && is_aligned16(a->w) && is_packed8(p.x, p.x_dtype, p.x_pitch))
        expert_linear_mma<T, MT, true, EIGHT><<<grid, THREADS, 0, stream>>>(*a, p);
    else
        expert_linear_mma<T, MT, false, EIGHT><<<grid, THREADS, 0, stream>>>(*a, p);
}

template <typename T, bool EIGHT>
static void launch_tiles(const spey_expert_linear_args *a, const expert_plan &p, dim3 grid,
                         bool tall, cudaStream_t stream)
{
    if (tall)
        launch_mma<T, 4, EIGHT>(a, p, grid, stream);
    else
        launch_mma<T, 1, EIGHT>(a, p, grid, stream);
}

/* x as products read it: as it is, or rounded into scratch. */
static void prepare_x(const spey_expert_linear_args *a, expert_plan *p, cudaStream_t stream)
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
    expert_linear_quantize<<<static_cast<unsigned>((a->rows * parts + warps - 1) / warps), THREADS,
                             0, stream>>>(*a, *p, static_cast<__half *>(const_cast<void *>(p->x)));
}

static void launch(const spey_expert_linear_args *a, expert_plan p, cudaStream_t stream)
{
    prepare_x(a, &p, stream);
    const int64_t pairs = a->rows * a->n_slots;
    const bool mma = uses_mma(a), tall = mma && pairs >= 32 * a->n_experts;
    const int tm = mma ? tall ? 64 : 16 : EXACT_TM;
    expert_linear_plan<<<1, PLAN_THREADS, 0, stream>>>(*a, p, tm);
    /* An expert has at most one tile that is not full. */
    const int64_t partial = pairs < a->n_experts ? pairs : a->n_experts;
    const dim3 grid(static_cast<unsigned>((a->n + TN - 1) / TN),
                    static_cast<unsigned>(pairs / tm + partial));
    if (!mma)
        expert_linear_exact<<<grid, THREADS, 0, stream>>>(*a, p);
    else if (is_quantized(a))
        launch_tiles<__half, true>(a, p, grid, tall, stream);
    else if (a->w_dtype == SPEY_E4M3)
        launch_tiles<__nv_bfloat16, true>(a, p, grid, tall, stream);
    else if (a->w_dtype == SPEY_F16)
        launch_tiles<__half, false>(a, p, grid, tall, stream);
    else
        launch_tiles<__nv_bfloat16, false>(a, p, grid, tall, stream);
    if (!a->sum) return;
    const unit_grid g = grid_of_units(a->rows, a->n);
    expert_linear_combine<<<g.grid, g.block, 0, stream>>>(*a, p.sums);
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
        launch(&a, p, spey_cuda_stream(lane));
        a.x = static_cast<const uint8_t *>(a.x) + a.rows * a.x_pitch * bytes;
        a.y = static_cast<uint8_t *>(a.y) + a.rows * a.y_pitch * bytes;
        if (a.routing) a.routing += a.rows * 2 * a.n_slots;
    }
}

extern "C" const spey_kernel spey_expert_linear_sm80;
const spey_kernel spey_expert_linear_sm80 = {
    "expert_linear/sm80", 0, supports, workspace, run, false
};
