#include "kernels/random_normal/random_normal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/splitmix.h"
#include "kernels/registry.h"

enum { WORDS = 20000 };
static uint64_t out[WORDS];

static void run(spey_dtype dtype, uint64_t seed, float scale)
{
    const spey_random_normal_args args = {
        .rows = WORDS, .out = out, .seed = seed, .scale = scale, .dtype = dtype
    };
    spey_device *device;
    spey_step step = { .args = &args };
    const spey_backend *cpu = spey_cpu_backend();
    assert_int_equal(cpu->device_open(0, &(spey_device_options){ .threads = 2 }, &device), SPEY_OK);
    assert_int_equal(spey_kernel_choose(cpu, "random_normal", &args, &step.kernel), SPEY_OK);
    assert_int_equal(cpu->run(device, &step, 1), SPEY_OK);
    cpu->device_close(device);
}

static double element(spey_dtype dtype, int i)
{
    if (dtype == SPEY_E4M3) return (double)spey_e4m3_to_f32(((const uint8_t *)out)[i]);
    float x;
    const uint8_t *at = (const uint8_t *)out + (size_t)i * spey_dtype_bytes(dtype);
    assert_true(spey_convert(&x, SPEY_F32, at, dtype, 1));
    return (double)x;
}

/* The contract's formula, bit by bit. */
static double z_of(uint64_t bits, int width)
{
    int ones = 0, fraction = width - 8;
    for (int i = fraction; i < width; i++)
        ones += (int)(bits >> i & 1);
    double low = (double)(bits & ((1u << fraction) - 1));
    return ones + (low + 0.5) / (double)(1u << fraction) - 4.5;
}

static void elements_are_what_the_contract_says(void **state)
{
    (void)state;
    static const spey_dtype dtypes[] = { SPEY_F32, SPEY_F16, SPEY_BF16, SPEY_E4M3 };
    static const double units[] = { 0x1p-23, 0x1p-11, 0x1p-8, 0x1p-4 };
    for (int d = 0; d < 4; d++) {
        int width = dtypes[d] == SPEY_F32 ? 32 : 16;
        run(dtypes[d], 7, 3);
        for (int i = 0; i < WORDS * 64 / width && i < WORDS * 8 / (int)spey_dtype_bytes(dtypes[d]);
             i++) {
            uint64_t word = spey_splitmix(7 + (uint64_t)(i * width / 64));
            double x = 3 * z_of(word >> i * width % 64, width);
            double unit = dtypes[d] == SPEY_E4M3 && fabs(x) < 0x1p-6 ? 0x1p-10 : fabs(x) * units[d];
            assert_true(fabs(element(dtypes[d], i) - x) <= unit);
        }
    }
}

static void numbers_are_distributed_about_normally(void **state)
{
    (void)state;
    static const struct {
        double deviations, share;
    } normal[] = { { 0.5, 0.383 }, { 1, 0.683 }, { 1.5, 0.866 }, { 2, 0.954 }, { 3, 0.997 } };
    const int n = WORDS * 8;
    const double deviation = (double)SPEY_RANDOM_NORMAL_DEVIATION;
    run(SPEY_E4M3, 11, (float)(100 / deviation));
    double sum = 0, squares = 0, products = 0;
    int within[5] = { 0 };
    for (int i = 0; i < n; i++) {
        double x = element(SPEY_E4M3, i) / 100;
        sum += x;
        squares += x * x;
        products += x * (i ? element(SPEY_E4M3, i - 1) / 100 : 0);
        for (int k = 0; k < 5; k++)
            within[k] += fabs(x) <= normal[k].deviations;
    }
    assert_true(fabs(sum / n) < 0.01 && fabs(squares / n - 1) < 0.02 && fabs(products / n) < 0.01);
    for (int k = 0; k < 5; k++)
        assert_true(fabs((double)within[k] / n - normal[k].share) < 0.025);
}

static void numbers_of_a_seed_do_not_change(void **state)
{
    (void)state;
    run(SPEY_BF16, 1, 0.013f);
    uint64_t first = out[0], last = out[WORDS - 1];
    run(SPEY_BF16, 2, 0.013f);
    assert_true(out[0] != first && out[WORDS - 2] == last);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elements_are_what_the_contract_says),
        cmocka_unit_test(numbers_are_distributed_about_normally),
        cmocka_unit_test(numbers_of_a_seed_do_not_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
