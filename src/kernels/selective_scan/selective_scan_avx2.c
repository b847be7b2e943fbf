/* selective_scan in AVX2: see selective_scan_x86.h. */
#include "device/cpu.h"
#include "kernels/rows.h"
#include "kernels/selective_scan/selective_scan_x86.h"

const spey_kernel spey_selective_scan_avx2 = {
    .name = "selective_scan/avx2",
    .isa = SPEY_CPU_AVX2,
    .supports = selective_scan_supports,
    .run = selective_scan_run,
};
