/* attention with heads wider than 256, as latent attention (MLA) has them: K to 576, V to 512, on tensor cores (mma.sync);
 * 16-bit activations over a cache of the same type. Nothing but its shared memory (216 KiB) ties it to Hopper.
 *
 * who       A CTA an SM takes items: 64 rows of one KV head (16 when a token has no more), rows being pairs of token and query
 *           head; decoded tokens are cut into splits of the cache as attention_mma.cuh has it. Eight warps share the
 *           scores of 64 tokens, give their weights to each other through shared memory, and each has 64 columns
 *           of the output.
 * moves     K and V of a tile once for 64 rows; one of them is always on its way.
 * bound by  memory when 64 or fewer heads share K and V; with more, by shared memory's rate.
 * bits      As attention/mma_sm80's: decoded tokens meet splits, others do not, so they vary. */
#include "kernels/attention/attention_combine.cuh"
#include "kernels/attention/attention_latent.cuh"
#include "kernels/attention/attention_rows.cuh"

template <typename X, bool DECODE>
static void launch_items(const spey_attention_args *a, const attention_plan &plan, int64_t items,
                         const spey_lane *lane)
{
    cudaFuncSetAttribute(attend_latent<X, DECODE>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         X::BYTES);
    attend_latent<X, DECODE><<<least_of(items * a->n_kv_heads, sm_count()), LATENT_THREADS,
                               X::BYTES, spey_cuda_stream(lane)>>>(attention_problem_of(a), plan);
}

template <typename T> static void launch(const spey_attention_args *a, const spey_lane *lane)
{
    const attention_plan plan = plan_of(a);
    const int64_t n_seqs = a->batch->n_seqs, splits = n_seqs * plan.splits_max;
    if (plan.group <= 16)
        launch_items<latent_traits<T, 16>, true>(a, plan, splits, lane);
    else
        launch_items<latent_traits<T, 64>, true>(a, plan, splits * ((plan.group + 63) / 64), lane);
    launch_combine<4>(a, plan, lane);
    if (plan.all_decode) return;
    launch_items<latent_traits<T, 64>, false>(a, plan, a->rows * plan.group / 64 + n_seqs, lane);
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return a->kv.dtype == a->dtype && supports_mma(a, 2, LATENT_K, LATENT_V) && is_hopper();
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_F16) launch<__half>(a, lane);
    if (a->kv.dtype == SPEY_BF16) launch<__nv_bfloat16>(a, lane);
}

extern "C" const spey_kernel spey_attention_latent_sm90;
const spey_kernel spey_attention_latent_sm90 = {
    "attention/latent_sm90", 0, supports, workspace, run, true
};
