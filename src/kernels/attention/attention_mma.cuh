/* attention on tensor cores (mma.sync): 16-bit activations, head sizes to 256. A .cu file for each kind of cache has its
 * row; this is the body of all.
 *
 * decode    A warp is a CTA and takes an item: 16 query heads of one KV head, one split of the cache. K and V come in
 *           strips of 16 tokens through a ring in shared memory that nobody else uses, so that it never waits for other
 *           warps; 6 to 9 warps an SM have 150 KiB and more in flight. Bound by memory: tensor cores are busy for a tenth
 *           of the time even when 15 of 16 rows are padding.
 * prefill   After FlashAttention-2 (Dao, 2023): 4 warps of 32 rows each, K and V of 64 tokens in two stages, one barrier
 *           a tile. Rows are pairs of token and query head, heads first: a tile on the diagonal wastes few of them, and a
 *           short chunk fills them. Bound by mma.sync, which reaches about 60 % of wgmma's rate on sm_90.
 * bits      Weights are rounded to the type of the products before the second product. A decoded token's bits depend on its own
 *           cache and the limits of the context. A token of a longer chunk does not meet splits: it has the same bits
 *           while its cache is within one split, others beyond. So they vary. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_MMA_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_MMA_CUH

#include "kernels/attention/attention_decode.cuh"
#include "kernels/attention/attention_prefill.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"

static size_t partials(const spey_attention_args *a)
{
    const int64_t split =
        split_tokens_of(a->seqs_max, a->n_heads, a->n_kv_heads, a->v_dim, a->kv_len_max);
    if (a->kv_len_max <= split) return 0; /* no row is cut */
    return static_cast<size_t>(a->seqs_max * a->n_heads * ((a->kv_len_max - 1) / split + 1));
}

static size_t workspace(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return partials(a) * static_cast<size_t>(a->v_dim + 2) * sizeof(float);
}

static attention_plan plan_of(const spey_attention_args *a)
{
    attention_plan plan;
    plan.split_tokens =
        split_tokens_of(a->seqs_max, a->n_heads, a->n_kv_heads, a->v_dim, a->kv_len_max);
    plan.splits_max = static_cast<int>((a->kv_len_max - 1) / plan.split_tokens + 1);
    plan.group = static_cast<int>(a->n_heads / a->n_kv_heads);
    plan.chunks = (plan.group + DECODE_ROWS - 1) / DECODE_ROWS;
    plan.all_decode = a->rows <= a->batch->n_seqs;
    plan.partial = static_cast<float *>(a->workspace);
    plan.partial_max = plan.partial + partials(a) * static_cast<size_t>(a->v_dim);
    plan.partial_sum = plan.partial_max + partials(a);
    return plan;
}

static int sm_count()
{
    int device = 0, n = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device);
    return n;
}

static unsigned least_of(int64_t a, int64_t b)
{
    return static_cast<unsigned>(a < b ? a : b);
}

template <typename X> static void launch(const spey_attention_args *a, const spey_lane *lane)
{
    using D = decode_shape<X>;
    using P = prefill_shape<X>;
    const cudaStream_t stream = spey_cuda_stream(lane);
    const attention_problem p = attention_problem_of(a);
    const attention_plan plan = plan_of(a);
    const int sms = sm_count();
    const int64_t items = int64_t{ p.n_seqs } * a->n_kv_heads * plan.chunks * plan.splits_max;
    const unsigned decode_grid = least_of(items, int64_t{ sms } * D::PER_SM);
    attend_decode<X><<<decode_grid, 32, D::BYTES, stream>>>(p, plan);
    if (a->kv_len_max > plan.split_tokens) {
        const dim3 grid(static_cast<unsigned>(plan.all_decode ? a->rows : p.n_seqs),
                        static_cast<unsigned>(a->n_heads));
        combine<<<grid, COMBINE_THREADS, 0, stream>>>(p, plan);
    }
    if (plan.all_decode) return;
    const int64_t tiles = a->rows * plan.group / P::ROWS + p.n_seqs;
    const unsigned grid = least_of(tiles * a->n_kv_heads, INT32_MAX);
    cudaFuncSetAttribute(attend_prefill<X>, cudaFuncAttributeMaxDynamicSharedMemorySize, P::BYTES);
    attend_prefill<X><<<grid, PREFILL_THREADS, P::BYTES, stream>>>(p, plan);
}

/* Whole chunks of 16 bytes everywhere, whole strips in a block. */
static bool supports_mma(const spey_attention_args *a, int element_bytes)
{
    const spey_kv_view &kv = a->kv;
    if (a->dtype != SPEY_F16 && a->dtype != SPEY_BF16) return false;
    if (a->out_dtype != a->dtype) return false;
    if (a->relative.bias || a->scale <= 0.0f || a->precision != SPEY_PRECISION_16) return false;
    const int64_t bytes = kv.block_bytes | kv.k_offset | kv.v_offset | kv.k_head_bytes |
                          kv.v_head_bytes | kv.k_token_bytes | kv.v_token_bytes |
                          (a->k_dim | a->v_dim) * element_bytes;
    if (bytes % 16 != 0 || (a->q_pitch | a->out_pitch) % 8 != 0) return false;
    if (kv.block_tokens % STRIP_TOKENS != 0 || !is_aligned16(kv.base)) return false;
    if (!is_aligned16(a->q) || !is_aligned16(a->out)) return false;
    return a->k_dim <= 256 && a->v_dim <= 4 * COMBINE_THREADS && a->n_heads <= UINT16_MAX;
}

#endif
