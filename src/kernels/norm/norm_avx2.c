/* norm; see norm_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec256.h"

#include "kernels/norm/norm_x86.h"

const spey_kernel spey_norm_avx2 = {
    .name = "norm/avx2", .isa = SPEY_CPU_AVX2, .supports = supports, .run = run
};
