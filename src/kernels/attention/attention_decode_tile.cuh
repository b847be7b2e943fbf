/* One step of decoding on tensor cores: a warp's tile of 16 · STRIPS cache tokens against 8 · NT query heads of a KV head. Heads
 * are the columns of the products, so that a group of 8 wastes none of them and Q stays in registers:
 *
 *   scores    Sᵀ[tokens][heads] = K Qᵀ, a strip at a time; FP32
 *   softmax   Sᵀ becomes weights 2^(S - max); earlier sums are scaled down when the maximum grew
 *   weigh     Oᵀ[D][heads] += Vᵀ · weights (rounded to 16 bits), a strip at a time; FP32
 *
 * Of a strip's scores a thread has tokens g and g + 8, of both products heads 2t and 2t + 1 of each 8 (g = lane / 4, t = lane % 4).
 * Exponents are of 2: scores carry a factor log2(e). */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_TILE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_DECODE_TILE_CUH

#include "kernels/attention/attention_tile.cuh"

/* Q of 8 · NT heads as the second factor of the scores. */
template <typename X, int NT> struct decode_queries {
    uint32_t pairs[NT][X::D / 16][2];
};

template <typename X, int NT> struct decode_state {
    float o[NT][X::D / 16][4]; /* [2i + j]: head 2t + j, element element_of(m, i) */
    float max[NT][2];          /* of the scores, before `factor` */
    float sum[NT][2];          /* this thread's part */
};

template <typename X, int NT>
static __device__ __forceinline__ void clear_state(decode_state<X, NT> *state)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int i = 0; i < X::D / 4; i++)
            state->o[n][i / 4][i % 4] = 0.0f;
        state->max[n][0] = state->max[n][1] = -INFINITY;
        state->sum[n][0] = state->sum[n][1] = 0.0f;
    }
}

/* With 8 bits a thread's two neighbouring elements of V go to different halves of 16 rows. */
template <typename X> static __device__ __forceinline__ int element_of(int m, int i, int lane)
{
    return m * 16 + (X::BYTES == 2 ? lane / 4 + i * 8 : lane / 4 * 2 + i);
}

/* Rows of `n_heads` heads from `q` on, k_dim elements each; zeros behind them. With 8 bits a thread's four neighbouring elements of K
 * are two pairs of a fragment; Q takes the same order, which the product does not see. */
template <typename X, int NT>
static __device__ __forceinline__ void
load_queries(decode_queries<X, NT> *to, const attention_problem &p, const uint16_t *q, int n_heads)
{
    const int lane = threadIdx.x % 32, k_dim = static_cast<int>(p.a.k_dim);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const int head = n * 8 + lane / 4;
        const uint16_t *row = q + min(head, n_heads - 1) * k_dim;
#pragma unroll
        for (int k = 0; k < X::D / 16; k++) {
            uint32_t(&pairs)[2] = to->pairs[n][k];
            if constexpr (X::BYTES == 2) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int d = k * 16 + i * 8 + lane % 4 * 2;
                    const bool there = head < n_heads && d < k_dim;
                    pairs[i] = there ? *reinterpret_cast<const uint32_t *>(row + d) : 0;
                }
            } else {
                const int d = k * 16 + lane % 4 * 4;
                const bool there = head < n_heads && d < k_dim;
                const uint2 four =
                    there ? *reinterpret_cast<const uint2 *>(row + d) : make_uint2(0, 0);
                pairs[0] = convert_pair(four.x, p.a.dtype, typename X::T());
                pairs[1] = convert_pair(four.y, p.a.dtype, typename X::T());
            }
        }
    }
}

/* Byte of two chunks from 2 · k on, of a row whose first two begin at `row`: chunk_at moves them within eight. */
static __device__ __forceinline__ uint32_t chunks_at(uint32_t row, int k)
{
    return (row ^ (k % 4 * 32)) + k / 4 * 128;
}

/* Scores of a strip of K. */
template <typename X, int NT, int STRIPS>
static __device__ __forceinline__ void score_strip(float (&s)[NT][STRIPS][4], int strip,
                                                   const decode_queries<X, NT> &q, uint32_t rows)
{
    rows += lane_of_rows<X>(threadIdx.x % 32);
#pragma unroll
    for (int k = 0; k < X::PITCH / 32; k++) {
        uint32_t a[4];
        load_matrix4(a, chunks_at(rows, k));
        if constexpr (X::BYTES == 2) {
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma16816<typename X::T>(s[n][strip], a, q.pairs[n][k][0], q.pairs[n][k][1]);
        } else {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const uint32_t wide[4] = { widen<X>(a[2 * i], 0x10), widen<X>(a[2 * i + 1], 0x10),
                                           widen<X>(a[2 * i], 0x32), widen<X>(a[2 * i + 1], 0x32) };
#pragma unroll
                for (int n = 0; n < NT; n++)
                    mma16816<typename X::T>(s[n][strip], wide, q.pairs[n][2 * k + i][0],
                                            q.pairs[n][2 * k + i][1]);
            }
        }
    }
}

/* Rows of a strip times its scales (I8). */
template <int NT, int STRIPS>
static __device__ __forceinline__ void scale_rows(float (&s)[NT][STRIPS][4], int strip,
                                                  uint32_t scales)
{
    scales += threadIdx.x % 32 / 4 * 4;
    const float low = load_shared(scales), high = load_shared(scales + 32);
#pragma unroll
    for (int i = 0; i < 4 * NT; i++)
        s[i / 4][strip][i % 4] *= i % 4 < 2 ? low : high;
}

/* Token of a score within its tile. */
static __device__ __forceinline__ int token_of(int strip, int i)
{
    return strip * STRIP_TOKENS + threadIdx.x % 32 / 4 + i / 2 * 8;
}

