/* unary in AVX-512: see unary_x86.h. */
#include "device/cpu.h"
#include "kernels/elementwise/unary_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_unary_avx512 = {
    .name = "unary/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = unary_supports,
    .run = unary_run,
};
