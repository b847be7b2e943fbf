/* embed in AVX-512: see embed_x86.h. */
#include "device/cpu.h"
#include "kernels/embed/embed_x86.h"
#include "kernels/rows.h"

const spey_kernel spey_embed_avx512 = {
    .name = "embed/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = embed_supports,
    .run = embed_run,
};
