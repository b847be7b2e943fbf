/* attention on sm_80 and later: every head size, dtype and mask, in FP32 on CUDA cores.
 *
 * who       One CTA per token and query head. The cache goes by in tiles of 128 tokens, at multiples of 128 of the cache
 *           index: thread t scores token t of the tile, then sums elements t, t + 128, … of V over the tile.
 * moves     K and V once per token and query head, from L2 where heads of a group and tokens of a step share them.
 * bound by  L2 and the latency of a tile. Models with 16-bit activations go to faster rows when their shapes suit.
 * bits      Depend on the token's own cache alone. */
#include "kernels/attention/attention.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/round_e4m3.cuh"

enum { THREADS = 128, V_STEPS = SPEY_HEAD_DIM_MAX / THREADS };

static __device__ __forceinline__ float load_float(const void *p, int64_t i, spey_dtype dtype)
{
    if (dtype == SPEY_F16) return to_f32(static_cast<const __half *>(p)[i]);
    if (dtype == SPEY_BF16) return to_f32(static_cast<const __nv_bfloat16 *>(p)[i]);
    return static_cast<const float *>(p)[i];
}

static __device__ __forceinline__ void store_float(void *p, int64_t i, spey_dtype dtype, float x)
{
    if (dtype == SPEY_F16)
        from_f32(x, &static_cast<__half *>(p)[i]);
    else if (dtype == SPEY_BF16)
        from_f32(x, &static_cast<__nv_bfloat16 *>(p)[i]);
    else if (dtype == SPEY_E4M3)
        static_cast<uint8_t *>(p)[i] = static_cast<uint8_t>(round_pair(x, 0.0f));
    else
        static_cast<float *>(p)[i] = x;
}

/* Elements of 8 bits, as they are in the cache. */
struct e4m3 {
    uint8_t bits;
};

struct byte8 {
    int8_t value;
};

static __device__ __forceinline__ float to_f32(e4m3 x)
{
    const uint32_t pair = widen_e4m3(x.bits, 0x40);
    return __low2float(*reinterpret_cast<const __half2 *>(&pair));
}

static __device__ __forceinline__ float to_f32(byte8 x)
{
    return static_cast<float>(x.value);
}

/* q lies in shared memory. */
template <typename T, bool PACKED>
static __device__ __forceinline__ float dot(const float *q, const T *k, int n)
{
    constexpr int N = 16 / sizeof(T);
    float sum = 0.0f;
    for (int d = 0; d < n; d += N) {
        float x[N];
        load_some<N, PACKED>(k + d, n - d, x);
#pragma unroll
        for (int i = 0; i < N; i++)
            sum = fmaf(q[d + i], x[i], sum);
    }
    return sum;
}

/* Where a sequence's token lies in the pool: its block, and its place in it. */
struct kv_slot {
    int64_t block, token;
};

static __device__ __forceinline__ kv_slot find_slot(const attention_problem &p, int64_t seq, int j)
{
    return { p.blocks[seq * p.table_pitch + j / p.a.kv.block_tokens], j % p.a.kv.block_tokens };
}

/* What K and V there are to be multiplied with: 1 unless elements have 8 bits. */
template <typename T>
static __device__ __forceinline__ float2 find_scales(const spey_kv_view &kv, const kv_slot &slot,
                                                     int64_t kv_head)
{
    if (sizeof(T) > 1) return make_float2(1.0f, 1.0f);
    if (kv.dtype == SPEY_E4M3)
        return make_float2(kv.k_scale ? kv.k_scale[kv_head] : 1.0f,
                           kv.v_scale ? kv.v_scale[kv_head] : 1.0f);
    const float *scales =
        kv.token_scales + slot.block * kv.scale_block + kv_head * kv.block_tokens + slot.token;
    return make_float2(scales[kv.k_scales], scales[kv.v_scales]);
}

/* spey_relative_bucket of each distance: logarithms of the host. */
struct bucket_table {
    int16_t of[SPEY_RELATIVE_DISTANCE_MAX + 1];
};

/* For a key `ahead` tokens after the query. */
static __device__ __forceinline__ float
relative_bias(const spey_attention_args &a, const bucket_table &buckets, int64_t h, int ahead)
{
    const int limit = static_cast<int>(a.relative.max_distance);
    const int distance = min(abs(ahead), limit);
    const int64_t side = ahead > 0 ? a.relative.buckets / 2 : 0; /* only without a causal mask */
    return a.relative.bias[(buckets.of[distance] + side) * a.n_heads + h];
}

/* The score of s = q·k, the scale being in q, for a key `ahead` tokens after the query. */
static __device__ __forceinline__ float finish_score(const spey_attention_args &a,
                                                     const bucket_table &buckets, int64_t h,
                                                     float s, int ahead)
{
    if (a.softcap > 0.0f) s = a.softcap * tanhf(s / a.softcap);
    if (a.alibi_slopes) s = fmaf(a.alibi_slopes[h], static_cast<float>(ahead), s);
    return a.relative.bias ? s + relative_bias(a, buckets, h, ahead) : s;
}

/* The largest of all threads; `shared` has THREADS / 32 floats, unused until the next barrier. */
static __device__ __forceinline__ float thread_max(float x, float *shared)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return fmaxf(fmaxf(shared[0], shared[1]), fmaxf(shared[2], shared[3]));
}

