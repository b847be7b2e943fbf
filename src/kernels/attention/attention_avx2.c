/* attention; see attention_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec256.h"

#include "kernels/attention/attention_x86.h"

const spey_kernel spey_attention_avx2 = { .name = "attention/avx2",
                                          .isa = SPEY_CPU_AVX2,
                                          .supports = supports,
                                          .workspace = workspace,
                                          .run = run };
