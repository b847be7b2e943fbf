/* glu on sm_80 and later, for F32, F16 and BF16.
 *
 * who       A thread takes 8 columns of a row: two loads in flight, one store.
 * bound by  memory. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/glu/glu.h"

/* Comparisons that leave NaN alone. */
static __device__ __forceinline__ float cut_above(float x, float limit)
{
    return x > limit ? limit : x;
}

static __device__ __forceinline__ float gated(float gate, float up, const spey_glu_args &a)
{
    if (a.limit > 0.0f) {
        gate = cut_above(gate, a.limit);
        up = -cut_above(-cut_above(up, a.limit), a.limit);
    }
    return activate(gate, a.activation) * (up + a.up_offset);
}

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS) glu_rows(const spey_glu_args a)
{
    const int64_t c = my_unit() * 8, left = a.cols - c;
    if (left <= 0) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        float gate[8], up[8];
        if constexpr (PACKED) {
            const raw8 raw_gate = load_raw8(a.gate, a.dtype, r * a.gate_pitch + c, true);
            const raw8 raw_up = load_raw8(a.up, a.dtype, r * a.up_pitch + c, true);
            widen8(raw_gate, a.dtype, gate);
            widen8(raw_up, a.dtype, up);
        } else {
            load8<false>(a.gate, a.dtype, r * a.gate_pitch + c, left, gate);
            load8<false>(a.up, a.dtype, r * a.up_pitch + c, left, up);
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            gate[j] = gated(gate[j], up[j], a);
        store_some8<PACKED>(a.out, a.dtype, r * a.out_pitch + c, left, gate);
    }
}

static bool supports(const void *args)
{
    const auto *a = static_cast<const spey_glu_args *>(args);
    return is_float_16_or_32(a->dtype) && a->out_dtype == a->dtype;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_glu_args *a = static_cast<const spey_glu_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const unit_grid g = grid_of_units(a->rows, (a->cols + 7) / 8);
    const bool packed = a->cols % 8 == 0 && is_packed8(a->gate, a->dtype, a->gate_pitch) &&
                        is_packed8(a->up, a->dtype, a->up_pitch) &&
                        is_packed8(a->out, a->dtype, a->out_pitch);
    if (packed)
        glu_rows<true><<<g.grid, g.block, 0, spey_cuda_stream(lane)>>>(*a);
    else
        glu_rows<false><<<g.grid, g.block, 0, spey_cuda_stream(lane)>>>(*a);
}

extern "C" const spey_kernel spey_glu_sm80;
const spey_kernel spey_glu_sm80 = { "glu/sm80", 0, supports, nullptr, run, false };
