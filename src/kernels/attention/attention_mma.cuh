/* attention on tensor cores (mma.sync): 16-bit activations, head sizes to 256. A .cu file for each kind of cache has its
 * row; this is the body of all.
 *
 * decode    Two or four warps are a CTA and take an item: 8 query heads (or 16) of one KV head, one split of the cache, whose
 *           tiles they share out. K and V come in strips of 16 tokens through a ring in shared memory of each warp's own, so that
 *           it waits for no other until parts are joined; 16 warps an SM have 128 KiB and more in flight. Tokens are the rows
 *           of the products and heads the columns: 8 bits cost 90 to 110 instructions for 2 KiB. Bound by memory. Tried: 12
 *           warps an SM with longer rings, 8 warps an item (5 % slower each).
 * few       With few items (by the limits of a context) a cluster of 2 or 4 CTAs of four warps takes one and shares out its
 *           strips; parts are joined in shared memory, then in that of the cluster. Its time is latency: up to 2,048 tokens
 *           need no splits and no second kernel. Tried: clusters of 8 (a step of an 8B model is 0.5 % slower); strips
 *           of earlier steps fetched before the kernel before has ended (0.2 % faster).
 * prefill   After FlashAttention-2 (Dao, 2023): 4 warps of 32 rows each, K and V of 64 tokens in two stages, one barrier
 *           a tile. Rows are pairs of token and query head, heads first: a tile on the diagonal wastes few of them, and a
 *           short chunk fills them. Bound by mma.sync, which reaches about 60 % of wgmma's rate on sm_90.
 * bits      Weights are rounded to the type of the products before the second product. A decoded token's bits depend on its own
 *           cache and the limits of the context. A token of a longer chunk meets neither splits nor warps that share its
 *           tiles: its bits differ. So they vary. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_MMA_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_MMA_CUH

#include "kernels/attention/attention_combine.cuh"
#include "kernels/attention/attention_decode.cuh"
#include "kernels/attention/attention_prefill.cuh"
#include "kernels/attention/attention_rows.cuh"

template <typename X, int NT, bool FEW>
static void launch_decode_items(const spey_attention_args *a, const attention_plan &plan,
                                const spey_lane *lane)
{
    using S = decode_shape<X, NT, FEW>;
    const spey_device *device = spey_cuda_device(lane);
    const int64_t items =
        int64_t{ a->batch->n_seqs } * a->n_kv_heads * plan.chunks * plan.splits_max;
    const unsigned cluster = FEW ? static_cast<unsigned>(plan.cluster) : 1;
    const unsigned grid = least_of(items, int64_t{ device->sms } * S::CTAS / cluster) * cluster;
    cudaFuncSetAttribute(attend_decode<X, NT, FEW>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         S::BYTES);
    launch_clusters(device, { dim3(grid), dim3(S::THREADS), S::BYTES }, cluster,
                    attend_decode<X, NT, FEW>, attention_problem_of(a), plan);
}

template <typename X, int NT>
static void launch_decode_heads(const spey_attention_args *a, const attention_plan &plan,
                                const spey_lane *lane)
{
    if (plan.few_items)
        launch_decode_items<X, NT, true>(a, plan, lane);
    else
        launch_decode_items<X, NT, false>(a, plan, lane);
}

template <typename X> static void launch_decode(const spey_attention_args *a, const spey_lane *lane)
{
    const attention_plan plan = plan_of(a);
    if (plan.item_heads == 8) launch_decode_heads<X, 1>(a, plan, lane);
    if constexpr (X::D <= 128)
        if (plan.item_heads > 8) launch_decode_heads<X, 2>(a, plan, lane);
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
