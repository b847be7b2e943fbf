/* rope_table on sm_80 and later.
 *
 * who       A thread computes one angle of one token.
 * bound by  arithmetic in double, a microsecond for a decode step's tokens; once per step.
 *
 * The angle is a float below 2^27. It is reduced by multiples of π/2 in two pieces with FMA, which leaves an error of some
 * 2^-53, and sin and cos of the rest are Taylor series in double: their first omitted terms, r^15/15! and r^16/16! at
 * r = π/4, are 2^-45 and less. The library's sincos would do, but has a path with local memory. */
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/rope/rope.h"

static __device__ __forceinline__ double sine_near_zero(double r)
{
    const double s = r * r;
    double p = 1.0 / 6227020800.0;
    p = fma(p, s, -1.0 / 39916800.0);
    p = fma(p, s, 1.0 / 362880.0);
    p = fma(p, s, -1.0 / 5040.0);
    p = fma(p, s, 1.0 / 120.0);
    p = fma(p, s, -1.0 / 6.0);
    return fma(p * s, r, r);
}

static __device__ __forceinline__ double cosine_near_zero(double r)
{
    const double s = r * r;
    double p = -1.0 / 87178291200.0;
    p = fma(p, s, 1.0 / 479001600.0);
    p = fma(p, s, -1.0 / 3628800.0);
    p = fma(p, s, 1.0 / 40320.0);
    p = fma(p, s, -1.0 / 720.0);
    p = fma(p, s, 1.0 / 24.0);
    p = fma(p, s, -0.5);
    return fma(p, s, 1.0);
}

static __device__ __forceinline__ void sine_cosine(float angle, double *sine, double *cosine)
{
    const double half_pi_high = 1.57079632679489655800e+00,
                 half_pi_low = 6.12323399573676603587e-17;
    const double x = angle, turns = rint(x * 6.36619772367581382433e-01);
    const double r = fma(-turns, half_pi_low, fma(-turns, half_pi_high, x));
    const double s = sine_near_zero(r), c = cosine_near_zero(r);
    const int quadrant = static_cast<int>(turns) & 3;
    const double swapped_s = quadrant & 1 ? c : s, swapped_c = quadrant & 1 ? s : c;
    *sine = quadrant & 2 ? -swapped_s : swapped_s;
    *cosine = (quadrant + 1) & 2 ? -swapped_c : swapped_c;
}

/* Rounded to FP32, as the frequencies in a table are. */
static __device__ __forceinline__ float frequency(const spey_rope_table_args &a, int32_t kv_len,
                                                  int64_t i)
{
    if (a.dynamic_factor > 0.0 && kv_len > a.original_positions) {
        const double dim = static_cast<double>(2 * a.half);
        const double ratio = kv_len / static_cast<double>(a.original_positions);
        const double growth = a.dynamic_factor * ratio - (a.dynamic_factor - 1.0);
        const double base = a.base * pow(growth, dim / (dim - 2.0));
        return static_cast<float>(pow(base, -static_cast<double>(i) / static_cast<double>(a.half)));
    }
    return a.inv_freq_long && kv_len > a.long_from ? a.inv_freq_long[i] : a.inv_freq[i];
}

static __global__ void __launch_bounds__(UNIT_THREADS)
    rope_table_rows(const spey_rope_table_args a, const spey_ragged batch)
{
    const int64_t i = my_unit();
    begin_early();
    if (i >= a.half) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        const int32_t kv_len = batch.kv_len[batch.token_seq[r]];
        const float angle = static_cast<float>(batch.positions[r]) * frequency(a, kv_len, i);
        double sine, cosine;
        sine_cosine(angle, &sine, &cosine);
        float *out = a.table + r * 2 * a.half;
        out[i] = static_cast<float>(cosine * a.magnitude);
        out[a.half + i] = static_cast<float>(sine * a.magnitude);
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_table_args *a = static_cast<const spey_rope_table_args *>(args);
    if (a->rows == 0 || a->half == 0) return;
    const unit_grid g = grid_of_units(a->rows, a->half);
    launch_early(spey_cuda_device(lane), shape_of(g), rope_table_rows, *a, *a->batch);
}

extern "C" const spey_kernel spey_rope_table_sm80;
const spey_kernel spey_rope_table_sm80 = { "rope_table/sm80", 0, nullptr, nullptr, run, false };
