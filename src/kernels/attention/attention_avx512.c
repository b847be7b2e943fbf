/* attention; see attention_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec512.h"

#include "kernels/attention/attention_x86.h"

const spey_kernel spey_attention_avx512 = { .name = "attention/avx512",
                                            .isa = SPEY_CPU_AVX512,
                                            .supports = supports,
                                            .workspace = workspace,
                                            .run = run };
