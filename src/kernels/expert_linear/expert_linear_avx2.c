/* expert_linear with FP32 math in AVX2: see expert_linear_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"

enum { GEMM_ROWS = 3 };
#include "kernels/expert_linear/expert_linear_x86_f32.h"

const spey_kernel spey_expert_linear_avx2 = {
    .name = "expert_linear/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = expert_f32_supports,
    .workspace = expert_workspace,
    .run = expert_run,
};
