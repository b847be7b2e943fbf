/* attention with K and V of BF16, scale · q and the weights rounded to BF16; see attention_x86.h for who does what,
 * attention_tile_x86_bf16.h for how. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec512.h"

#include "kernels/attention/attention_x86.h"

const spey_kernel spey_attention_avx512bf16 = {
    .name = "attention/avx512bf16",
    .isa = SPEY_CPU_AVX512 | SPEY_CPU_AVX512_BF16 | SPEY_CPU_FAST_BF16_DOT,
    .supports = supports,
    .workspace = workspace,
    .run = run,
};
