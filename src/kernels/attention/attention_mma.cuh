/* attention on tensor cores (mma.sync): 16-bit activations, head sizes to 256. A .cu file for each kind of cache has its
 * row; this is the body of all.
 *
 * decode    Two or four warps are a CTA and take an item: 8 query heads (or 16) of one KV head, one split of the cache, whose
 *           tiles they share out. K and V come in strips of 16 tokens through a ring in shared memory of each warp's own, so that
 *           it waits for no other until parts are joined; 16 warps an SM have 128 KiB and more in flight. Tokens are the rows
 *           of the products and heads the columns: 8 bits cost 90 to 110 instructions for 2 KiB. Bound by memory. Tried: 12
 *           warps an SM with longer rings, 8 warps an item (5 % slower each).
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

template <typename X, int NT>
static void launch_decode_items(const spey_attention_args *a, const attention_plan &plan,
                                const spey_lane *lane)
{
    using S = decode_shape<X, NT>;
    const spey_device *device = spey_cuda_device(lane);
    const int64_t items =
        int64_t{ a->batch->n_seqs } * a->n_kv_heads * plan.chunks * plan.splits_max;
    const unsigned grid = least_of(items, int64_t{ device->sms } * S::CTAS);
    cudaFuncSetAttribute(attend_decode<X, NT>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         S::BYTES);
    launch_early(device, { dim3(grid), dim3(S::THREADS), S::BYTES }, attend_decode<X, NT>,
                 attention_problem_of(a), plan);
}

template <typename X> static void launch_decode(const spey_attention_args *a, const spey_lane *lane)
{
    const attention_plan plan = plan_of(a);
    bool wide = false; /* 16 heads an item */
    if constexpr (X::D <= 128) wide = plan.item_heads > 8;
    if constexpr (X::D <= 128)
        if (wide) launch_decode_items<X, 2>(a, plan, lane);
    if (!wide) launch_decode_items<X, 1>(a, plan, lane);
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
