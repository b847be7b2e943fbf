/* gemm with FP32 math in AVX-512: tiles of 6 × 4 outputs (24 sums, 6 x, 1 w of 32 registers), weights widened in
 * registers. See gemm_x86.h for who does what. */
#include "device/cpu.h"
#include "kernels/rows.h"

enum { GEMM_ROWS = 6 };
#include "kernels/gemm/gemm_x86_f32.h"

const spey_kernel spey_gemm_avx512 = {
    .name = "gemm/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = gemm_f32_supports,
    .run = gemm_f32_run,
};
