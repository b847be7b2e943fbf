/* embed on sm_80 and later, tables and results of F32, F16 or BF16.
 *
 * who       A thread takes 8 columns of a token's row.
 * bound by  memory; for a few tokens, by two loads one after the other: the number, then the row. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/embed/embed.h"

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS)
    embed_rows(const spey_embed_args a, const int32_t *numbers)
{
    const int64_t c = my_unit() * 8, left = a.cols - c;
    begin_early();
    if (left <= 0) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        float x[8];
        const int64_t number = numbers[r];
        if (number < 0)
            load8<PACKED>(a.own, SPEY_F32, (-1 - number) * a.cols + c, left, x);
        else
            load8<PACKED>(a.table, a.table_dtype, (number + a.begin) * a.cols + c, left, x);
#pragma unroll
        for (int j = 0; j < 8; j++)
            x[j] *= a.scale;
        store_some8<PACKED>(a.out, a.out_dtype, r * a.out_pitch + c, left, x);
    }
}

static bool supports(const void *args)
{
    const spey_embed_args *a = static_cast<const spey_embed_args *>(args);
    return is_float_16_or_32(a->table_dtype) && is_float_16_or_32(a->out_dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_embed_args *a = static_cast<const spey_embed_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const unit_grid g = grid_of_units(a->rows, (a->cols + 7) / 8);
    const int32_t *numbers = spey_embed_numbers(a);
    const bool packed = a->cols % 8 == 0 && is_aligned16(a->table) && is_aligned16(a->own) &&
                        is_packed8(a->out, a->out_dtype, a->out_pitch);
    launch_early(spey_cuda_device(lane), shape_of(g), packed ? embed_rows<true> : embed_rows<false>,
                 *a, numbers);
}

extern "C" const spey_kernel spey_embed_sm80;
const spey_kernel spey_embed_sm80 = { "embed/sm80", 0, supports, nullptr, run, false };
