/* unary on sm_80 and later, for F32, F16 and BF16.
 *
 * who       A thread takes 8 columns of a row.
 * bound by  memory; activations with an exp stay under it. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/elementwise/elementwise.h"

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS) unary_rows(const spey_unary_args a)
{
    const int64_t c = my_unit() * 8, left = a.cols - c;
    begin_early();
    if (left <= 0) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        float x[8];
        load8<PACKED>(a.x, a.dtype, r * a.x_pitch + c, left, x);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            x[j] = activate(x[j] * a.scale, a.activation);
            if (a.softcap > 0.0f) x[j] = a.softcap * tanhf(x[j] / a.softcap);
        }
        store_some8<PACKED>(a.out, a.dtype, r * a.out_pitch + c, left, x);
    }
}

static bool supports(const void *args)
{
    return is_float_16_or_32(static_cast<const spey_unary_args *>(args)->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_unary_args *a = static_cast<const spey_unary_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const unit_grid g = grid_of_units(a->rows, (a->cols + 7) / 8);
    const bool packed = a->cols % 8 == 0 && is_packed8(a->x, a->dtype, a->x_pitch) &&
                        is_packed8(a->out, a->dtype, a->out_pitch);
    launch_early(spey_cuda_device(lane), shape_of(g), packed ? unary_rows<true> : unary_rows<false>,
                 *a);
}

extern "C" const spey_kernel spey_unary_sm80;
const spey_kernel spey_unary_sm80 = { "unary/sm80", 0, supports, nullptr, run, false };
