/* add on sm_80 and later, any mixture of F32, F16 and BF16.
 *
 * who       A thread takes 8 columns of a row: two loads in flight, one store.
 * bound by  memory; for a few rows, by its launch. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/elementwise/elementwise.h"

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS) add_rows(const spey_add_args a)
{
    const int64_t c = my_unit() * 8, left = a.cols - c;
    begin_early();
    if (left <= 0) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        float x[8], y[8];
        if constexpr (PACKED) {
            const raw8 raw_x = load_raw8(a.a, a.a_dtype, r * a.a_pitch + c, true);
            const raw8 raw_y = load_raw8(a.b, a.b_dtype, r * a.b_pitch + c, true);
            widen8(raw_x, a.a_dtype, x);
            widen8(raw_y, a.b_dtype, y);
        } else {
            load8<false>(a.a, a.a_dtype, r * a.a_pitch + c, left, x);
            load8<false>(a.b, a.b_dtype, r * a.b_pitch + c, left, y);
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            x[j] = fmaf(a.scale, y[j], x[j]);
        store_some8<PACKED>(a.out, a.out_dtype, r * a.out_pitch + c, left, x);
    }
}

static bool supports(const void *args)
{
    const spey_add_args *a = static_cast<const spey_add_args *>(args);
    return is_float_16_or_32(a->a_dtype) && is_float_16_or_32(a->b_dtype) &&
           is_float_16_or_32(a->out_dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_add_args *a = static_cast<const spey_add_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const unit_grid g = grid_of_units(a->rows, (a->cols + 7) / 8);
    const bool packed = a->cols % 8 == 0 && is_packed8(a->a, a->a_dtype, a->a_pitch) &&
                        is_packed8(a->b, a->b_dtype, a->b_pitch) &&
                        is_packed8(a->out, a->out_dtype, a->out_pitch);
    launch_early(spey_cuda_device(lane), shape_of(g), packed ? add_rows<true> : add_rows<false>,
                 *a);
}

extern "C" const spey_kernel spey_add_sm80;
const spey_kernel spey_add_sm80 = { "add/sm80", 0, supports, nullptr, run, false };
