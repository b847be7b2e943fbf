/* What logits weigh: over all keys. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/limits.h"
#include "kernels/sample/sample_weight.h"

static const uint32_t octave = 1u << SPEY_SAMPLE_KEY_FRACTION_BITS;

static void a_weight_is_the_power_of_two_that_it_stands_for(void **state)
{
    (void)state;
    assert_true(spey_sample_weight(0) == UINT64_C(1) << SPEY_SAMPLE_WEIGHT_BITS);
    double worst = 0;
    for (uint32_t f = 0; f < octave; f += 7) {
        double exact = exp2(40 - (double)f / octave);
        worst = fmax(worst, fabs((double)spey_sample_weight(f) / exact - 1));
    }
    assert_true(worst < 0x1p-26);
    for (uint32_t n = 0; n < 64; n++)
        assert_true(spey_sample_weight(n * octave + 5) == spey_sample_weight(5) >> n);
}

static void weights_never_grow_with_the_key(void **state)
{
    (void)state;
    uint64_t last = spey_sample_weight(0);
    for (uint32_t key = 1; key <= 2 * octave; key++) {
        uint64_t weight = spey_sample_weight(key);
        if (weight > last) fail_msg("key %u", key);
        last = weight;
    }
    assert_true(spey_sample_weight(41 * octave) == 0);
    assert_true(spey_sample_weight((1u << SPEY_SAMPLE_KEY_BITS) - 1) == 0);
}

static void keys_count_bits_of_surprise(void **state)
{
    (void)state;
    const float slope = spey_sample_slope(1);
    assert_int_equal(spey_sample_key(3, 3, slope), 0);
    assert_true(fabs(spey_sample_key(3, 1, slope) - 2 / log(2) * octave) < 8);
    assert_int_equal(spey_sample_key(0, -1, 1), octave);
    assert_int_equal(spey_sample_key(0, -1000, 1), (1u << SPEY_SAMPLE_KEY_BITS) - 1);
    assert_int_equal(spey_sample_key(3e38f, -3e38f, 1), (1u << SPEY_SAMPLE_KEY_BITS) - 1);
    /* However cold it is, the best one stays the best. */
    assert_int_equal(spey_sample_key(3, 3, spey_sample_slope(1e-300)), 0);
    assert_int_equal(spey_sample_key(3, 2.9f, spey_sample_slope(1e-300)),
                     (1u << SPEY_SAMPLE_KEY_BITS) - 1);
}

static void goals_and_points_stay_within_the_total(void **state)
{
    (void)state;
    const uint64_t total = (UINT64_C(1) << 53) + 1, most = UINT64_C(1) << 62;
    assert_true(spey_sample_goal(0, total) == 1);
    assert_true(spey_sample_goal(1 - 0x1p-53, total) <= total);
    assert_true(spey_sample_goal(0.5, 100) == 50);
    assert_true(spey_sample_goal(0.501, 100) == 51);
    for (uint64_t i = 0; i < 1000; i++)
        assert_true(spey_sample_point(9, i, 3) < 3 && spey_sample_point(i, 2, most) < most);
    assert_true(spey_sample_least(1) == UINT64_C(1) << SPEY_SAMPLE_WEIGHT_BITS);
    assert_true(spey_sample_least(0) == 0);
    assert_true((uint64_t)SPEY_VOCAB_MAX << SPEY_SAMPLE_WEIGHT_BITS >> SPEY_SAMPLE_WEIGHT_BITS ==
                SPEY_VOCAB_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_weight_is_the_power_of_two_that_it_stands_for),
        cmocka_unit_test(weights_never_grow_with_the_key),
        cmocka_unit_test(keys_count_bits_of_surprise),
        cmocka_unit_test(goals_and_points_stay_within_the_total),
    };
    return cmocka_run_group_tests_name("sample_weight", tests, NULL, NULL);
}
