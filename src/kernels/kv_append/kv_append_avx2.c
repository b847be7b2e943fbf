/* kv_append; see kv_append_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/x86/vec256.h"

#include "kernels/kv_append/kv_append_x86.h"

const spey_kernel spey_kv_append_avx2 = {
    .name = "kv_append/avx2", .isa = SPEY_CPU_AVX2, .supports = supports, .run = run
};
