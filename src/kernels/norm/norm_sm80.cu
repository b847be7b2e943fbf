/* norm on sm_80 and later, for any mixture of F32, F16 and BF16.
 *
 * who       One warp (up to 128 packs of 8 elements) or one CTA per piece (a row, or a group of one). The piece stays in
 *           registers as FP32 between the sum and the write. Thread t holds packs t, t + THREADS, …
 * moves     x and residual once in, sum and out once out; weights come from L2.
 * bound by  memory; for a few rows, by the latency of one load, one or two reductions and one store.
 * E4M3      Rounded in the same pass: the largest magnitude of the registers costs one more reduction.
 * bits      Depend on cols, not on rows, where a row lies or how it is aligned.
 *
 * Pieces that are not whole aligned packs are read and written element by element; those too long for registers take
 * norm_plain, which reads them again in each pass. No hot model shape goes there. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/round_e4m3.cuh"
#include "kernels/norm/norm.h"

enum { PLAIN_THREADS = 512 };

/* Where one piece's operands begin, in elements. */
struct piece {
    int64_t x, residual, sum, out;
};

static __device__ __forceinline__ piece find_piece(const spey_norm_args &a, uint32_t index)
{
    const uint32_t groups = static_cast<uint32_t>(a.groups); /* supports() bounds rows * groups */
    const int64_t row = index / groups, at = index % groups * a.cols;
    return { row * a.x_pitch + at, row * a.residual_pitch + at, row * a.sum_pitch + at,
             row * a.out_pitch + at };
}

static __device__ __forceinline__ float inverse_root(float sum_of_squares, const spey_norm_args &a)
{
    return 1.0f / sqrtf(sum_of_squares / static_cast<float>(a.cols) + a.eps);
}

/* The scale of one row; out_quant is one for a whole launch. */
template <int THREADS>
static __device__ __forceinline__ spey_e4m3_scale find_scale(const spey_norm_args &a, int64_t row,
                                                             float largest, float *shared)
{
    if (a.out_quant == SPEY_INPUT_STATIC) return e4m3_static_scale(a.out_scale);
    const spey_e4m3_scale scale = e4m3_scale_of(thread_max<THREADS>(largest, shared));
    if (threadIdx.x % THREADS == 0) a.out_scale[row] = scale.scale;
    return scale;
}

/* Into the L2 cache; nobody writes them. */
template <int THREADS, int PACKS>
static __device__ __forceinline__ void prefetch_weights(const spey_norm_args &a)
{
    const int first = threadIdx.x % THREADS * 8;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * THREADS * 8 + first;
        if (a.weight && c < a.cols && c % 32 == 0) prefetch_line(a.weight + c);
    }
}

/* A pack of x and one of residual, as they lie in memory. */
struct summands {
    raw8 x, residual;
};

static __device__ __forceinline__ summands load_summands(const spey_norm_args &a, const piece &p,
                                                         int c, bool there)
{
    summands raw = {};
    raw.x = load_raw8(a.x, a.x_dtype, p.x + c, there);
    raw.residual = load_raw8(a.residual, a.residual_dtype, p.residual + c, a.residual && there);
    return raw;
}

static __device__ __forceinline__ void add_summands(const spey_norm_args &a, const summands &raw,
                                                    float *s)
{
    widen8(raw.x, a.x_dtype, s);
    if (!a.residual) return;
    float r[8];
    widen8(raw.residual, a.residual_dtype, r);
#pragma unroll
    for (int j = 0; j < 8; j++)
        s[j] += r[j];
}

/* This thread's part of x + residual. As many loads as registers hold are in flight before anything is done with them. */
template <int THREADS, int PACKS, bool PACKED>
static __device__ __forceinline__ void load_piece(const spey_norm_args &a, const piece &p,
                                                  float (&s)[PACKS][8])
{
    constexpr int AT_ONCE = PACKED && (PACKS <= 2 || THREADS < 1024) ? PACKS : 1;
    const int cols = static_cast<int>(a.cols), first = threadIdx.x % THREADS * 8;
#pragma unroll
    for (int begin = 0; begin < PACKS; begin += AT_ONCE) {
        summands raw[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int c = (begin + i) * THREADS * 8 + first;
            if constexpr (PACKED) raw[i] = load_summands(a, p, c, c < cols);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int c = (begin + i) * THREADS * 8 + first;
            if constexpr (PACKED) {
                add_summands(a, raw[i], s[begin + i]);
            } else {
                load8<false>(a.x, a.x_dtype, p.x + c, cols - c, s[begin]);
                if (!a.residual) continue;
                float r[8];
                load8<false>(a.residual, a.residual_dtype, p.residual + c, cols - c, r);
#pragma unroll
                for (int j = 0; j < 8; j++)
                    s[begin][j] += r[j];
            }
        }
    }
}

