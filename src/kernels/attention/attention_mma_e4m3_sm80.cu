/* attention on tensor cores over a cache of E4M3, which F16 holds exactly. See attention_mma.cuh. */
#include "kernels/attention/attention_mma.cuh"

extern "C" void spey_attention_mma_e4m3_decode(const spey_attention_args *a, const spey_lane *lane)
{
    if (a->rows == 0) return;
    if (a->k_dim <= 128 && a->v_dim <= 128)
        launch_decode<tile_traits<__half, 128, SPEY_E4M3>>(a, lane);
    else
        launch_decode<tile_traits<__half, 256, SPEY_E4M3>>(a, lane);
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return a->kv.dtype == SPEY_E4M3 && supports_mma(a, 1, 256, 256);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->k_dim <= 128 && a->v_dim <= 128)
        launch<tile_traits<__half, 128, SPEY_E4M3>>(a, lane);
    else
        launch<tile_traits<__half, 256, SPEY_E4M3>>(a, lane);
}

extern "C" const spey_kernel spey_attention_mma_e4m3_sm80;
const spey_kernel spey_attention_mma_e4m3_sm80 = {
    "attention/mma_e4m3_sm80", 0, supports, workspace, run, true
};
