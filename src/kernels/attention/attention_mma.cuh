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

#include "kernels/attention/attention_combine.cuh"
#include "kernels/attention/attention_decode.cuh"
#include "kernels/attention/attention_prefill.cuh"
#include "kernels/attention/attention_rows.cuh"

template <typename X> static void launch_decode(const spey_attention_args *a, const spey_lane *lane)
{
    using D = decode_shape<X>;
    const spey_device *device = spey_cuda_device(lane);
    const attention_problem p = attention_problem_of(a);
    const attention_plan plan = plan_of(a);
    const int64_t items = int64_t{ p.n_seqs } * a->n_kv_heads * plan.chunks * plan.splits_max;
    const unsigned decode_grid = least_of(items, int64_t{ device->sms } * D::PER_SM);
    launch_early(device, { dim3(decode_grid), dim3(32), D::BYTES }, attend_decode<X>, p, plan);
    launch_combine<2>(a, plan, lane);
}

template <typename X> static void launch(const spey_attention_args *a, const spey_lane *lane)
{
    using P = prefill_shape<X>;
    const attention_plan plan = plan_of(a);
    launch_decode<X>(a, lane);
    if (plan.all_decode) return;
    const int64_t tiles = a->rows * plan.group / P::ROWS + a->batch->n_seqs;
    const unsigned grid = least_of(tiles * a->n_kv_heads, INT32_MAX);
    cudaFuncSetAttribute(attend_prefill<X>, cudaFuncAttributeMaxDynamicSharedMemorySize, P::BYTES);
    attend_prefill<X><<<grid, PREFILL_THREADS, P::BYTES, spey_cuda_stream(lane)>>>(
        attention_problem_of(a), plan);
}

#endif
