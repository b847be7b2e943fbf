/* One step of attention on tensor cores: 16 · MT rows (pairs of token and query head) against a tile of 64 cache tokens, as
 * prefill takes them (attention_decode_tile.cuh: decoding).
 *
 *   scores    S[rows][64] = Q Kᵀ, a strip at a time; FP32
 *   softmax   S becomes weights 2^(S - max); earlier sums are scaled down when the maximum grew
 *   weigh     O[rows][D] += weights (rounded to 16 bits) · V, a strip at a time; FP32
 *
 * Exponents are of 2: scores carry a factor log2(e). */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_TILE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_TILE_CUH

#include "kernels/attention/attention_copy.cuh"
#include "kernels/cuda/round_e4m3.cuh"

#define LOG2_E 1.4426950408889634f

/* ---- scores ---- */

/* One step of 16 elements: scores += 16 · MT rows of q times two tiles of 8 tokens. */
template <typename T, int MT>
static __device__ __forceinline__ void score_step(float s[MT][8][4], int n, const uint32_t q[MT][4],
                                                  uint32_t b0, uint32_t b1, uint32_t b2,
                                                  uint32_t b3)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
        mma16816<T>(s[m][n], q[m], b0, b1);
        mma16816<T>(s[m][n + 1], q[m], b2, b3);
    }
}

/* Scores of 16 · MT rows of Q against strips of K that lie one after the other. */
template <typename X, int MT, int STRIPS>
static __device__ __forceinline__ void score_strips(float s[MT][8][4], int first_strip,
                                                    uint32_t rows, uint32_t strips, int lane)
{
    using T = typename X::T;
    rows += lane_of_rows<typename X::Q>(lane);
    strips += lane_of_k<X>(lane);
#pragma unroll
    for (int k = 0; k < X::PITCH / 32; k++) {
        /* Two chunks of each row of K: one step of 16 bits, two of 8. */
        uint32_t q[3 - X::BYTES][MT][4];
#pragma unroll
        for (int m = 0; m < (3 - X::BYTES) * MT; m++)
            load_matrix4(q[m / MT][m % MT],
                         (rows ^ ((k * (3 - X::BYTES) + m / MT) * 32)) + m % MT * 16 * X::Q::PITCH);
#pragma unroll
        for (int i = 0; i < STRIPS; i++) {
            const int n = 2 * (first_strip + i);
            uint32_t b[4];
            load_matrix4(b, (strips ^ (k * 32)) + i * X::STRIP);
            if constexpr (X::BYTES == 2) {
                score_step<T, MT>(s, n, q[0], b[0], b[1], b[2], b[3]);
            } else {
                score_step<T, MT>(s, n, q[0], widen<X>(b[0], 0x10), widen<X>(b[0], 0x32),
                                  widen<X>(b[2], 0x10), widen<X>(b[2], 0x32));
                score_step<T, MT>(s, n, q[2 - X::BYTES], widen<X>(b[1], 0x10), widen<X>(b[1], 0x32),
                                  widen<X>(b[3], 0x10), widen<X>(b[3], 0x32));
            }
        }
    }
}

/* Columns of a strip times its scales (I8). */
template <int MT>
static __device__ __forceinline__ void scale_strip(float (*s)[8][4], int strip, uint32_t scales)
{
#pragma unroll
    for (int n = 2 * strip; n < 2 * strip + 2; n++) {
        const float2 x = load_shared2(scales + (n % 2 * 8 + threadIdx.x % 4 * 2) * 4);
#pragma unroll
        for (int i = 0; i < 4 * MT; i++)
            s[i / 4][n][i % 4] *= i % 2 ? x.y : x.x;
    }
}

/* ---- softmax ---- */

/* Of 16 · MT rows, the two of each 16 that a thread holds parts of: g and g + 8. */
template <int MT> struct row_state {
    float max[2 * MT]; /* of the scores, before `factor` */
    float sum[2 * MT]; /* this thread's part */
};

template <int MT> static __device__ __forceinline__ row_state<MT> no_rows()
{
    row_state<MT> state;
#pragma unroll
    for (int i = 0; i < 2 * MT; i++) {
        state.max[i] = -INFINITY;
        state.sum[i] = 0.0f;
    }
    return state;
}

