/* selective_scan in AVX-512: see selective_scan_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/selective_scan/selective_scan_x86.h"

const spey_kernel spey_selective_scan_avx512 = {
    .name = "selective_scan/avx512",
    .isa = SPEY_CPU_AVX512,
    .supports = selective_scan_supports,
    .run = selective_scan_run,
};
