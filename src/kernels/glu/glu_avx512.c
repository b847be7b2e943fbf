/* glu in AVX-512: see glu_x86.h. */
#include "device/cpu.h"
#include "kernels/glu/glu_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_glu_avx512 = {
    .name = "glu/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = glu_supports,
    .run = glu_run,
};
