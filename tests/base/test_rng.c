#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "base/rng.h"

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void philox_gives_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint64_t seed, stream, counter;
        uint32_t words[4];
    } cases[] = {
        { 0, 0, 0, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { UINT64_MAX, UINT64_MAX, UINT64_MAX, { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { 0x299f31d0a4093822u,
          0x0370734413198a2eu,
          0x85a308d3243f6a88u,
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t words[4];
        spey_philox(cases[i].seed, cases[i].stream, cases[i].counter, words);
        assert_memory_equal(words, cases[i].words, sizeof words);
    }
}

static void uniform_is_spread_over_the_unit(void **state)
{
    (void)state;
    double sum = 0, squares = 0;
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        double u = spey_philox_uniform(1, 2, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 0.01);
    assert_true(fabs(squares / N - 1.0 / 3) < 0.01);
    assert_true(spey_philox_uniform(1, 2, 3) == spey_philox_uniform(1, 2, 3));
    assert_true(spey_philox_uniform(1, 3, 3) != spey_philox_uniform(1, 2, 3));
    assert_true(spey_philox_uniform(2, 2, 3) != spey_philox_uniform(1, 2, 3));
}

static void below_reaches_every_value_and_no_other(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 5 };
    int seen[7] = { 0 };
    for (int i = 0; i < 7000; i++) {
        uint64_t value = spey_rng_below(&rng, 7);
        assert_true(value < 7);
        seen[value]++;
    }
    for (int i = 0; i < 7; i++)
        assert_true(seen[i] > 800 && seen[i] < 1200);
    assert_int_equal(spey_rng_below(&rng, 1), 0);
}

static void range_and_normal_have_their_moments(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 6 };
    double sum = 0, squares = 0;
    enum { N = 20000 };
    for (int i = 0; i < N; i++) {
        double r = spey_rng_range(&rng, -2, 3), n = spey_rng_normal(&rng);
        assert_true(r >= -2 && r < 3 && isfinite(n));
        sum += n;
        squares += n * n;
    }
    assert_true(fabs(sum / N) < 0.03);
    assert_true(fabs(squares / N - 1) < 0.05);
}

static void equal_seeds_give_equal_sequences(void **state)
{
    (void)state;
    spey_rng a = { .seed = 7 }, b = { .seed = 7 }, c = { .seed = 8 };
    for (int i = 0; i < 100; i++)
        assert_int_equal(spey_rng_next(&a), spey_rng_next(&b));
    assert_int_not_equal(spey_rng_next(&a), spey_rng_next(&c));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_known_answers),
        cmocka_unit_test(uniform_is_spread_over_the_unit),
        cmocka_unit_test(below_reaches_every_value_and_no_other),
        cmocka_unit_test(range_and_normal_have_their_moments),
        cmocka_unit_test(equal_seeds_give_equal_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
