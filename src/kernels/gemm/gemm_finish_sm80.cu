/* What a library GEMM leaves to do: scales, bias, activation and rounding after it, another type of x before it.
 *
 * who       A CTA takes TILE columns of rows blockIdx.y, blockIdx.y + gridDim.y, …; a thread takes 8 columns.
 * moves     Each matrix once. The scratch of sums is sized (gemm_cublaslt.c) so that it mostly stays in L2.
 * bound by  memory, or its launch for few rows. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/gemm/gemm_finish.h"

enum { THREADS = 256, TILE = 8 * THREADS };
static const int64_t grid_rows_max = 65535;

static dim3 grid_of(int64_t rows, int64_t cols)
{
    return dim3(static_cast<unsigned>((cols + TILE - 1) / TILE),
                static_cast<unsigned>(rows < grid_rows_max ? rows : grid_rows_max));
}

/* N == 8: every row is whole aligned packs of 8; N == 1: it need not be. */
template <int N>
static __device__ __forceinline__ void load_n(const void *p, spey_dtype dtype, int64_t at, float *v)
{
    if constexpr (N == 8)
        widen8(load_raw8(p, dtype, at, true), dtype, v);
    else
        v[0] = load_any(p, dtype, at);
}

template <int N>
static __global__ void __launch_bounds__(THREADS) gemm_finish(const spey_gemm_finish f)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE;
    const int64_t end = begin + TILE < f.cols ? begin + TILE : f.cols;
    for (int64_t row = blockIdx.y; row < f.rows; row += gridDim.y) {
        const float row_scale = f.row_scales ? f.row_scales[row * f.row_scale_step] : 1.0f;
        for (int64_t c = begin + threadIdx.x * N; c < end; c += THREADS * N) {
            float v[N], scale[N], b[N];
#pragma unroll
            for (int j = 0; j < N; j++)
                v[j] = b[j] = 0.0f;
            if (f.sums) load_n<N>(f.sums, f.sums_dtype, row * f.sums_pitch + c, v);
            if (f.bias) load_n<N>(f.bias, SPEY_F32, c, b);
            if (f.row_scales && f.col_scale_step) load_n<N>(f.col_scales, SPEY_F32, c, scale);
#pragma unroll
            for (int j = 0; j < N; j++) {
                if (f.row_scales) v[j] *= row_scale * (f.col_scale_step ? scale[j] : *f.col_scales);
                v[j] = activate(v[j] + b[j], f.activation);
            }
            if constexpr (N == 8)
                store8(f.out, f.out_dtype, row * f.out_pitch + c, v);
            else
                store_any(f.out, f.out_dtype, row * f.out_pitch + c, v[0]);
        }
    }
}

void spey_gemm_finish_launch(const spey_gemm_finish *f, cudaStream_t stream)
{
    const bool packs = f->cols % 8 == 0 && is_packed8(f->out, f->out_dtype, f->out_pitch) &&
                       (!f->sums || is_packed8(f->sums, f->sums_dtype, f->sums_pitch)) &&
                       is_aligned16(f->bias) && is_aligned16(f->col_scales);
    if (packs)
        gemm_finish<8><<<grid_of(f->rows, f->cols), THREADS, 0, stream>>>(*f);
    else
        gemm_finish<1><<<grid_of(f->rows, f->cols), THREADS, 0, stream>>>(*f);
}

/* PACKED: rows of x and out are whole aligned packs of 8. */
template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS)
    gemm_convert(const spey_gemm_args a, void *out)
{
    const int64_t c = my_unit() * 8, left = a.k - c;
    if (left <= 0) return;
    for (int64_t row = first_row(); row < a.rows; row += rows_step()) {
        float x[8];
        load8<PACKED>(a.x, a.x_dtype, row * a.x_pitch + c, left, x);
        store_some8<PACKED>(out, a.w_dtype, row * a.k + c, left, x);
    }
}

void spey_gemm_convert_launch(const spey_gemm_args *a, void *out, cudaStream_t stream)
{
    const unit_grid g = grid_of_units(a->rows, (a->k + 7) / 8);
    if (a->k % 8 == 0 && is_packed8(a->x, a->x_dtype, a->x_pitch))
        gemm_convert<true><<<g.grid, g.block, 0, stream>>>(*a, out);
    else
        gemm_convert<false><<<g.grid, g.block, 0, stream>>>(*a, out);
}
