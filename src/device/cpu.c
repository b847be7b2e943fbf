#include "device/cpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/limits.h"
#include "base/log.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include "device/cpu_probe.h"

/* The registers that the operating system saves: without these bits of XCR0 the instructions fault or corrupt. */
enum { XCR0_AVX = 0x06, XCR0_AVX512 = 0xe6 };

static uint32_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static uint32_t detect(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned osxsave = 1u << 27, fma = 1u << 12, f16c = 1u << 29, avx = 1u << 28;
    if ((c & (osxsave | fma | f16c | avx)) != (osxsave | fma | f16c | avx)) return 0;
    uint32_t xcr0 = read_xcr0();
    if ((xcr0 & XCR0_AVX) != XCR0_AVX) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5)) return 0;
    uint32_t features = SPEY_CPU_AVX2;
    const unsigned f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512 || (b & (f | dq | bw | vl)) != (f | dq | bw | vl))
        return features;
    features |= SPEY_CPU_AVX512;
    if (c & 1u << 11) features |= SPEY_CPU_AVX512_VNNI;
    if (d & 1u << 23) features |= SPEY_CPU_AVX512_FP16;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5)) features |= SPEY_CPU_AVX512_BF16;
    return features;
}

static bool bf16_dot_is_fast(void)
{
    /* Known chips give 2 (dot at FMA's rate) or at most 1; the middle is far from both. */
    return spey_cpu_bf16_dot_ratio() > 1.4;
}
#else
static uint32_t detect(void)
{
    return 0;
}

static bool bf16_dot_is_fast(void)
{
    return false;
}
#endif

static uint32_t isa_cap(void)
{
    static const struct {
        const char *name;
        uint32_t bits;
    } caps[] = {
        { "ref", 0 },
        { "avx2", SPEY_CPU_AVX2 },
        { "avx512", SPEY_CPU_AVX2 | SPEY_CPU_AVX512 },
        { "avx512vnni", SPEY_CPU_AVX2 | SPEY_CPU_AVX512 | SPEY_CPU_AVX512_VNNI },
        { "avx512bf16", SPEY_CPU_AVX2 | SPEY_CPU_AVX512 | SPEY_CPU_AVX512_VNNI |
                            SPEY_CPU_AVX512_BF16 | SPEY_CPU_FAST_BF16_DOT },
        { "avx512fp16", UINT32_MAX >> 1 },
    };
    const char *wanted = spey_env("SPEY_ISA");
    if (!wanted) return UINT32_MAX >> 1;
    for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
        if (!strcmp(wanted, caps[i].name)) return caps[i].bits;
    spey_log(SPEY_LOG_WARNING,
             "SPEY_ISA=%s is not one of ref, avx2, avx512, avx512vnni, avx512bf16, "
             "avx512fp16: ignored",
             wanted);
    return UINT32_MAX >> 1;
}

uint32_t spey_cpu_features(void)
{
    /* Bit 31 says that the rest is known. Two first callers may both measure; the first to store wins. */
    static _Atomic uint32_t known;
    uint32_t value = atomic_load(&known);
    if (value) return value & UINT32_MAX >> 1;
    uint32_t features = detect() & isa_cap();
    if ((features & SPEY_CPU_AVX512_BF16) && bf16_dot_is_fast()) features |= SPEY_CPU_FAST_BF16_DOT;
    uint32_t expected = 0;
    if (!atomic_compare_exchange_strong(&known, &expected, features | 1u << 31))
        return expected & UINT32_MAX >> 1;
    return features;
}

/* The first line of a small file of /sys or /proc; false when it cannot be read. */
static bool read_line(const char *path, char *out, size_t n)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    bool ok = fgets(out, (int)n, file) != NULL;
    fclose(file);
    return ok;
}

/* The lowest CPU that shares a core with `cpu`. */
static int core_leader(int cpu)
{
    char path[128], line[256];
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
             cpu);
    if (!read_line(path, line, sizeof(line))) return cpu;
    char *end;
    long first = strtol(line, &end, 10);
    return end == line ? cpu : (int)first;
}

int spey_cpu_list(int *out, int max, int *n_cores)
{
    cpu_set_t mask;
    int n = 0;
    *n_cores = 0;
    if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return 0;
    int leaders[SPEY_THREADS_MAX], siblings[SPEY_THREADS_MAX];
    int n_siblings = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && n + n_siblings < SPEY_THREADS_MAX; cpu++) {
        if (!CPU_ISSET((size_t)cpu, &mask)) continue;
        int leader = core_leader(cpu);
        bool seen = false;
        for (int i = 0; i < n && !seen; i++)
            seen = leaders[i] == leader;
        if (seen) {
            siblings[n_siblings++] = cpu;
        } else {
            if (n < max) out[n] = cpu;
            leaders[n++] = leader;
        }
    }
    *n_cores = n;
    for (int i = 0; i < n_siblings; i++, n++)
        if (n < max) out[n] = siblings[i];
    return n < max ? n : max;
}

/* CPUs' worth of time that the control group may use, rounded up; 0: no limit. */
static int cgroup_cpus(void)
{
    char line[256];
    if (!read_line("/sys/fs/cgroup/cpu.max", line, sizeof(line))) return 0;
    char *end;
    double quota = strtod(line, &end);
    if (end == line) return 0; /* "max" */
    double period = strtod(end, NULL);
    if (quota <= 0 || period <= 0) return 0;
    return (int)((quota + period - 1) / period);
}

int spey_cpu_cores(void)
{
    int cpus[1], n_cores;
    spey_cpu_list(cpus, 1, &n_cores);
    int limit = cgroup_cpus();
    if (limit > 0 && limit < n_cores) n_cores = limit;
    return n_cores > 0 ? n_cores : 1;
}

static size_t cache_bytes(int name)
{
    long bytes = sysconf(name);
    return bytes > 0 ? (size_t)bytes : 0;
}

size_t spey_cpu_l2_bytes(void)
{
    return cache_bytes(_SC_LEVEL2_CACHE_SIZE);
}

size_t spey_cpu_l3_bytes(void)
{
    return cache_bytes(_SC_LEVEL3_CACHE_SIZE);
}

/* The CPU's own name, blanks squeezed. */
static void model_name(char out[64])
{
    snprintf(out, 64, "CPU");
#if defined(__x86_64__)
    unsigned words[12], top, b, c, d;
    if (!__get_cpuid(0x80000000u, &top, &b, &c, &d) || top < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                    &words[4 * i + 3]);
    const char *text = (const char *)words;
    size_t n = 0;
    for (size_t i = 0; i < sizeof(words) && text[i]; i++)
        if (text[i] != ' ' || (n && out[n - 1] != ' ')) out[n++] = text[i];
    while (n && out[n - 1] == ' ')
        n--;
    out[n] = 0;
#endif
}

void spey_cpu_describe(char *out, size_t n)
{
    char name[64];
    model_name(name);
    uint32_t f = spey_cpu_features();
    const char *width = f & SPEY_CPU_AVX512 ? "avx512" : f & SPEY_CPU_AVX2 ? "avx2" : "scalar";
    int cores = spey_cpu_cores();
    snprintf(out, n, "%s, %d core%s, %s%s%s%s%s", name, cores, cores == 1 ? "" : "s", width,
             f & SPEY_CPU_AVX512_BF16 ? " bf16" : "", f & SPEY_CPU_FAST_BF16_DOT ? " (fast)" : "",
             f & SPEY_CPU_AVX512_VNNI ? " vnni" : "", f & SPEY_CPU_AVX512_FP16 ? " fp16" : "");
}
