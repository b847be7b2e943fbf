/* Grids for matrices: one thread for each unit (a pack of elements, say) of each row, without a division. */
#ifndef SPEY_KERNELS_CUDA_GRID_CUH
#define SPEY_KERNELS_CUDA_GRID_CUH

#include <stdint.h>

#include "kernels/cuda/launch.cuh"

enum { UNIT_THREADS = 256 };

struct unit_grid {
    dim3 grid, block;
};

/* Threads of a CTA lie along a row as far as it is long, then over rows. Kernels loop over rows with rows_step. */
static inline unit_grid grid_of_units(int64_t rows, int64_t units)
{
    unsigned x = 1;
    while (x < UNIT_THREADS && x < units)
        x *= 2;
    const unsigned y = UNIT_THREADS / x;
    const int64_t tall = (rows + y - 1) / y;
    unit_grid g;
    g.block = dim3(x, y);
    g.grid = dim3(static_cast<unsigned>((units + x - 1) / x),
                  static_cast<unsigned>(tall < 65535 ? tall : 65535));
    return g;
}

static inline launch_shape shape_of(const unit_grid &g)
{
    return { g.grid, g.block, 0 };
}

static __device__ __forceinline__ int64_t first_row()
{
    return static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y;
}

static __device__ __forceinline__ int64_t rows_step()
{
    return static_cast<int64_t>(gridDim.y) * blockDim.y;
}

static __device__ __forceinline__ int64_t my_unit()
{
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

#endif