/* What a row's scores depend on beside q·k: its own cache index and its query head. Found again when it is needed, since
 * most tiles need none of it and registers are short. */
struct row_place {
    int index, head;
};

/* How raw scores, times scale, become exponents of 2: times factor; when `bent`, by bend_scores, and factor is 1. */
struct score_scale {
    float scale, factor;
    bool bent;
};

static __device__ __forceinline__ score_scale score_scale_of(const spey_attention_args &a,
                                                             int kv_head)
{
    const bool bent = a.softcap > 0.0f || a.alibi_slopes;
    const float scale = a.kv.k_scale ? a.scale * a.kv.k_scale[kv_head] : a.scale;
    return { scale, bent ? 1.0f : scale * LOG2_E, bent };
}

/* 1 - 2 / (1 + e^2x): the absolute error is that of FP32, which is what a score needs. */
static __device__ __forceinline__ float tanh_fast(float x)
{
    return 1.0f - __fdividef(2.0f, 1.0f + exp2_fast(2.0f * LOG2_E * x));
}

/* Scores of one row (half 0 or 1 of 16). `first`: cache index of their first column. */
template <int NT>
static __device__ __forceinline__ void bend_row(const spey_attention_args &a, float (&s)[NT][4],
                                                int half, float scale, int first,
                                                const row_place &place)
{
    const float slope = a.alibi_slopes ? a.alibi_slopes[place.head] * LOG2_E : 0.0f;
    const int ahead = first + static_cast<int>(threadIdx.x) % 4 * 2 - place.index;
#pragma unroll
    for (int i = 0; i < 2 * NT; i++) {
        float *x = &s[i / 2][half * 2 + i % 2];
        float y = *x * scale;
        if (a.softcap > 0.0f) y = a.softcap * tanh_fast(y / a.softcap);
        *x = fmaf(slope, static_cast<float>(ahead + i / 2 * 8 + i % 2), y * LOG2_E);
    }
}

/* PLACE(m, half): the row_place of row half · 8 + g of 16 rows m. `first`: cache index of the tile. */
template <int MT, typename PLACE>
static __device__ __forceinline__ void bend_scores(const spey_attention_args &a, float s[MT][8][4],
                                                   float scale, int first, PLACE place_of)
{
#pragma unroll
    for (int r = 0; r < 2 * MT; r++)
        bend_row(a, s[r / 2], r % 2, scale, first, place_of(r / 2, r % 2));
}

/* The row sees columns [begin, end) of the tile. */
template <int NT>
static __device__ __forceinline__ void mask_row(float (&s)[NT][4], int half, int begin, int end)
{
    const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2 * NT; i++) {
        const int j = column + i / 2 * 8 + i % 2;
        if (j < begin || j >= end) s[i / 2][half * 2 + i % 2] = -INFINITY;
    }
}

template <int MT, typename PLACE>
static __device__ __forceinline__ void mask_scores(const spey_attention_args &a, float s[MT][8][4],
                                                   int first, int cache_len, PLACE place_of)
{
#pragma unroll
    for (int r = 0; r < 2 * MT; r++) {
        const int index = place_of(r / 2, r % 2).index;
        mask_row(s[r / 2], r % 2, first_visible(a, index) - first,
                 end_visible(a, index, cache_len) - first);
    }
}

/* The largest of the four threads that share a row. */
static __device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

static __device__ __forceinline__ float quad_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/* Scores of one row (half 0 or 1 of 16) become weights. Returns what earlier sums are to be multiplied with. A tile that
 * the row does not see changes nothing: weights 0, factor 1. */
template <int NT>
static __device__ __forceinline__ float softmax_row(float (&s)[NT][4], int half, float *row_max,
                                                    float *row_sum, float factor)
{
    float max = *row_max;
#pragma unroll
    for (int n = 0; n < NT; n++)
        max = fmaxf(max, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
    max = quad_max(max);
    const float base = max == -INFINITY ? 0.0f : max * factor;
    const float rescale = max == *row_max ? 1.0f : exp2_fast(*row_max * factor - base);
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        s[n][2 * half] = exp2_fast(fmaf(s[n][2 * half], factor, -base));
        s[n][2 * half + 1] = exp2_fast(fmaf(s[n][2 * half + 1], factor, -base));
        sum += s[n][2 * half] + s[n][2 * half + 1];
    }
    *row_max = max;
    *row_sum = fmaf(*row_sum, rescale, sum);
    return rescale;
}

