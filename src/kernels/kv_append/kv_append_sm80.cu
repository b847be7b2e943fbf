/* kv_append on sm_80 and later: rows of F32, F16 or BF16, caches of these, E4M3 or I8.
 *
 * who       A thread moves 8 elements of a head. I8: a warp has a head, for the scale is its largest element.
 * bound by  memory; for a few tokens, by the chain token → sequence → block → slot. */
#include "kernels/cuda/cache_element.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/paged.cuh"
#include "kernels/kv_append/kv_append.h"
#include "kernels/kv_append/kv_append_i8.cuh"

/* Units of a K and of a V head, PACKED: of 8 elements, else of one. */
template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS)
    kv_append_rows(const spey_kv_append_args a, const spey_ragged batch, int32_t k_units,
                   int32_t v_units)
{
    constexpr int N = PACKED ? 8 : 1;
    const int32_t heads = static_cast<int32_t>(a.n_heads), all_k = heads * k_units;
    const int32_t unit = static_cast<int32_t>(my_unit());
    if (unit >= all_k + heads * v_units) return;
    const bool is_v = unit >= all_k;
    const int32_t head = is_v ? (unit - all_k) / v_units : unit / k_units;
    const int64_t first =
        static_cast<int64_t>(is_v ? (unit - all_k) % v_units : unit % k_units) * N;
    const float inverse = inverse_scale(is_v ? a.kv.v_scale : a.kv.k_scale, head);
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        const kv_slot slot = slot_of(a.kv, batch, place_of_token(batch, r));
        const void *from = is_v ? a.v : a.k;
        const int64_t at = is_v ? r * a.v_pitch + head * a.v_dim : r * a.k_pitch + head * a.k_dim;
        void *to = is_v ? slot_v(a.kv, slot, head) : slot_k(a.kv, slot, head);
        if constexpr (PACKED) {
            float x[8];
            load8<true>(from, a.dtype, at + first, 8, x);
            cache_store8(to, a.kv.dtype, first, inverse, x);
        } else {
            cache_store(to, a.kv.dtype, first, inverse, load_any(from, a.dtype, at + first));
        }
    }
}

template <bool PACKED> static void launch(const spey_kv_append_args *a, cudaStream_t stream)
{
    const int n = PACKED ? 8 : 1;
    const int32_t k_units = static_cast<int32_t>(a->k_dim / n);
    const int32_t v_units = static_cast<int32_t>(a->v_dim / n);
    const unit_grid g = grid_of_units(a->rows, a->n_heads * (k_units + v_units));
    kv_append_rows<PACKED><<<g.grid, g.block, 0, stream>>>(*a, *a->batch, k_units, v_units);
}

static __global__ void __launch_bounds__(I8_WARPS * 32)
    kv_append_i8_heads(const spey_kv_append_args a, const spey_ragged batch)
{
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * I8_WARPS + threadIdx.x / 32;
    const bool is_v = unit >= a.n_heads;
    const int64_t head = is_v ? unit - a.n_heads : unit;
    if (head >= a.n_heads) return;
    for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
        const token_place place = place_of_token(batch, r);
        const kv_slot slot = slot_of(a.kv, batch, place);
        const int64_t dim = is_v ? a.v_dim : a.k_dim;
        const int64_t at = r * (is_v ? a.v_pitch : a.k_pitch) + head * dim;
        const auto value = [&](int i) { return load_any(is_v ? a.v : a.k, a.dtype, at + i); };
        store_i8_head(
            static_cast<int8_t *>(is_v ? slot_v(a.kv, slot, head) : slot_k(a.kv, slot, head)),
            token_scale(a.kv, batch, place, is_v ? a.kv.v_scales : a.kv.k_scales, head),
            static_cast<int>(dim), value);
    }
}

static bool supports(const void *args)
{
    const spey_kv_append_args *a = static_cast<const spey_kv_append_args *>(args);
    return is_float_16_or_32(a->dtype) &&
           (is_cache_element(a->kv.dtype) || a->kv.dtype == SPEY_I8) &&
           a->n_heads * (a->k_dim + a->v_dim) <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_kv_append_args *a = static_cast<const spey_kv_append_args *>(args);
    if (a->rows == 0) return;
    if (a->kv.dtype == SPEY_I8) {
        kv_append_i8_heads<<<i8_grid(a->rows, a->n_heads), I8_WARPS * 32, 0,
                             spey_cuda_stream(lane)>>>(*a, *a->batch);
        return;
    }
    const bool packed = a->k_dim % 8 == 0 && a->v_dim % 8 == 0 && is_aligned16(&a->kv) &&
                        is_packed8(a->k, a->dtype, a->k_pitch) &&
                        is_packed8(a->v, a->dtype, a->v_pitch);
    if (packed)
        launch<true>(a, spey_cuda_stream(lane));
    else
        launch<false>(a, spey_cuda_stream(lane));
}

extern "C" const spey_kernel spey_kv_append_sm80;
const spey_kernel spey_kv_append_sm80 = { "kv_append/sm80", 0, supports, nullptr, run, false };
