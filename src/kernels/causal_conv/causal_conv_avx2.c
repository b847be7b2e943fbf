/* causal_conv in AVX2: see causal_conv_x86.h. */
#include "device/cpu.h"
#include "kernels/causal_conv/causal_conv_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_causal_conv_avx2 = {
    .name = "causal_conv/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = causal_conv_supports,
    .run = causal_conv_run,
};
