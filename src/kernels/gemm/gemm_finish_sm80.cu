/* What a library GEMM leaves to do: scales, bias, activation and rounding after it, another type of x before it.
 *
 * who       A CTA takes TILE columns of rows blockIdx.y, blockIdx.y + gridDim.y, …; a thread takes 4 columns.
 * moves     Each matrix once. The scratch of sums is sized (gemm_cublaslt.c) so that it mostly stays in L2.
 * bound by  memory, or its launch for few rows. */
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/gemm/gemm_finish.h"

enum { THREADS = 256, TILE = 4 * THREADS };
static const int64_t grid_rows_max = 65535;

static dim3 grid_of(int64_t rows, int64_t cols)
{
    return dim3(static_cast<unsigned>((cols + TILE - 1) / TILE),
                static_cast<unsigned>(rows < grid_rows_max ? rows : grid_rows_max));
}

/* N == 4: every row is whole aligned packs of 4; N == 1: it need not be. */
template <typename T, int N>
static __global__ void __launch_bounds__(THREADS) gemm_finish(const spey_gemm_finish f)
{
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * TILE;
    const int64_t end = begin + TILE < f.cols ? begin + TILE : f.cols;
    for (int64_t row = blockIdx.y; row < f.rows; row += gridDim.y) {
        for (int64_t c = begin + threadIdx.x * N; c < end; c += THREADS * N) {
            float v[N], b[N];
#pragma unroll
            for (int j = 0; j < N; j++)
                v[j] = b[j] = 0.0f;
            if (f.sums) load_pack<N>(f.sums + row * f.sums_pitch + c, true, v);
            if (f.row_scales) {
                const float scale = f.row_scales[row];
#pragma unroll
                for (int j = 0; j < N; j++)
                    v[j] *= scale * f.col_scales[(c + j) * f.col_scale_step];
            }
            if (f.bias) load_pack<N>(f.bias + c, true, b);
#pragma unroll
            for (int j = 0; j < N; j++)
                v[j] = activate(v[j] + b[j], f.activation);
            store_pack<N>(static_cast<T *>(f.out) + row * f.out_pitch + c, true, v);
        }
    }
}

template <typename T> static void launch_finish(const spey_gemm_finish *f, cudaStream_t stream)
{
    const bool packs = is_aligned16(f->sums) && is_aligned16(f->bias) && is_aligned16(f->out) &&
                       (!f->sums || f->sums_pitch % 4 == 0) && f->out_pitch % 4 == 0 &&
                       f->cols % 4 == 0;
    if (packs)
        gemm_finish<T, 4><<<grid_of(f->rows, f->cols), THREADS, 0, stream>>>(*f);
    else
        gemm_finish<T, 1><<<grid_of(f->rows, f->cols), THREADS, 0, stream>>>(*f);
}

void spey_gemm_finish_launch(const spey_gemm_finish *f, cudaStream_t stream)
{
    if (f->out_dtype == SPEY_F32) launch_finish<float>(f, stream);
    if (f->out_dtype == SPEY_F16) launch_finish<__half>(f, stream);
    if (f->out_dtype == SPEY_BF16) launch_finish<__nv_bfloat16>(f, stream);
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
