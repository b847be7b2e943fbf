/* norm on sm_80 and later, for F32, F16 and BF16 activations.
 *
 * who       One warp (up to 128 packs of 16 bytes) or one CTA per piece (a row, or a group of one). The piece stays in
 *           registers as FP32 between the sum and the write. Thread t holds packs t, t + THREADS, …
 * moves     x and residual once in, sum and out once out; weights come from L2.
 * bound by  memory; for a few rows, by the latency of one load, one or two reductions and one store.
 * bits      Depend on cols and dtype, not on rows, where a row lies or how it is aligned.
 *
 * Pieces that are not whole aligned packs are read and written element by element; those too long for registers take
 * norm_plain, which reads them again in each pass. No hot model shape goes there. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/norm/norm.h"

enum { PLAIN_THREADS = 512 };

/* One piece's operands. */
template <typename T> struct piece {
    const T *x;
    const T *residual;
    T *sum;
    T *out;
};

template <typename T>
static __device__ __forceinline__ piece<T> find_piece(const spey_norm_args &a, uint32_t index)
{
    const uint32_t groups = static_cast<uint32_t>(a.groups); /* supports() bounds rows * groups */
    const int64_t row = index / groups, at = index % groups * a.cols;
    piece<T> p;
    p.x = static_cast<const T *>(a.x) + row * a.x_pitch + at;
    p.residual =
        a.residual ? static_cast<const T *>(a.residual) + row * a.residual_pitch + at : nullptr;
    p.sum = a.sum ? static_cast<T *>(a.sum) + row * a.sum_pitch + at : nullptr;
    p.out = static_cast<T *>(a.out) + row * a.out_pitch + at;
    return p;
}

static __device__ __forceinline__ float inverse_root(float sum_of_squares, const spey_norm_args &a)
{
    return 1.0f / sqrtf(sum_of_squares / static_cast<float>(a.cols) + a.eps);
}

/* PACKED: every row of every operand is whole aligned packs. If not, the same threads take the same elements one by one,
 * so that the result is the same. */
template <typename T, int THREADS, int PACKS, int PIECES, bool PACKED>
static __global__ void __launch_bounds__(THREADS *PIECES) norm_held(const spey_norm_args a)
{
    constexpr int N = 16 / sizeof(T);
    __shared__ float shared[2][THREADS / 32];
    const uint32_t index = blockIdx.x * PIECES + threadIdx.x / THREADS;
    /* Whole warps leave, and only when THREADS is one warp. */
    if (index >= static_cast<uint32_t>(a.rows * a.groups)) return;
    const int cols = static_cast<int>(a.cols), first = threadIdx.x % THREADS * N;
    const bool layer = a.kind == SPEY_NORM_LAYER;
    const piece<T> p = find_piece<T>(a, index);

    float s[PACKS][N];
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * THREADS * N + first;
        load_some<N, PACKED>(p.x + c, cols - c, s[i]);
        if (p.residual) {
            float r[N];
            load_some<N, PACKED>(p.residual + c, cols - c, r);
#pragma unroll
            for (int j = 0; j < N; j++)
                s[i][j] += r[j];
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            total = layer ? total + s[i][j] : fmaf(s[i][j], s[i][j], total);
    }
    if (p.sum) {
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int c = i * THREADS * N + first;
            store_some<N, PACKED>(p.sum + c, cols - c, s[i]);
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
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * THREADS * N + first;
        /* Weights in packs of 4 floats: 16 bytes, whatever T is. */
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            float w[4] = { 1.0f, 1.0f, 1.0f, 1.0f }, b[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
            if (a.weight) load_some<4, PACKED>(a.weight + c + j, cols - c - j, w);
            if (a.bias && layer) load_some<4, PACKED>(a.bias + c + j, cols - c - j, b);
#pragma unroll
            for (int l = 0; l < 4; l++)
                s[i][j + l] = fmaf(s[i][j + l] * scale, w[l] + a.weight_offset, b[l]);
        }
        store_some<N, PACKED>(p.out + c, cols - c, s[i]);
    }
}

template <typename T>
static __device__ __forceinline__ float plain_value(const piece<T> &p, int64_t c)
{
    const float x = to_f32(p.x[c]);
    return p.residual ? x + to_f32(p.residual[c]) : x;
}

