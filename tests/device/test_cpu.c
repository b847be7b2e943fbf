#include "device/cpu.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* SPEY_ISA is read once a process, so each value gets a process of its own. True when it sees no bit outside. */
static bool capped_to(const char *isa, uint32_t allowed)
{
    pid_t child = fork();
    if (child == 0) {
        setenv("SPEY_ISA", isa, 1);
        _exit(spey_cpu_features() & ~allowed ? 1 : 0);
    }
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* First of all tests: this process must not have asked yet. */
static void spey_isa_caps_the_features(void **state)
{
    (void)state;
    assert_true(capped_to("ref", 0));
    assert_true(capped_to("avx2", SPEY_CPU_AVX2));
    assert_true(capped_to("avx512", SPEY_CPU_AVX2 | SPEY_CPU_AVX512));
    assert_true(capped_to("avx512vnni", SPEY_CPU_AVX2 | SPEY_CPU_AVX512 | SPEY_CPU_AVX512_VNNI));
}

static void features_imply_what_they_build_on(void **state)
{
    (void)state;
    uint32_t f = spey_cpu_features();
    assert_int_equal(f, spey_cpu_features());
    if (f & SPEY_CPU_AVX512) assert_true(f & SPEY_CPU_AVX2);
    if (f & SPEY_CPU_AVX512_BF16) assert_true(f & SPEY_CPU_AVX512);
    if (f & SPEY_CPU_AVX512_VNNI) assert_true(f & SPEY_CPU_AVX512);
    if (f & SPEY_CPU_FAST_BF16_DOT) assert_true(f & SPEY_CPU_AVX512_BF16);
}

static void the_list_holds_cores_first_and_obeys_the_mask(void **state)
{
    (void)state;
    cpu_set_t mask, one;
    assert_int_equal(sched_getaffinity(0, sizeof(mask), &mask), 0);
    int cpus[1024], n_cores;
    int n = spey_cpu_list(cpus, 1024, &n_cores);
    assert_int_equal(n, CPU_COUNT(&mask));
    assert_in_range(n_cores, 1, n);
    for (int i = 0; i < n; i++)
        assert_true(CPU_ISSET((size_t)cpus[i], &mask));
    assert_in_range(spey_cpu_cores(), 1, n_cores);

    CPU_ZERO(&one);
    CPU_SET((size_t)cpus[n - 1], &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    int only[4];
    assert_int_equal(spey_cpu_list(only, 4, &n_cores), 1);
    assert_int_equal(only[0], cpus[n - 1]);
    assert_int_equal(spey_cpu_cores(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof(mask), &mask), 0);
}

static void the_description_is_cut_to_the_buffer(void **state)
{
    (void)state;
    char text[200], cut[9];
    spey_cpu_describe(text, sizeof(text));
    assert_non_null(strstr(text, "core"));
    spey_cpu_describe(cut, sizeof(cut));
    assert_int_equal(strlen(cut), 8);
    assert_memory_equal(cut, text, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spey_isa_caps_the_features),
        cmocka_unit_test(features_imply_what_they_build_on),
        cmocka_unit_test(the_list_holds_cores_first_and_obeys_the_mask),
        cmocka_unit_test(the_description_is_cut_to_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
