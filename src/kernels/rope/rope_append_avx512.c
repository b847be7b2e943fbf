/* rope_append; see rope_append_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec512.h"

#include "kernels/rope/rope_append_x86.h"

const spey_kernel spey_rope_append_avx512 = {
    .name = "rope_append/avx512", .isa = SPEY_CPU_AVX512, .supports = supports, .run = run
};