/* Softcap and ALiBi. `head`: the item's first, of n_heads; `ahead`: of the tile's first token over the query's. */
template <int NT, int STRIPS>
static __device__ __forceinline__ void bend_columns(const spey_attention_args &a,
                                                    float (&s)[NT][STRIPS][4], float scale,
                                                    int head, int n_heads, int ahead)
{
#pragma unroll
    for (int i = 0; i < 2 * NT; i++) {
        const int column = i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
        const float slope =
            a.alibi_slopes ? a.alibi_slopes[head + min(column, n_heads - 1)] * LOG2_E : 0.0f;
#pragma unroll
        for (int j = 0; j < 2 * STRIPS; j++) {
            float *x = &s[i / 2][j / 2][i % 2 + j % 2 * 2];
            float y = *x * scale;
            if (a.softcap > 0.0f) y = a.softcap * tanh_fast(__fdividef(y, a.softcap));
            const int token = ahead + token_of(j / 2, j % 2 * 2);
            *x = fmaf(slope, static_cast<float>(token), y * LOG2_E);
        }
    }
}

/* Tokens [begin, end) of the tile are seen. */
template <int NT, int STRIPS>
static __device__ __forceinline__ void mask_rows(float (&s)[NT][STRIPS][4], int begin, int end)
{
#pragma unroll
    for (int i = 0; i < 4 * STRIPS; i++) {
        const int token = token_of(i / 4, i % 4);
        if (token >= begin && token < end) continue;
#pragma unroll
        for (int n = 0; n < NT; n++)
            s[n][i / 4][i % 4] = -INFINITY;
    }
}

/* The same of all eight threads that share heads. */
static __device__ __forceinline__ float column_max(float x)
{
#pragma unroll
    for (int i = 4; i < 32; i *= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

static __device__ __forceinline__ float column_sum(float x)
{
#pragma unroll
    for (int i = 4; i < 32; i *= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

/* Maxima of 8 heads grow to those of the tile; sums and output are scaled down to them. */
template <typename X, int NT>
static __device__ __forceinline__ void raise_max(decode_state<X, NT> *state, int n,
                                                 const float (&larger)[2], float factor)
{
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const float max = column_max(larger[j]);
        const float rescale =
            max == -INFINITY ? 1.0f : exp2_fast((state->max[n][j] - max) * factor);
        state->max[n][j] = max;
        state->sum[n][j] *= rescale;
#pragma unroll
        for (int m = 0; m < X::D / 16; m++) {
            state->o[n][m][j] *= rescale;
            state->o[n][m][2 + j] *= rescale;
        }
    }
}

/* Scores become weights. A tile of which a head sees nothing changes nothing. */
template <typename X, int NT, int STRIPS>
static __device__ __forceinline__ void soften(float (&s)[NT][STRIPS][4], decode_state<X, NT> *state,
                                              float factor)
{
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float larger[2] = { state->max[n][0], state->max[n][1] };
#pragma unroll
        for (int i = 0; i < 4 * STRIPS; i++)
            larger[i % 2] = fmaxf(larger[i % 2], s[n][i / 4][i % 4]);
        /* Maxima seldom grow after the first tiles. */
        if (__any_sync(0xffffffffu, larger[0] > state->max[n][0] || larger[1] > state->max[n][1]))
            raise_max(state, n, larger, factor);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float max = state->max[n][j], base = max == -INFINITY ? 0.0f : max * factor;
            float sum = 0.0f;
#pragma unroll
            for (int i = j; i < 4 * STRIPS; i += 2) {
                float *x = &s[n][i / 4][i % 4];
                *x = exp2_fast(fmaf(*x, factor, -base));
                sum += *x;
            }
            state->sum[n][j] += sum;
        }
    }
}

/* Two chunks of eight bytes of V, of which a thread has two neighbouring elements of two tokens each, as rows of fragments. */
template <typename X>
static __device__ __forceinline__ void widen_pairs(uint32_t four, uint32_t *even, uint32_t *odd)
{
    if constexpr (X::SCALED) {
        *even = widen<X>(four, 0x20);
        *odd = widen<X>(four, 0x31);
    } else {
        const uint32_t crossed = __byte_perm(four, 0, 0x3120);
        *even = widen<X>(crossed, 0x10);
        *odd = widen<X>(crossed, 0x32);
    }
}

/* O += V · weights of one strip. */
template <typename X, int NT, int STRIPS>
static __device__ __forceinline__ void
weigh_strip(decode_state<X, NT> *state, const float (&s)[NT][STRIPS][4], int strip, uint32_t rows)
{
    const int lane = threadIdx.x % 32;
    rows += X::BYTES == 2 ? lane_of_k<X>(lane) : lane_of_rows<X>(lane);
    uint32_t weights[NT][2];
#pragma unroll
    for (int i = 0; i < 2 * NT; i++)
        weights[i / 2][i % 2] = transpose_matrix(
            pack2(s[i / 2][strip][i % 2 * 2], s[i / 2][strip][i % 2 * 2 + 1], typename X::T()));
#pragma unroll
    for (int k = 0; k < X::PITCH / 32; k++) {
        uint32_t a[4];
        load_matrix4_transposed(a, chunks_at(rows, k));
        if constexpr (X::BYTES == 2) {
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma16816<typename X::T>(state->o[n][k], a, weights[n][0], weights[n][1]);
        } else {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t wide[4];
                widen_pairs<X>(a[2 * i], &wide[0], &wide[1]);
                widen_pairs<X>(a[2 * i + 1], &wide[2], &wide[3]);
#pragma unroll
                for (int n = 0; n < NT; n++)
                    mma16816<typename X::T>(state->o[n][2 * k + i], wide, weights[n][0],
                                            weights[n][1]);
            }
        }
    }
}

#endif
