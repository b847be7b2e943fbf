/* rope_table; see rope_table_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"

#include "kernels/rope/rope_table_x86.h"

const spey_kernel spey_rope_table_avx512 = {
    .name = "rope_table/avx512", .isa = SPEY_CPU_AVX512, .supports = supports, .run = run
};
