/* attention on tensor cores over a cache of F16 or BF16, as the activations are. See attention_mma.cuh. */
#include "kernels/attention/attention_mma.cuh"

/* Only the decode part, or all. */
template <bool DECODE, typename T, spey_dtype KV>
static void launch_size(const spey_attention_args *a, const spey_lane *lane)
{
    const int64_t d = a->k_dim > a->v_dim ? a->k_dim : a->v_dim;
    const auto start = [&](auto traits) {
        using X = decltype(traits);
        if constexpr (DECODE)
            launch_decode<X>(a, lane);
        else
            launch<X>(a, lane);
    };
    if (d <= 64) return start(tile_traits<T, 64, KV>());
    if (d <= 128) return start(tile_traits<T, 128, KV>());
    start(tile_traits<T, 256, KV>());
}

template <bool DECODE> static void launch_type(const spey_attention_args *a, const spey_lane *lane)
{
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_F16) launch_size<DECODE, __half, SPEY_F16>(a, lane);
    if (a->kv.dtype == SPEY_BF16) launch_size<DECODE, __nv_bfloat16, SPEY_BF16>(a, lane);
}

extern "C" void spey_attention_mma_decode(const spey_attention_args *a, const spey_lane *lane)
{
    launch_type<true>(a, lane);
}

static bool supports(const void *args)
{
    const spey_attention_args *a = static_cast<const spey_attention_args *>(args);
    return a->kv.dtype == a->dtype && supports_mma(a, 2, 256, 256);
}

static void run(const void *args, const spey_lane *lane)
{
    launch_type<false>(static_cast<const spey_attention_args *>(args), lane);
}

extern "C" const spey_kernel spey_attention_mma_sm80;
const spey_kernel spey_attention_mma_sm80 = {
    "attention/mma_sm80", 0, supports, workspace, run, true
};
