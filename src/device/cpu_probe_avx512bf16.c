#include "device/cpu_probe.h"

#include <stdint.h>
#include <x86intrin.h>

/* Twelve independent chains cover the latency of both instructions. 200 turns last less than a microsecond: short
 * enough that the least of many tries is one without an interrupt. */
enum { TURNS = 200, TRIES = 25 };

/* In assembly, because a compiler that spills a sum would measure its stores. The sums start from what the registers
 * hold; their values do not change the time. */
/* clang-format off */
#define TIME(op)                                                                          \
    __asm__ volatile("vpxord %%zmm31, %%zmm31, %%zmm31" ::: "xmm31");                     \
    uint64_t start = __rdtsc();                                                           \
    for (int turn = 0; turn < TURNS; turn++)                                              \
        __asm__ volatile(op "16\n\t" op "17\n\t" op "18\n\t" op "19\n\t"                  \
                         op "20\n\t" op "21\n\t" op "22\n\t" op "23\n\t"                  \
                         op "24\n\t" op "25\n\t" op "26\n\t" op "27"                       \
                         ::: "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",        \
                             "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27");       \
    return __rdtsc() - start
/* clang-format on */

static uint64_t time_fma(void)
{
    TIME("vfmadd231ps %%zmm31, %%zmm31, %%zmm");
}

static uint64_t time_dot(void)
{
    TIME("vdpbf16ps %%zmm31, %%zmm31, %%zmm");
}

double spey_cpu_bf16_dot_ratio(void)
{
    uint64_t fma = UINT64_MAX, dot = UINT64_MAX;
    for (int i = 0; i < TRIES; i++) {
        uint64_t t = time_fma();
        if (t < fma) fma = t;
        t = time_dot();
        if (t < dot) dot = t;
    }
    return dot ? 2.0 * (double)fma / (double)dot : 0.0;
}
