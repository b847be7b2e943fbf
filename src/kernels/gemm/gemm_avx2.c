/* gemm with FP32 math in AVX2: tiles of 3 × 4 outputs (12 sums, 3 x, 1 w of 16 registers), weights widened in
 * registers. See gemm_x86.h for who does what. */
#include "device/cpu.h"
#include "kernels/rows.h"

enum { GEMM_ROWS = 3 };
#include "kernels/gemm/gemm_x86_f32.h"

const spey_kernel spey_gemm_avx2 = {
    .name = "gemm/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = gemm_f32_supports,
    .run = gemm_f32_run,
};
