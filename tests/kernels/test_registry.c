#include "kernels/registry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/cpu.h"
#include "kernels/gemm/gemm.h"

static const spey_gemm_args float_gemm = {
    .rows = 1,
    .n = 4,
    .k = 4,
    .x_pitch = 4,
    .w_pitch = 4,
    .y_pitch = 4,
};

static const spey_kernel *choose(const char *op, const void *args)
{
    const spey_kernel *kernel;
    assert_int_equal(spey_kernel_choose(spey_cpu_backend(), op, args, &kernel), SPEY_OK);
    return kernel;
}

static void the_best_row_that_fits_is_chosen(void **state)
{
    (void)state;
    const spey_kernel *best = choose("gemm", &float_gemm);
    assert_false(best->isa & ~spey_cpu_features());
    if (spey_cpu_features() & SPEY_CPU_AVX512) assert_string_equal(best->name, "gemm/avx512");
    spey_gemm_args strange = float_gemm;
    strange.y_dtype = SPEY_F16;
    assert_string_equal(choose("gemm", &strange)->name, "gemm/ref");
}

static void what_no_row_takes_is_named(void **state)
{
    (void)state;
    spey_gemm_args args = float_gemm;
    args.w_dtype = SPEY_I8;
    const spey_kernel *kernel;
    assert_int_equal(spey_kernel_choose(spey_cpu_backend(), "gemm", &args, &kernel),
                     SPEY_UNSUPPORTED);
    assert_null(kernel);
    assert_non_null(strstr(spey_last_error(), "gemm"));
    assert_non_null(strstr(spey_last_error(), "weights i8"));
    assert_int_equal(spey_kernel_choose(spey_cpu_backend(), "gem", &args, &kernel),
                     SPEY_UNSUPPORTED);
}

static void spey_kernel_prefers_a_row(void **state)
{
    (void)state;
    setenv("SPEY_KERNEL", "norm/ref,gemm/ref", 1);
    assert_string_equal(choose("gemm", &float_gemm)->name, "gemm/ref");
    setenv("SPEY_KERNEL", "gemmx/ref,norm/ref", 1);
    assert_true(spey_kernel_is(choose("gemm", &float_gemm), "gemm"));
    unsetenv("SPEY_KERNEL");
}

static void a_preferred_row_must_exist_and_fit(void **state)
{
    (void)state;
    const spey_kernel *kernel;
    setenv("SPEY_KERNEL", "gemm/nonesuch", 1);
    assert_int_equal(spey_kernel_choose(spey_cpu_backend(), "gemm", &float_gemm, &kernel),
                     SPEY_INVALID);
    assert_non_null(strstr(spey_last_error(), "gemm/nonesuch"));
    setenv("SPEY_KERNEL", "gemm/avx512bf16", 1);
    assert_int_equal(spey_kernel_choose(spey_cpu_backend(), "gemm", &float_gemm, &kernel),
                     SPEY_UNSUPPORTED);
    unsetenv("SPEY_KERNEL");
}

static bool takes_all(const void *args)
{
    (void)args;
    return true;
}

static const spey_kernel *const *two_rows(int *n)
{
    static const spey_kernel fast = { .name = "gemm/fast", .supports = takes_all, .varies = true };
    static const spey_kernel steady = { .name = "gemm/steady", .supports = takes_all };
    static const spey_kernel *const rows[] = { &fast, &steady };
    *n = 2;
    return rows;
}

static void rows_that_vary_are_not_for_batch_invariance(void **state)
{
    (void)state;
    const spey_backend backend = { .name = "two", .kernels = two_rows };
    const spey_kernel *kernel;
    assert_int_equal(spey_kernel_choose(&backend, "gemm", &float_gemm, &kernel), SPEY_OK);
    assert_string_equal(kernel->name, "gemm/fast");
    assert_int_equal(spey_kernel_choose_invariant(&backend, "gemm", &float_gemm, &kernel), SPEY_OK);
    assert_string_equal(kernel->name, "gemm/steady");
    setenv("SPEY_KERNEL", "gemm/fast", 1);
    assert_int_equal(spey_kernel_choose_invariant(&backend, "gemm", &float_gemm, &kernel),
                     SPEY_UNSUPPORTED);
    assert_non_null(strstr(spey_last_error(), "batch invariance"));
    unsetenv("SPEY_KERNEL");
}

static void rows_are_found_by_their_whole_name(void **state)
{
    (void)state;
    assert_non_null(spey_kernel_find(spey_cpu_backend(), "gemm/ref"));
    assert_null(spey_kernel_find(spey_cpu_backend(), "gemm/re"));
    assert_null(spey_kernel_find(spey_cpu_backend(), "gemm/reference"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_row_that_fits_is_chosen),
        cmocka_unit_test(what_no_row_takes_is_named),
        cmocka_unit_test(spey_kernel_prefers_a_row),
        cmocka_unit_test(a_preferred_row_must_exist_and_fit),
        cmocka_unit_test(rows_that_vary_are_not_for_batch_invariance),
        cmocka_unit_test(rows_are_found_by_their_whole_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