/* PACKED: every row of every operand is whole aligned packs. If not, the same threads take the same elements one by one,
 * so that the result is the same. */
template <int THREADS, int PACKS, int PIECES, bool PACKED>
static __global__ void __launch_bounds__(THREADS *PIECES, PACKED &&THREADS *PIECES == 256 ? 3 : 1)
    norm_held(const spey_norm_args a)
{
    constexpr int N = 8;
    __shared__ float shared[3][THREADS / 32];
    const uint32_t index = blockIdx.x * PIECES + threadIdx.x / THREADS;
    if constexpr (PACKED) prefetch_weights<THREADS, PACKS>(a);
    begin_early();
    /* Whole warps leave, and only when THREADS is one warp. */
    if (index >= static_cast<uint32_t>(a.rows * a.groups)) return;
    const int cols = static_cast<int>(a.cols), first = threadIdx.x % THREADS * N;
    const bool layer = a.kind == SPEY_NORM_LAYER;
    const piece p = find_piece(a, index);

    float s[PACKS][N];
    float total = 0.0f;
    load_piece<THREADS, PACKS, PACKED>(a, p, s);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
#pragma unroll
        for (int j = 0; j < N; j++)
            total = layer ? total + s[i][j] : fmaf(s[i][j], s[i][j], total);
    }
    if (a.sum) {
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = i * THREADS * N + first;
            store_some8<PACKED>(a.sum, a.sum_dtype, p.sum + c, cols - c, s[i]);
        }
    }
    total = thread_sum<THREADS>(total, shared[0]);
    if (layer) {
        const float mean = total / static_cast<float>(cols);
        total = 0.0f;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
#pragma unroll
            for (int j = 0; j < N; j++) {
                s[i][j] -= mean;
                if (i * THREADS * N + first + j < cols) total = fmaf(s[i][j], s[i][j], total);
            }
        }
        total = thread_sum<THREADS>(total, shared[1]);
    }
    const float scale = inverse_root(total, a);
    const bool rounds = a.out_dtype == SPEY_E4M3;
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * THREADS * N + first;
        /* Weights in packs of 4 floats: 16 bytes. */
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            float w[4] = { 1.0f, 1.0f, 1.0f, 1.0f }, b[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
            if (a.weight) load_some<4, PACKED>(a.weight + c + j, cols - c - j, w);
            if (a.bias && layer) load_some<4, PACKED>(a.bias + c + j, cols - c - j, b);
#pragma unroll
            for (int l = 0; l < 4; l++)
                s[i][j + l] = fmaf(s[i][j + l] * scale, w[l] + a.weight_offset, b[l]);
        }
        if (!rounds) store_some8<PACKED>(a.out, a.out_dtype, p.out + c, cols - c, s[i]);
        if (c < cols) largest = largest_of8(s[i], largest);
    }
    if (!rounds) return;
    /* cols is a multiple of 8. */
    const float inverse = find_scale<THREADS>(a, index, largest, shared[2]).inverse;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * THREADS * N + first;
        if (c < cols)
            *reinterpret_cast<uint2 *>(static_cast<uint8_t *>(a.out) + p.out + c) =
                round8(s[i], inverse);
    }
}

static __device__ __forceinline__ float plain_value(const spey_norm_args &a, const piece &p,
                                                    int64_t c)
{
    const float x = load_any(a.x, a.x_dtype, p.x + c);
    return a.residual ? x + load_any(a.residual, a.residual_dtype, p.residual + c) : x;
}

static __device__ __forceinline__ float plain_normed(const spey_norm_args &a, int64_t c, float s,
                                                     float mean, float scale)
{
    const float w = (a.weight ? a.weight[c] : 1.0f) + a.weight_offset;
    const float b = a.bias && a.kind == SPEY_NORM_LAYER ? a.bias[c] : 0.0f;
    return fmaf((s - mean) * scale, w, b);
}

