/* gather on sm_80 and later: a copy of bytes, whatever the dtype.
 *
 * who       A thread moves one unit of 16 bytes (4 or 2 where rows are not aligned) of a row.
 * bound by  memory; it is as small as the outputs are few. */
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/move.cuh"
#include "kernels/gather/gather.h"

/* Pitches and cols in units. */
template <typename U>
static __global__ void __launch_bounds__(UNIT_THREADS)
    gather_rows(const U *x, int64_t x_pitch, U *out, int64_t out_pitch, int64_t rows, int64_t cols,
                const int32_t *output_rows)
{
    const int64_t c = my_unit();
    begin_early();
    if (c >= cols) return;
    for (int64_t r = first_row(); r < rows; r += rows_step())
        out[r * out_pitch + c] = x[output_rows[r] * x_pitch + c];
}

template <typename U>
static void launch(const spey_gather_args *a, int64_t bytes, const spey_device *device)
{
    const int64_t size = sizeof(U), cols = a->cols * bytes / size;
    const unit_grid g = grid_of_units(a->rows, cols);
    launch_early(device, shape_of(g), gather_rows<U>, static_cast<const U *>(a->x),
                 a->x_pitch * bytes / size, static_cast<U *>(a->out), a->out_pitch * bytes / size,
                 a->rows, cols, a->batch->output_rows);
}

static bool supports(const void *args)
{
    const spey_dtype dtype = static_cast<const spey_gather_args *>(args)->dtype;
    return dtype == SPEY_F32 || dtype == SPEY_F16 || dtype == SPEY_BF16;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_gather_args *a = static_cast<const spey_gather_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const int64_t bytes = a->dtype == SPEY_F32 ? 4 : 2;
    const int unit =
        common_unit(address_bits(a->x) | address_bits(a->out) |
                    static_cast<uint64_t>((a->cols | a->x_pitch | a->out_pitch) * bytes));
    if (unit == 16) launch<uint4>(a, bytes, spey_cuda_device(lane));
    if (unit == 4) launch<uint32_t>(a, bytes, spey_cuda_device(lane));
    if (unit == 2) launch<uint16_t>(a, bytes, spey_cuda_device(lane));
}

extern "C" const spey_kernel spey_gather_sm80;
const spey_kernel spey_gather_sm80 = { "gather/sm80", 0, supports, nullptr, run, false };
