/* attention on Hopper's tensor cores (wgmma), for chunks of 16-bit activations over a cache of the same type or of E4M3,
 * head sizes to 256. Sequences with one token in the step go through the decode kernels of attention/mma_sm80 and
 * attention/mma_e4m3_sm80.
 *
 * who       After FlashAttention-3 (Shah et al., 2024). A CTA an SM stays and takes items: 128 rows of one KV head, rows being
 *           pairs of token and query head, heads first. Two warpgroups have 64 rows each; a third one brings Q, K and V
 *           by cp.async, tiles of 128 tokens (64 with heads of 256) in two stages, through the block table.
 * E4M3      The third warpgroup widens K and V to F16 on their way, and converts Q; products are of F16.
 * overlap   A consumer starts the scores of the next tile and the output of the last one together, then weighs the scores
 *           while the output is computed, and the other consumer's products lie under it. The first scores of
 *           the next item are computed while an item's output is written; its Q was there before (heads to 128).
 *           Items of a short prompt that see one tile alone, the same one, are taken together, and the tile is kept.
 * bound by  wgmma, and for short prompts by the ends of items.
 * bits      A token's bits depend on its own cache alone, but a decoded token gets others: the row varies. */
#include "kernels/attention/attention_rows.cuh"
#include "kernels/attention/attention_wgmma.cuh"

/* Heads beyond ROUNDED_DIM_MAX of a 16-bit cache leave no registers to write E4M3. */
enum { BUNDLE_MAX = 8, ROUNDED_DIM_MAX = 128 };

/* Items that a CTA takes together when they see the same tile: few tiles are brought then, but all CTAs should have as
 * much to do. An item costs about as much as a tile. */
static int bundle_of_items(int64_t items, int ctas)
{
    int best = 1;
    const auto cost = [&](int bundle) {
        return (items + int64_t{ bundle } * ctas - 1) / (int64_t{ bundle } * ctas) * (bundle + 1);
    };
    for (int bundle = 2; bundle <= BUNDLE_MAX; bundle *= 2)
        if (cost(bundle) < cost(best)) best = bundle;
    return best;
}

template <typename X, bool E4M3>
static void launch_as(const spey_attention_args *a, const spey_lane *lane)
{
    const spey_device *device = spey_cuda_device(lane);
    attention_plan plan = plan_of(a);
    plan.no_decode = a->batch->n_seqs == 1 && a->rows > 1; /* two launches less */
    if (!plan.no_decode && X::WIDENS) spey_attention_mma_e4m3_decode(a, lane);
    if (!plan.no_decode && !X::WIDENS) spey_attention_mma_decode(a, lane);
    if (plan.all_decode) return;
    const int64_t tiles = a->rows * plan.group / WGMMA_ROWS + a->batch->n_seqs;
    const int64_t items =
        (a->rows - a->batch->n_seqs) * plan.group / WGMMA_ROWS * a->n_kv_heads; /* about */
    const unsigned grid = least_of(tiles * a->n_kv_heads, device->sms);
    cudaFuncSetAttribute(attend_prefill_wgmma<X, E4M3>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         X::BYTES);
    launch_early(device, { dim3(grid), dim3(WGMMA_THREADS), X::BYTES },
                 attend_prefill_wgmma<X, E4M3>, attention_problem_of(a), plan,
                 bundle_of_items(items, device->sms));
}

template <typename X> static void launch(const spey_attention_args *a, const spey_lane *lane)
{
    if constexpr (X::WIDENS || X::D <= ROUNDED_DIM_MAX)
        if (a->out_dtype == SPEY_E4M3) return launch_as<X, true>(a, lane);
    launch_as<X, false>(a, lane);
}

template <typename T, bool WIDENS>
static void launch_size(const spey_attention_args *a, const spey_lane *lane)
{
    const int64_t d = a->k_dim > a->v_dim ? a->k_dim : a->v_dim;
    if (d <= 64) return launch<wgmma_traits<T, 64, WIDENS>>(a, lane);
    if (d <= 128) return launch<wgmma_traits<T, 128, WIDENS>>(a, lane);
    launch<wgmma_traits<T, 256, WIDENS>>(a, lane);
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    const bool widens = a->kv.dtype == SPEY_E4M3;
    const bool narrow = a->k_dim <= ROUNDED_DIM_MAX && a->v_dim <= ROUNDED_DIM_MAX;
    if (a->out_dtype == SPEY_E4M3 && !widens && !narrow) return false;
    return (a->kv.dtype == a->dtype || widens) && supports_mma(a, widens ? 1 : 2, 256, 256) &&
           a->softcap == 0.0f && !a->alibi_slopes && is_hopper();
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_E4M3) return launch_size<__half, true>(a, lane);
    if (a->kv.dtype == SPEY_F16) return launch_size<__half, false>(a, lane);
    launch_size<__nv_bfloat16, false>(a, lane);
}

extern "C" const spey_kernel spey_attention_wgmma_sm90;
const spey_kernel spey_attention_wgmma_sm90 = {
    "attention/wgmma_sm90", 0, supports, workspace, run, true
};
