/* embed in AVX2: see embed_x86.h. */
#include "device/cpu.h"
#include "kernels/embed/embed_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_embed_avx2 = {
    .name = "embed/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = embed_supports,
    .run = embed_run,
};
