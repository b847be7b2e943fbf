/* add in AVX2: see add_x86.h. */
#include "device/cpu.h"
#include "kernels/elementwise/add_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_add_avx2 = {
    .name = "add/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = add_supports,
    .run = add_run,
};
