#include "base/splitmix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The first numbers that the authors' splitmix64.c gives from this seed. */
static void numbers_are_the_published_ones(void **state)
{
    (void)state;
    static const uint64_t expected[] = { 6457827717110365317u, 3203168211198807973u,
                                         9817491932198370423u, 4593380528125082431u };
    for (uint64_t i = 0; i < 4; i++)
        assert_true(spey_splitmix(1234567 + i * 0x9e3779b97f4a7c15u) == expected[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(numbers_are_the_published_ones) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
