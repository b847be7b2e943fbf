/* The measurement behind SPEY_CPU_FAST_BF16_DOT. */
#ifndef SPEY_DEVICE_CPU_PROBE_H
#define SPEY_DEVICE_CPU_PROBE_H

/* Multiply-adds a second of VDPBF16PS over those of FP32 VFMADD, both from registers: 2 where the dot runs at the rate
 * of FMA, 0.5 where it is microcoded. Needs AVX-512 and AVX512_BF16. Well under a millisecond. */
double spey_cpu_bf16_dot_ratio(void);

#endif
