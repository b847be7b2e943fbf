/* glu in AVX2: see glu_x86.h. */
#include "device/cpu.h"
#include "kernels/glu/glu_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_glu_avx2 = {
    .name = "glu/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = glu_supports,
    .run = glu_run,
};
