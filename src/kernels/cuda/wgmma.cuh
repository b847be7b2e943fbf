/* Products of a warpgroup (wgmma.mma_async, sm_90a): 64 rows, N columns, K = 16, operands of BF16 or F16, sums in FP32.
 *
 * Thread t of the warpgroup holds, of row 16 · (t / 32) + t % 32 / 4 and the one 8 below, columns 8n + t % 4 · 2 and the
 * next: d[n][0], d[n][1], and d[n][2], d[n][3]. A from registers has the layout of mma_sync's (mma.cuh), 16 rows a warp.
 *
 * Operands in shared memory lie in panels of 64 elements by R rows: row r has 128 bytes at r · 128, its 16-byte chunk c at
 * place c ^ (r & 7). Panels begin at multiples of 1024 bytes. See PTX ISA, "Asynchronous warpgroup level matrix
 * shared memory layout". */
#ifndef SPEY_KERNELS_CUDA_WGMMA_CUH
#define SPEY_KERNELS_CUDA_WGMMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

enum { PANEL_ROW_BYTES = 128, PANEL_CHUNKS = 8 };

/* Byte of chunk `chunk` (of any panel) of row `row`, panels being `rows` rows long. */
static __host__ __device__ constexpr uint32_t panel_place(uint32_t rows, uint32_t row,
                                                          uint32_t chunk)
{
    return (chunk / PANEL_CHUNKS * rows + row) * PANEL_ROW_BYTES +
           ((chunk ^ row) % PANEL_CHUNKS) * 16;
}

/* A descriptor of panels of `rows` rows at `address`. Where elements run along K (A, and B unless transposed), step k of
 * 16 is 32 · k bytes further within a panel. Where rows run along K (B transposed), step k is 16 rows further, and columns
 * beyond 64 are in the next panels. */
static __device__ __forceinline__ uint64_t panel_descriptor(uint32_t address, uint32_t rows)
{
    const uint64_t group = 8 * PANEL_ROW_BYTES / 16, panel = rows * PANEL_ROW_BYTES / 16;
    return (address & 0x3ffff) / 16 | panel << 16 | group << 32 | uint64_t{ 1 } << 62;
}

/* The descriptor of what lies `bytes` further. */
static __device__ __forceinline__ uint64_t descriptor_at(uint64_t descriptor, uint32_t bytes)
{
    return descriptor + bytes / 16;
}

/* Registers that wgmma will read or add to were written before this. */
static __device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* All but the last N groups are done. Uses of their results come behind hold_registers of them. */
template <int N> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* The compiler moves no use of these registers across it. */
template <int N> static __device__ __forceinline__ void hold_registers(float (&d)[N][4])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
}

/* ---- the instructions, for each type and number of columns ---- */

/* clang-format off */
#define SPEY_WGMMA_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SPEY_WGMMA_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SPEY_WGMMA_D(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define SPEY_WGMMA_D4(i) SPEY_WGMMA_D(i), SPEY_WGMMA_D(i + 1), SPEY_WGMMA_D(i + 2), SPEY_WGMMA_D(i + 3)
#define SPEY_WGMMA_D8 SPEY_WGMMA_D4(0), SPEY_WGMMA_D4(4)
#define SPEY_WGMMA_D16 SPEY_WGMMA_D8, SPEY_WGMMA_D4(8), SPEY_WGMMA_D4(12)

/* wgmma_rows: d = x yᵀ, or d += x yᵀ with add != 0; rows of x and y run along K.
 * wgmma_weigh: d += x y; x in registers, rows of y run along N. */
#define SPEY_WGMMA(T, type, tiles, columns, registers, outputs, i0, i1, i2, i3, i4)                \
    static __device__ __forceinline__ void wgmma_rows(float (&d)[tiles][4], uint64_t x, uint64_t y, \
                                                      int add, T)                                   \
    {                                                                                              \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " i2 ", 0;\n"                               \
                     "wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type          \
                     " {" registers "}, " i0 ", " i1 ", p, 1, 1, 0, 0;\n}"                         \
                     : outputs : "l"(x), "l"(y), "r"(add));                                        \
    }                                                                                              \
    static __device__ __forceinline__ void wgmma_weigh(float (&d)[tiles][4], const uint32_t (&x)[4], \
                                                       uint64_t y, T)                               \
    {                                                                                              \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type          \
                     " {" registers "}, {" i0 ", " i1 ", " i2 ", " i3 "}, " i4 ", 1, 1, 1, 1;"     \
                     : outputs : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y));              \
    }

SPEY_WGMMA(__nv_bfloat16, "bf16", 8, "64", SPEY_WGMMA_32, SPEY_WGMMA_D8, "%32", "%33", "%34", "%35", "%36")
SPEY_WGMMA(__half, "f16", 8, "64", SPEY_WGMMA_32, SPEY_WGMMA_D8, "%32", "%33", "%34", "%35", "%36")
SPEY_WGMMA(__nv_bfloat16, "bf16", 16, "128", SPEY_WGMMA_64, SPEY_WGMMA_D16, "%64", "%65", "%66", "%67", "%68")
SPEY_WGMMA(__half, "f16", 16, "128", SPEY_WGMMA_64, SPEY_WGMMA_D16, "%64", "%65", "%66", "%67", "%68")
/* clang-format on */

#endif
