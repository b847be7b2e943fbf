/* Tensor-core products of 16 × 8 × 16, and their operands from shared memory. */
#ifndef SPEY_KERNELS_CUDA_TILE_MMA_CUH
#define SPEY_KERNELS_CUDA_TILE_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

/* Four 8 × 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8, and gets of each matrix
 * elements (l / 4, 2 · (l % 4)) and the next. */
static __device__ __forceinline__ void load_matrices(const void *row, uint32_t (&out)[4])
{
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address));
}

/* sums += x wᵀ: x is 16 × 16 (four matrices: rows 0 and 8 of k 0, then of k 8), w 8 × 16 (k 0, k 8). */
template <typename T>
static __device__ __forceinline__ void multiply_add(const uint32_t (&x)[4], uint32_t w0,
                                                    uint32_t w1, float (&sums)[4]);

template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(const uint32_t (&x)[4], uint32_t w0,
                                                            uint32_t w1, float (&sums)[4])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(w0), "r"(w1));
}

template <>
__device__ __forceinline__ void multiply_add<__half>(const uint32_t (&x)[4], uint32_t w0,
                                                     uint32_t w1, float (&sums)[4])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(w0), "r"(w1));
}

#endif
