/* attention on Hopper's tensor cores (wgmma), for chunks of 16-bit activations over a cache of the same type, head sizes to
 * 256. Sequences with one token in the step go through the decode kernels of attention/mma_sm80.
 *
 * who       After FlashAttention-3 (Shah et al., 2024). A CTA an SM stays and takes items: 128 rows of one KV head, rows being
 *           pairs of token and query head, heads first. Two warpgroups have 64 rows each; a third one brings Q, K and V
 *           by cp.async, tiles of 128 tokens (64 with heads of 256) in two stages, through the block table.
 * overlap   A consumer starts the scores of the next tile and the output of the last one together, then weighs the scores
 *           while the output is computed, and the other consumer's products lie under it. The first scores of
 *           the next item are computed while an item's output is written.
 * bound by  wgmma, and for short prompts by the ends of items.
 * bits      A token's bits depend on its own cache alone, but a decoded token gets others: the row varies. */
#include "kernels/attention/attention_rows.cuh"
#include "kernels/attention/attention_wgmma.cuh"

template <typename X> static void launch(const spey_attention_args *a, const spey_lane *lane)
{
    attention_plan plan = plan_of(a);
    plan.no_decode = a->batch->n_seqs == 1 && a->rows > 1; /* two launches less */
    if (!plan.no_decode) spey_attention_mma_decode(a, lane);
    if (plan.all_decode) return;
    const int64_t tiles = a->rows * plan.group / WGMMA_ROWS + a->batch->n_seqs;
    const unsigned grid = least_of(tiles * a->n_kv_heads, sm_count());
    cudaFuncSetAttribute(attend_prefill_wgmma<X>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         X::BYTES);
    attend_prefill_wgmma<X>
        <<<grid, WGMMA_THREADS, X::BYTES, spey_cuda_stream(lane)>>>(attention_problem_of(a), plan);
}

template <typename T> static void launch_size(const spey_attention_args *a, const spey_lane *lane)
{
    const int64_t d = a->k_dim > a->v_dim ? a->k_dim : a->v_dim;
    if (d <= 64) return launch<wgmma_traits<T, 64>>(a, lane);
    if (d <= 128) return launch<wgmma_traits<T, 128>>(a, lane);
    launch<wgmma_traits<T, 256>>(a, lane);
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return a->kv.dtype == a->dtype && supports_mma(a, 2, 256, 256) && a->softcap == 0.0f &&
           !a->alibi_slopes && is_hopper();
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_F16) launch_size<__half>(a, lane);
    if (a->kv.dtype == SPEY_BF16) launch_size<__nv_bfloat16>(a, lane);
}

extern "C" const spey_kernel spey_attention_wgmma_sm90;
const spey_kernel spey_attention_wgmma_sm90 = {
    "attention/wgmma_sm90", 0, supports, workspace, run, true
};
