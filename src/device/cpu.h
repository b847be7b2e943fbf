/* What this CPU can do. SPEY_ISA=ref|avx2|avx512|… in the environment caps it, to bisect a wrong answer. */
#ifndef SPEY_DEVICE_CPU_H
#define SPEY_DEVICE_CPU_H

#include <stddef.h>
#include <stdint.h>

enum {
    SPEY_CPU_AVX2 = 1 << 0,   /* AVX2, FMA, F16C */
    SPEY_CPU_AVX512 = 1 << 1, /* F, BW, VL, DQ */
    SPEY_CPU_AVX512_BF16 = 1 << 2,
    SPEY_CPU_AVX512_VNNI = 1 << 3,
    SPEY_CPU_AVX512_FP16 = 1 << 4,
    /* Measured at first use (under a millisecond): VDPBF16PS does more multiply-adds a second than FP32 FMA. On some
     * chips it does fewer. */
    SPEY_CPU_FAST_BF16_DOT = 1 << 5,
};

/* The bits that are usable (CPUID and OS support, capped by SPEY_ISA). Any thread. */
uint32_t spey_cpu_features(void);
/* Physical cores this process may use at once: by affinity mask and control group, at least 1. */
int spey_cpu_cores(void);
/* Up to `max` CPUs of the affinity mask into `out`: one of each physical core first (*n_cores of them in all), then
 * their siblings. Returns how many were written. */
int spey_cpu_list(int *out, int max, int *n_cores);
/* Bytes of one core's L2 and of the last level before memory; 0 when unknown. */
size_t spey_cpu_l2_bytes(void);
size_t spey_cpu_l3_bytes(void);
/* "AMD EPYC, 2 cores, avx512 bf16 vnni" for reports. `out` of n bytes. */
void spey_cpu_describe(char *out, size_t n);

#endif