/* PACKED: K's rows are whole aligned packs of 16 bytes. */
template <typename T, bool PACKED>
static __global__ void __launch_bounds__(THREADS, 4)
    attend(const attention_problem p, const bucket_table buckets)
{
    __shared__ float q[SPEY_HEAD_DIM_MAX + 16], weights[THREADS], shared[2][THREADS / 32];
    __shared__ const T *v_rows[THREADS];
    const spey_attention_args &a = p.a;
    const int64_t r = blockIdx.x, h = blockIdx.y, kv_head = h / (a.n_heads / a.n_kv_heads);
    const int64_t seq = p.token_seq[r];
    const int t = threadIdx.x, k_dim = static_cast<int>(a.k_dim), v_dim = static_cast<int>(a.v_dim);
    const int index = p.kv_len[seq] - p.seq_start[seq + 1] + static_cast<int>(r);
    const int begin = first_visible(a, index), end = end_visible(a, index, p.cache_len[seq]);
    for (int d = t; d < (k_dim + 15) / 16 * 16; d += THREADS)
        q[d] = d < k_dim ? a.scale * load_float(a.q, r * a.q_pitch + h * k_dim + d, a.dtype) : 0.0f;
    __syncthreads();

    float sums[V_STEPS] = {}, total = 0.0f, max = -INFINITY;
    for (int tile = begin / THREADS * THREADS; tile < end; tile += THREADS) {
        const int j = tile + t;
        float s = -INFINITY, v_scale = 1.0f;
        if (j >= begin && j < end) {
            const kv_slot slot = find_slot(p, seq, j);
            const uint8_t *block = a.kv.base + slot.block * a.kv.block_bytes;
            const uint8_t *k = block + a.kv.k_offset + kv_head * a.kv.k_head_bytes;
            const uint8_t *v = block + a.kv.v_offset + kv_head * a.kv.v_head_bytes;
            const float2 scales = find_scales<T>(a.kv, slot, kv_head);
            v_scale = scales.y;
            k += slot.token * a.kv.k_token_bytes;
            v_rows[t] = reinterpret_cast<const T *>(v + slot.token * a.kv.v_token_bytes);
            s = scales.x * dot<T, PACKED>(q, reinterpret_cast<const T *>(k), k_dim);
            s = finish_score(a, buckets, h, s, j - index);
        }
        const float new_max = fmaxf(max, thread_max(s, shared[0]));
        const float weight = expf(s - new_max), rescale = expf(max - new_max);
        max = new_max;
        weights[t] = weight * v_scale;
        total = fmaf(total, rescale, thread_sum<THREADS>(weight, shared[1]));
        const int first = tile < begin ? begin - tile : 0;
        const int last = end - tile < THREADS ? end - tile : THREADS;
#pragma unroll
        for (int i = 0; i < V_STEPS; i++) {
            const int d = i * THREADS + t;
            sums[i] *= rescale;
            for (int at = first; at < (d < v_dim ? last : 0); at++)
                sums[i] = fmaf(weights[at], to_f32(v_rows[at][d]), sums[i]);
        }
        __syncthreads(); /* before the next tile's weights */
    }
    float own = 1.0f;
    if (a.sinks) {
        const float sink = a.sinks[h], new_max = fmaxf(max, sink);
        own = expf(max - new_max);
        total = fmaf(total, own, expf(sink - new_max));
    }
    /* A row that sees nothing, as the padding of a captured step, is zero. */
    const float inverse = total > 0.0f ? own / (total * output_scale(a)) : 0.0f;
#pragma unroll
    for (int i = 0; i < V_STEPS; i++) {
        const int d = i * THREADS + t;
        if (d < v_dim)
            store_float(a.out, r * a.out_pitch + h * v_dim + d, a.out_dtype, sums[i] * inverse);
    }
}

template <typename T> static void launch(const spey_attention_args *a, cudaStream_t stream)
{
    const spey_kv_view &kv = a->kv;
    const dim3 grid(static_cast<unsigned>(a->rows), static_cast<unsigned>(a->n_heads));
    const int64_t k_bytes = a->k_dim * static_cast<int64_t>(sizeof(T));
    const int64_t all = kv.block_bytes | kv.k_offset | kv.k_head_bytes | kv.k_token_bytes | k_bytes;
    const attention_problem p = attention_problem_of(a);
    bucket_table buckets = {};
    for (int64_t d = 0; a->relative.bias && d <= a->relative.max_distance; d++)
        buckets.of[d] = static_cast<int16_t>(spey_relative_bucket(&a->relative, a->causal, d));
    if (is_aligned16(kv.base) && all % 16 == 0)
        attend<T, true><<<grid, THREADS, 0, stream>>>(p, buckets);
    else
        attend<T, false><<<grid, THREADS, 0, stream>>>(p, buckets);
}

static bool is_float(spey_dtype dtype)
{
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

static bool is_kv(spey_dtype dtype)
{
    return is_float(dtype) || dtype == SPEY_E4M3 || dtype == SPEY_I8;
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return is_float(a->dtype) && writes_output(a) && is_kv(a->kv.dtype) &&
           a->k_dim <= SPEY_HEAD_DIM_MAX && a->v_dim <= SPEY_HEAD_DIM_MAX &&
           a->n_heads <= UINT16_MAX && a->rows <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_F32) launch<float>(a, spey_cuda_stream(lane));
    if (a->kv.dtype == SPEY_F16) launch<__half>(a, spey_cuda_stream(lane));
    if (a->kv.dtype == SPEY_BF16) launch<__nv_bfloat16>(a, spey_cuda_stream(lane));
    if (a->kv.dtype == SPEY_E4M3) launch<e4m3>(a, spey_cuda_stream(lane));
    if (a->kv.dtype == SPEY_I8) launch<byte8>(a, spey_cuda_stream(lane));
}

extern "C" const spey_kernel spey_attention_sm80;
const spey_kernel spey_attention_sm80 = { "attention/sm80", 0, supports, nullptr, run, false };
