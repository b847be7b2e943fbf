/* norm on sm_80 and later, for F32, F16 and BF16 activations.
 *
 * who       One warp (up to 128 packs of 16 bytes) or one CTA per piece (a row, or a group of one). The piece stays in
 *           registers as FP32 between the sum and the write. Thread t holds packs t, t + THREADS, …
 * moves     x and residual once in, sum and out once out; weights come from L2.
 * bound by  memory; for a few rows, by the latency of one load, one or two reductions and one store.
 * bits      Depend on cols, dtype and alignment, not on rows or where a row lies.
 *
 * Pieces that are not whole aligned packs of 16 bytes, or too long for registers, take norm_plain: one element at a time, read
 * again for each pass. No hot model shape goes there. */
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

template <typename T, int THREADS, int PACKS, int PIECES>
static __global__ void __launch_bounds__(THREADS *PIECES) norm_held(const spey_norm_args a)
{
    constexpr int N = 16 / sizeof(T);
    __shared__ float shared[2][THREADS / 32];
    const uint32_t index = blockIdx.x * PIECES + threadIdx.x / THREADS;
    if (index >= static_cast<uint32_t>(a.rows * a.groups))
        return; /* whole warps, and only when THREADS is one warp */
    const int thread = threadIdx.x % THREADS;
    const piece<T> p = find_piece<T>(a, index);

    float s[PACKS][N];
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int64_t c = (i * THREADS + thread) * static_cast<int64_t>(N);
        load_pack<N>(p.x + c, c < a.cols, s[i]);
        if (p.residual) {
            float r[N];
            load_pack<N>(p.residual + c, c < a.cols, r);
#pragma unroll
            for (int j = 0; j < N; j++)
                s[i][j] += r[j];
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            total += a.kind == SPEY_NORM_LAYER ? s[i][j] : s[i][j] * s[i][j];
    }
    if (p.sum) {
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const int64_t c = (i * THREADS + thread) * static_cast<int64_t>(N);
            store_pack<N>(p.sum + c, c < a.cols, s[i]);
        }
    }
    total = thread_sum<THREADS>(total, shared[0]);
    if (a.kind == SPEY_NORM_LAYER) {
        const float mean = total / static_cast<float>(a.cols);
        total = 0.0f;
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            const bool inside = (i * THREADS + thread) * static_cast<int64_t>(N) < a.cols;
#pragma unroll
            for (int j = 0; j < N; j++) {
                s[i][j] -= mean;
                if (inside) total += s[i][j] * s[i][j];
            }
        }
        total = thread_sum<THREADS>(total, shared[1]);
    }
    const float scale = inverse_root(total, a);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int64_t c = (i * THREADS + thread) * static_cast<int64_t>(N);
        const bool inside = c < a.cols;
        /* Weights in packs of 4 floats: 16 bytes, whatever T is. */
#pragma unroll
        for (int j = 0; j < N; j += 4) {
            float w[4] = { 1.0f, 1.0f, 1.0f, 1.0f }, b[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
            if (a.weight) load_pack<4>(a.weight + c + j, inside, w);
            if (a.bias && a.kind == SPEY_NORM_LAYER) load_pack<4>(a.bias + c + j, inside, b);
#pragma unroll
            for (int l = 0; l < 4; l++)
                s[i][j + l] = s[i][j + l] * scale * (w[l] + a.weight_offset) + b[l];
        }
        store_pack<N>(p.out + c, inside, s[i]);
    }
}

template <typename T>
static __device__ __forceinline__ float plain_value(const piece<T> &p, int64_t c)
{
    return to_f32(p.x[c]) + (p.residual ? to_f32(p.residual[c]) : 0.0f);
}

/* Only the last pass writes, each element after its last read: sum may be x or residual, out may be x. */
template <typename T>
static __global__ void __launch_bounds__(PLAIN_THREADS) norm_plain(const spey_norm_args a)
{
    __shared__ float shared[2][PLAIN_THREADS / 32];
    const piece<T> p = find_piece<T>(a, blockIdx.x);
    float total = 0.0f, mean = 0.0f;
    for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
        const float s = plain_value(p, c);
        total += a.kind == SPEY_NORM_LAYER ? s : s * s;
    }
    total = thread_sum<PLAIN_THREADS>(total, shared[0]);
    if (a.kind == SPEY_NORM_LAYER) {
        mean = total / static_cast<float>(a.cols);
        total = 0.0f;
        for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
            const float d = plain_value(p, c) - mean;
            total += d * d;
        }
        total = thread_sum<PLAIN_THREADS>(total, shared[1]);
    }
    const float scale = inverse_root(total, a);
    for (int64_t c = threadIdx.x; c < a.cols; c += PLAIN_THREADS) {
        const float s = plain_value(p, c);
        const float w = (a.weight ? a.weight[c] : 1.0f) + a.weight_offset;
        const float b = a.bias && a.kind == SPEY_NORM_LAYER ? a.bias[c] : 0.0f;
        if (p.sum) from_f32(s, &p.sum[c]);
        from_f32((s - mean) * scale * w + b, &p.out[c]);
    }
}

template <typename T, int THREADS, int PACKS>
static void launch_held(const spey_norm_args *a, cudaStream_t stream)
{
    constexpr int pieces = THREADS == 32 ? 8 : 1;
    const int64_t grid = (a->rows * a->groups + pieces - 1) / pieces;
    norm_held<T, THREADS, PACKS, pieces>
        <<<static_cast<unsigned>(grid), THREADS * pieces, 0, stream>>>(*a);
}

template <typename T> static bool fits_packs(const spey_norm_args *a)
{
    constexpr int64_t n = 16 / sizeof(T);
    if (!is_aligned16(a->x) || !is_aligned16(a->out) || !is_aligned16(a->weight)) return false;
    if (!is_aligned16(a->residual) || !is_aligned16(a->sum) || !is_aligned16(a->bias)) return false;
    if (a->residual && a->residual_pitch % n != 0) return false;
    if (a->sum && a->sum_pitch % n != 0) return false;
    return a->x_pitch % n == 0 && a->out_pitch % n == 0 && a->cols % n == 0;
}

template <typename T> static void launch(const spey_norm_args *a, cudaStream_t stream)
{
    const int64_t n = 16 / sizeof(T), packs = (a->cols + n - 1) / n;
    if (packs > 4096 || !fits_packs<T>(a)) {
        const int64_t grid = a->rows * a->groups;
        norm_plain<T><<<static_cast<unsigned>(grid), PLAIN_THREADS, 0, stream>>>(*a);
    } else if (packs <= 32) {
        launch_held<T, 32, 1>(a, stream);
    } else if (packs <= 64) {
        launch_held<T, 32, 2>(a, stream);
    } else if (packs <= 128) {
        launch_held<T, 32, 4>(a, stream);
    } else if (packs <= 256) {
        launch_held<T, 256, 1>(a, stream);
    } else if (packs <= 512) {
        launch_held<T, 256, 2>(a, stream);
    } else if (packs <= 1024) {
        launch_held<T, 256, 4>(a, stream);
    } else if (packs <= 2048) {
        launch_held<T, 1024, 2>(a, stream);
    } else {
        launch_held<T, 1024, 4>(a, stream);
    }
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
const spey_kernel spey_norm_sm80 = { "norm/sm80", 0, supports, nullptr, run };