/* Only the last pass writes, each element after its last read: sum may be x or residual, out may be x. */
template <typename T>
static __global__ void __launch_bounds__(PLAIN_THREADS) norm_plain(const spey_norm_args a)
{
    __shared__ float shared[2][PLAIN_THREADS / 32];
    const bool layer = a.kind == SPEY_NORM_LAYER;
    const piece<T> p = find_piece<T>(a, blockIdx.x);
    float total = 0.0f, mean = 0.0f;
    for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
        const float s = plain_value(p, c);
        total = layer ? total + s : fmaf(s, s, total);
    }
    total = thread_sum<PLAIN_THREADS>(total, shared[0]);
    if (layer) {
        mean = total / static_cast<float>(a.cols);
        total = 0.0f;
        for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
            const float d = plain_value(p, c) - mean;
            total = fmaf(d, d, total);
        }
        total = thread_sum<PLAIN_THREADS>(total, shared[1]);
    }
    const float scale = inverse_root(total, a);
    for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
        const float s = plain_value(p, c);
        const float w = (a.weight ? a.weight[c] : 1.0f) + a.weight_offset;
        if (p.sum) from_f32(s, &p.sum[c]);
        from_f32(fmaf((s - mean) * scale, w, a.bias && layer ? a.bias[c] : 0.0f), &p.out[c]);
    }
}

template <typename T> static bool is_packed(const spey_norm_args *a)
{
    constexpr int64_t n = 16 / sizeof(T);
    if (!is_aligned16(a->x) || !is_aligned16(a->out) || !is_aligned16(a->weight)) return false;
    if (!is_aligned16(a->residual) || !is_aligned16(a->sum) || !is_aligned16(a->bias)) return false;
    if (a->residual && a->residual_pitch % n != 0) return false;
    if (a->sum && a->sum_pitch % n != 0) return false;
    return a->x_pitch % n == 0 && a->out_pitch % n == 0 && a->cols % n == 0;
}

template <typename T, int THREADS, int PACKS>
static void launch_held(const spey_norm_args *a, cudaStream_t stream)
{
    constexpr int pieces = THREADS == 32 ? 8 : 1, threads = THREADS * pieces;
    const unsigned grid = static_cast<unsigned>((a->rows * a->groups + pieces - 1) / pieces);
    if (is_packed<T>(a))
        norm_held<T, THREADS, PACKS, pieces, true><<<grid, threads, 0, stream>>>(*a);
    else
        norm_held<T, THREADS, PACKS, pieces, false><<<grid, threads, 0, stream>>>(*a);
}

template <typename T> static void launch(const spey_norm_args *a, cudaStream_t stream)
{
    const int64_t n = 16 / sizeof(T), packs = (a->cols + n - 1) / n;
    if (packs <= 32)
        launch_held<T, 32, 1>(a, stream);
    else if (packs <= 64)
        launch_held<T, 32, 2>(a, stream);
    else if (packs <= 128)
        launch_held<T, 32, 4>(a, stream);
    else if (packs <= 256)
        launch_held<T, 256, 1>(a, stream);
    else if (packs <= 512)
        launch_held<T, 256, 2>(a, stream);
    else if (packs <= 1024)
        launch_held<T, 256, 4>(a, stream);
    else if (packs <= 2048)
        launch_held<T, 1024, 2>(a, stream);
    else if (packs <= 4096)
        launch_held<T, 1024, 4>(a, stream);
    else
        norm_plain<T><<<static_cast<unsigned>(a->rows * a->groups), PLAIN_THREADS, 0, stream>>>(*a);
}

static bool supports(const void *args)
{
    const spey_norm_args *a = static_cast<const spey_norm_args *>(args);
    if (a->dtype != SPEY_F32 && a->dtype != SPEY_F16 && a->dtype != SPEY_BF16) return false;
    return a->cols > 0 && a->groups > 0 && a->rows <= INT32_MAX / a->groups;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_norm_args *a = static_cast<const spey_norm_args *>(args);
    if (a->rows == 0) return;
    if (a->dtype == SPEY_F32) launch<float>(a, spey_cuda_stream(lane));
    if (a->dtype == SPEY_F16) launch<__half>(a, spey_cuda_stream(lane));
    if (a->dtype == SPEY_BF16) launch<__nv_bfloat16>(a, spey_cuda_stream(lane));
}

extern "C" const spey_kernel spey_norm_sm80;
const spey_kernel spey_norm_sm80 = { "norm/sm80", 0, supports, nullptr, run, false };
