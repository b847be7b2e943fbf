/* add in AVX-512: see add_x86.h. */
#include "device/cpu.h"
#include "kernels/elementwise/add_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_add_avx512 = {
    .name = "add/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = add_supports,
    .run = add_run,
};
