/* rope; see rope_rows_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec256.h"

#include "kernels/rope/rope_rows_x86.h"

const spey_kernel spey_rope_avx2 = {
    .name = "rope/avx2", .isa = SPEY_CPU_AVX2, .supports = supports, .run = run
};
