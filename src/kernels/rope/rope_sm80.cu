/* rope on sm_80 and later, for F32, F16 and BF16.
 *
 * who       A thread takes 8 pairs of a head, or 8 elements that are only copied.
 * bound by  memory. */
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/rope/rope_rotate.cuh"

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS)
    rope_rows(const spey_rope_args a, int32_t units, int32_t rotated)
{
    const int32_t unit = static_cast<int32_t>(my_unit());
    begin_early();
    if (unit >= units * a.n_heads) return;
    const int64_t column = unit / units * a.head_dim;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        const head_ends h = { a.x,   r * a.x_pitch + column,   a.dtype,
                              a.out, r * a.out_pitch + column, a.dtype,
                              1.0f };
        turn_unit<PACKED>(h, a.pairing, a.table + r * a.rotary_dim, a.rotary_dim, rotated,
                          unit % units);
    }
}

template <bool PACKED> static void launch(const spey_rope_args *a, const spey_device *device)
{
    const int32_t units = units_of<PACKED>(a->head_dim, a->rotary_dim);
    const unit_grid g = grid_of_units(a->rows, units * a->n_heads);
    launch_early(device, shape_of(g), rope_rows<PACKED>, *a, units,
                 rotated_units<PACKED>(a->rotary_dim));
}

static bool supports(const void *args)
{
    const spey_rope_args *a = static_cast<const spey_rope_args *>(args);
    return is_float_16_or_32(a->dtype) && a->n_heads * a->head_dim <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_args *a = static_cast<const spey_rope_args *>(args);
    if (a->rows == 0) return;
    const bool packed = is_packed_head(a->head_dim, a->rotary_dim) && is_aligned16(a->table) &&
                        is_packed8(a->x, a->dtype, a->x_pitch) &&
                        is_packed8(a->out, a->dtype, a->out_pitch);
    if (packed)
        launch<true>(a, spey_cuda_device(lane));
    else
        launch<false>(a, spey_cuda_device(lane));
}

extern "C" const spey_kernel spey_rope_sm80;
const spey_kernel spey_rope_sm80 = { "rope/sm80", 0, supports, nullptr, run, false };
