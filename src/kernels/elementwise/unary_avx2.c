/* unary in AVX2: see unary_x86.h. */
#include "device/cpu.h"
#include "kernels/elementwise/unary_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_unary_avx2 = {
    .name = "unary/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = unary_supports,
    .run = unary_run,
};