/* Only the last pass writes, each element after its last read: sum may be x or residual, out may be x. */
static __global__ void __launch_bounds__(PLAIN_THREADS, 1) norm_plain(const spey_norm_args a)
{
    __shared__ float shared[3][PLAIN_THREADS / 32];
    const bool layer = a.kind == SPEY_NORM_LAYER;
    const piece p = find_piece(a, blockIdx.x);
    begin_early();
    float total = 0.0f, mean = 0.0f;
    for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
        const float s = plain_value(a, p, c);
        total = layer ? total + s : fmaf(s, s, total);
    }
    total = thread_sum<PLAIN_THREADS>(total, shared[0]);
    if (layer) {
        mean = total / static_cast<float>(a.cols);
        total = 0.0f;
        for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
            const float d = plain_value(a, p, c) - mean;
            total = fmaf(d, d, total);
        }
        total = thread_sum<PLAIN_THREADS>(total, shared[1]);
    }
    const float scale = inverse_root(total, a);
    const bool rounds = a.out_dtype == SPEY_E4M3;
    float largest = 0.0f, inverse = 0.0f;
    if (rounds) {
        for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS)
            largest = fmaxf(largest, fabsf(plain_normed(a, c, plain_value(a, p, c), mean, scale)));
        inverse = find_scale<PLAIN_THREADS>(a, blockIdx.x, largest, shared[2]).inverse;
    }
    for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
        const float s = plain_value(a, p, c), normed = plain_normed(a, c, s, mean, scale);
        if (a.sum) store_any(a.sum, a.sum_dtype, p.sum + c, s);
        if (rounds)
            static_cast<uint8_t *>(a.out)[p.out + c] =
                static_cast<uint8_t>(round_pair(__fmul_rn(normed, inverse), 0.0f));
        else
            store_any(a.out, a.out_dtype, p.out + c, normed);
    }
}

static bool is_packed(const spey_norm_args *a)
{
    if (a->cols % 8 != 0 || !is_aligned16(a->weight) || !is_aligned16(a->bias)) return false;
    return is_packed8(a->x, a->x_dtype, a->x_pitch) &&
           (a->out_dtype == SPEY_E4M3 || is_packed8(a->out, a->out_dtype, a->out_pitch)) &&
           (!a->residual || is_packed8(a->residual, a->residual_dtype, a->residual_pitch)) &&
           (!a->sum || is_packed8(a->sum, a->sum_dtype, a->sum_pitch));
}

template <int THREADS, int PACKS>
static void launch_held(const spey_norm_args *a, const spey_device *device)
{
    constexpr int pieces = THREADS == 32 ? 8 : 1, threads = THREADS * pieces;
    const unsigned grid = static_cast<unsigned>((a->rows * a->groups + pieces - 1) / pieces);
    launch_early(device, { dim3(grid), dim3(threads), 0 },
                 is_packed(a) ? norm_held<THREADS, PACKS, pieces, true>
                              : norm_held<THREADS, PACKS, pieces, false>,
                 *a);
}

static void launch(const spey_norm_args *a, const spey_device *device)
{
    const int64_t packs = (a->cols + 7) / 8;
    if (packs <= 32)
        launch_held<32, 1>(a, device);
    else if (packs <= 64)
        launch_held<32, 2>(a, device);
    else if (packs <= 128)
        launch_held<32, 4>(a, device);
    else if (packs <= 256)
        launch_held<256, 1>(a, device);
    else if (packs <= 512)
        launch_held<256, 2>(a, device);
    else if (packs <= 1024)
        launch_held<256, 4>(a, device);
    else if (packs <= 2048)
        launch_held<1024, 2>(a, device);
    else if (packs <= 4096)
        launch_held<1024, 4>(a, device);
    else
        launch_early(device,
                     { dim3(static_cast<unsigned>(a->rows * a->groups)), dim3(PLAIN_THREADS), 0 },
                     norm_plain, *a);
}

static bool supports(const void *args)
{
    const spey_norm_args *a = static_cast<const spey_norm_args *>(args);
    const bool rounds = a->out_dtype == SPEY_E4M3 && a->groups == 1 && a->cols % 8 == 0 &&
                        is_packed_e4m3(a->out, a->out_pitch);
    if (!is_float_16_or_32(a->x_dtype)) return false;
    if (!rounds && !is_float_16_or_32(a->out_dtype)) return false;
    if (a->residual && !is_float_16_or_32(a->residual_dtype)) return false;
    if (a->sum && !is_float_16_or_32(a->sum_dtype)) return false;
    return a->cols > 0 && a->groups > 0 && a->rows <= INT32_MAX / a->groups;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_norm_args *a = static_cast<const spey_norm_args *>(args);
    if (a->rows > 0) launch(a, spey_cuda_device(lane));
}

extern "C" const spey_kernel spey_norm_sm80;
const spey_kernel spey_norm_sm80 = { "norm/sm80", 0, supports, nullptr, run, false };
