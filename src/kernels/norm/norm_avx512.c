/* norm; see norm_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec512.h"

#include "kernels/norm/norm_x86.h"

const spey_kernel spey_norm_avx512 = {
    .name = "norm/avx512", .isa = SPEY_CPU_AVX512, .supports = supports, .run = run
};
