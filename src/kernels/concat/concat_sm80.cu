/* concat on sm_80 and later: a copy of bytes, whatever the dtype.
 *
 * who       A thread moves one unit of 16 bytes (4 or 2 where pieces are not aligned) of an output row.
 * bound by  memory. */
#include "kernels/concat/concat.h"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/move.cuh"

/* As the args, in units. */
template <typename U> struct pieces {
    const U *a, *b;
    U *out;
    int64_t rows, a_pitch, b_pitch, out_pitch;
    int32_t units, a_cols, b_cols,
        b_step; /* units of an output row; b's from one head to the next */
};

template <typename U>
static __global__ void __launch_bounds__(UNIT_THREADS) concat_rows(const pieces<U> p)
{
    const int32_t u = static_cast<int32_t>(my_unit());
    begin_early();
    if (u >= p.units) return;
    const int32_t width = p.a_cols + p.b_cols, head = u / width, c = u % width;
    for (int64_t r = first_row(); r < p.rows; r += rows_step()) {
        const U *from = c < p.a_cols ? p.a + r * p.a_pitch + head * p.a_cols + c
                                     : p.b + r * p.b_pitch + head * p.b_step + c - p.a_cols;
        p.out[r * p.out_pitch + u] = *from;
    }
}

template <typename U>
static void launch(const spey_concat_args *a, int64_t bytes, const spey_device *device)
{
    const int64_t size = sizeof(U);
    pieces<U> p;
    p.a = static_cast<const U *>(a->a);
    p.b = static_cast<const U *>(a->b);
    p.out = static_cast<U *>(a->out);
    p.rows = a->rows;
    p.a_pitch = a->a_pitch * bytes / size;
    p.b_pitch = a->b_pitch * bytes / size;
    p.out_pitch = a->out_pitch * bytes / size;
    p.a_cols = static_cast<int32_t>(a->a_cols * bytes / size);
    p.b_cols = static_cast<int32_t>(a->b_cols * bytes / size);
    p.b_step = a->b_shared ? 0 : p.b_cols;
    p.units = static_cast<int32_t>(a->n_heads) * (p.a_cols + p.b_cols);
    const unit_grid g = grid_of_units(a->rows, p.units);
    launch_early(device, shape_of(g), concat_rows<U>, p);
}

static bool supports(const void *args)
{
    const spey_concat_args *a = static_cast<const spey_concat_args *>(args);
    if (a->n_heads * (a->a_cols + a->b_cols) > INT32_MAX) return false;
    return a->dtype == SPEY_F32 || a->dtype == SPEY_F16 || a->dtype == SPEY_BF16;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_concat_args *a = static_cast<const spey_concat_args *>(args);
    if (a->rows == 0 || a->n_heads * (a->a_cols + a->b_cols) == 0) return;
    const int64_t bytes = a->dtype == SPEY_F32 ? 4 : 2;
    const int64_t lengths = a->a_cols | a->b_cols | a->a_pitch | a->b_pitch | a->out_pitch;
    const int unit = common_unit(address_bits(a->a) | address_bits(a->b) | address_bits(a->out) |
                                 static_cast<uint64_t>(lengths * bytes));
    if (unit == 16) launch<uint4>(a, bytes, spey_cuda_device(lane));
    if (unit == 4) launch<uint32_t>(a, bytes, spey_cuda_device(lane));
    if (unit == 2) launch<uint16_t>(a, bytes, spey_cuda_device(lane));
}

extern "C" const spey_kernel spey_concat_sm80;
const spey_kernel spey_concat_sm80 = { "concat/sm80", 0, supports, nullptr, run, false };
