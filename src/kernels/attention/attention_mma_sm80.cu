/* attention on tensor cores over a cache of F16 or BF16, as the activations are. See attention_mma.cuh. */
#include "kernels/attention/attention_mma.cuh"

template <typename T, spey_dtype KV>
static void launch_size(const spey_attention_args *a, const spey_lane *lane)
{
    const int64_t d = a->k_dim > a->v_dim ? a->k_dim : a->v_dim;
    if (d <= 64) return launch<tile_traits<T, 64, KV>>(a, lane);
    if (d <= 128) return launch<tile_traits<T, 128, KV>>(a, lane);
    launch<tile_traits<T, 256, KV>>(a, lane);
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return a->kv.dtype == a->dtype && supports_mma(a, 2);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_F16) launch_size<__half, SPEY_F16>(a, lane);
    if (a->kv.dtype == SPEY_BF16) launch_size<__nv_bfloat16, SPEY_BF16>(a, lane);
}

extern "C" const spey_kernel spey_attention_mma_sm80;
const spey_kernel spey_attention_mma_sm80 = {
    "attention/mma_sm80", 0, supports, workspace, run, true
};
