/* attention on tensor cores over a cache of I8, whose elements BF16 holds exactly: K's scales multiply scores, V's weights. See
 * attention_mma.cuh. */
#include "kernels/attention/attention_mma.cuh"

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return a->kv.dtype == SPEY_I8 && supports_mma(a, 1, 256, 256);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    if (a->rows == 0) return;
    if (a->k_dim <= 128 && a->v_dim <= 128)
        launch<tile_traits<__nv_bfloat16, 128, SPEY_I8>>(a, lane);
    else
        launch<tile_traits<__nv_bfloat16, 256, SPEY_I8>>(a, lane);
}

extern "C" const spey_kernel spey_attention_mma_i8_sm80;
const spey_kernel spey_attention_mma_i8_sm80 = {
    "attention/mma_i8_sm80", 0, supports, workspace, run, true
};
