/* rope_append on sm_80 and later: rows of F32, F16 or BF16, caches of these or E4M3.
 *
 * who       A thread takes 8 pairs of a head of Q or K, or 8 elements that are only copied (V, and what does not rotate).
 * moves     The fused row in once, queries and the cache's slots out once; tables come from L2.
 * bound by  memory; for a few tokens, by the chain token → sequence → block → slot. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/paged.cuh"
#include "kernels/rope/rope_rotate.cuh"

/* How heads are cut: units of a head that may rotate and of a V head, and how many of the former rotate. */
struct head_cut {
    int32_t units, v_units, rotated;
};

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS)
    rope_append_rows(const spey_rope_append_args a, const spey_ragged batch, const head_cut cut)
{
    const int32_t unit = static_cast<int32_t>(my_unit());
    const int32_t turned = static_cast<int32_t>(a.n_heads + a.n_kv_heads) * cut.units;
    if (unit >= turned + static_cast<int32_t>(a.n_kv_heads) * cut.v_units) return;
    const bool is_v = unit >= turned;
    const int32_t head = is_v ? (unit - turned) / cut.v_units : unit / cut.units;
    const int32_t u = is_v ? (unit - turned) % cut.v_units : unit % cut.units;
    const bool is_q = !is_v && head < a.n_heads;
    const int64_t heads_before = is_v ? a.n_heads + a.n_kv_heads + head : head;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        head_ends h = { a.qkv,   r * a.qkv_pitch + heads_before * a.head_dim, a.dtype,
                        a.q_out, r * a.q_pitch + head * a.head_dim,           a.dtype,
                        1.0f };
        if (!is_q) {
            const kv_slot slot = slot_of(a.kv, batch, place_of_token(batch, r));
            h.out = is_v ? slot_v(a.kv, slot, head) : slot_k(a.kv, slot, head - a.n_heads);
            h.out_at = 0;
            h.out_dtype = a.kv.dtype;
            h.inverse = is_v ? inverse_scale(a.kv.v_scale, head)
                             : inverse_scale(a.kv.k_scale, head - a.n_heads);
        }
        if (is_v)
            copy_unit<PACKED>(h, static_cast<int64_t>(u) * unit_pairs<PACKED>());
        else
            turn_unit<PACKED>(h, a.pairing, a.table + r * a.rotary_dim, a.rotary_dim, cut.rotated,
                              u);
    }
}

template <bool PACKED> static void launch(const spey_rope_append_args *a, cudaStream_t stream)
{
    const head_cut cut = { units_of<PACKED>(a->head_dim, a->rotary_dim),
                           units_of<PACKED>(a->head_dim, 0), rotated_units<PACKED>(a->rotary_dim) };
    const int64_t units = (a->n_heads + a->n_kv_heads) * cut.units + a->n_kv_heads * cut.v_units;
    const unit_grid g = grid_of_units(a->rows, units);
    rope_append_rows<PACKED><<<g.grid, g.block, 0, stream>>>(*a, *a->batch, cut);
}

static bool supports(const void *args)
{
    const spey_rope_append_args *a = static_cast<const spey_rope_append_args *>(args);
    return is_float_16_or_32(a->dtype) && is_cache_element(a->kv.dtype) &&
           (a->n_heads + 2 * a->n_kv_heads) * a->head_dim <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_append_args *a = static_cast<const spey_rope_append_args *>(args);
    if (a->rows == 0) return;
    const bool packed = is_packed_head(a->head_dim, a->rotary_dim) && is_aligned16(a->table) &&
                        is_aligned16(&a->kv) && is_packed8(a->qkv, a->dtype, a->qkv_pitch) &&
                        is_packed8(a->q_out, a->dtype, a->q_pitch);
    if (packed)
        launch<true>(a, spey_cuda_stream(lane));
    else
        launch<false>(a, spey_cuda_stream(lane));
}

extern "C" const spey_kernel spey_rope_append_sm80;
const spey_kernel spey_rope_append_sm80 = { "rope_append/sm80", 0, supports, nullptr, run, false };
