#include "device/cpu_probe.h"

#include <immintrin.h>
#include <stdint.h>
#include <x86intrin.h>

/* Twelve independent chains cover the latency of both instructions. 200 turns last about a microsecond: short enough
 * that the least of many tries is one without an interrupt. */
enum { CHAINS = 12, TURNS = 200, TRIES = 25 };

static uint64_t time_fma(void)
{
    __m512 acc[CHAINS];
    __m512 a = _mm512_set1_ps(1.0f);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm512_setzero_ps();
    uint64_t start = __rdtsc();
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < CHAINS; i++) {
            acc[i] = _mm512_fmadd_ps(a, a, acc[i]);
            __asm__ volatile("" : "+v"(acc[i]));
        }
    }
    return __rdtsc() - start;
}

static uint64_t time_dot(void)
{
    __m512 acc[CHAINS];
    __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm512_setzero_ps();
    uint64_t start = __rdtsc();
    for (int turn = 0; turn < TURNS; turn++) {
        for (int i = 0; i < CHAINS; i++) {
            acc[i] = _mm512_dpbf16_ps(acc[i], a, a);
            __asm__ volatile("" : "+v"(acc[i]));
        }
    }
    return __rdtsc() - start;
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
