/* expert_linear with FP32 math in AVX-512: see expert_linear_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"

enum { GEMM_ROWS = 6 };
#include "kernels/expert_linear/expert_linear_x86_f32.h"

const spey_kernel spey_expert_linear_avx512 = {
    .name = "expert_linear/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = expert_f32_supports,
    .workspace = expert_workspace,
    .run = expert_run,
};