template <int MT, int NT>
static __device__ __forceinline__ void softmax(float s[MT][8][4], float o[MT][NT][4],
                                               float max[2 * MT], float sum[2 * MT], float factor)
{
#pragma unroll
    for (int m = 0; m < MT; m++) {
        const float low = softmax_row(s[m], 0, &max[2 * m], &sum[2 * m], factor);
        const float high = softmax_row(s[m], 1, &max[2 * m + 1], &sum[2 * m + 1], factor);
        /* Maxima seldom grow after the first tiles. */
        if (!__any_sync(0xffffffffu, low != 1.0f || high != 1.0f)) continue;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            o[m][n][0] *= low;
            o[m][n][1] *= low;
            o[m][n][2] *= high;
            o[m][n][3] *= high;
        }
    }
}

/* ---- weigh ---- */

/* Weights of strip `strip` of the tile, as a fragment of A. */
template <typename T, int NT>
static __device__ __forceinline__ void weights_of(uint32_t (&a)[4], const float (&s)[NT][4],
                                                  int strip)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        a[i] = pack2(s[2 * strip + i / 2][i % 2 * 2], s[2 * strip + i / 2][i % 2 * 2 + 1], T());
}

/* o += weights · V of one strip. */
template <typename X, int MT>
static __device__ __forceinline__ void
weigh_strip(float o[MT][X::D / 8][4], const float s[MT][8][4], int strip, uint32_t rows, int lane)
{
    rows += lane_of_rows<X>(lane);
    uint32_t a[MT][4];
#pragma unroll
    for (int m = 0; m < MT; m++)
        weights_of<typename X::T>(a[m], s[m], strip);
#pragma unroll
    for (int n = 0; n < X::PITCH / 32; n++) {
        uint32_t b[4];
        load_matrix4_transposed(b, rows ^ (n * 32));
#pragma unroll
        for (int m = 0; m < MT; m++) {
            if constexpr (X::BYTES == 2) {
                mma16816<typename X::T>(o[m][2 * n], a[m], b[0], b[1]);
                mma16816<typename X::T>(o[m][2 * n + 1], a[m], b[2], b[3]);
            } else {
                /* A lane has neighbouring elements of two tokens: the first ones are of one tile, the second of another. */
#pragma unroll
                for (int i = 0; i < 4; i++)
                    mma16816<typename X::T>(o[m][4 * n + i], a[m],
                                            widen<X>(b[i / 2 * 2], i % 2 ? 0x31 : 0x20),
                                            widen<X>(b[i / 2 * 2 + 1], i % 2 ? 0x31 : 0x20));
            }
        }
    }
}

/* ---- results ---- */

/* Maximum (as an exponent of 2) and sum of a row, the sink included, give the factor of its output, the division by
 * the output's own scale included. A row that sees nothing, as the padding of a captured step, is zero. */
static __device__ __forceinline__ float finish_row(const spey_attention_args &a, int64_t head,
                                                   float max, float sum)
{
    float own = 1.0f, scale = 1.0f;
    const int group = static_cast<int>(a.n_heads) / static_cast<int>(a.n_kv_heads);
    if (a.kv.v_scale) scale = a.kv.v_scale[static_cast<int>(head) / group];
    if (a.sinks) {
        const float sink = a.sinks[head] * LOG2_E, larger = fmaxf(max, sink);
        own = exp2_fast(max - larger);
        sum = fmaf(sum, own, exp2_fast(sink - larger));
    }
    return sum > 0.0f ? own / (sum * output_scale(a)) * scale : 0.0f;
}

/* Two neighbouring elements of the output. */
static __device__ __forceinline__ void store2(const spey_attention_args &a, int64_t at, float low,
                                              float high)
{
    const bool half = a.out_dtype == SPEY_F16;
    if (a.out_dtype == SPEY_E4M3)
        static_cast<uint16_t *>(a.out)[at / 2] = static_cast<uint16_t>(round_pair(low, high));
    else
        static_cast<uint32_t *>(a.out)[at / 2] =
            half ? pack2(low, high, __half()) : pack2(low, high, __nv_bfloat16());
}

#endif
