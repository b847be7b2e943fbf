/* rope_table; see rope_table_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"

#include "kernels/rope/rope_table_x86.h"

const spey_kernel spey_rope_table_avx2 = {
    .name = "rope_table/avx2", .isa = SPEY_CPU_AVX2, .supports = supports, .run = run
};
