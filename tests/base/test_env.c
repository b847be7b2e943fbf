#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/env.h"

static void empty_and_unset_are_the_same(void **state)
{
    (void)state;
    setenv("SPEY_ISA", "avx2", 1);
    assert_string_equal(spey_env("SPEY_ISA"), "avx2");
    setenv("SPEY_ISA", "", 1);
    assert_null(spey_env("SPEY_ISA"));
    unsetenv("SPEY_ISA");
    assert_null(spey_env("SPEY_ISA"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(empty_and_unset_are_the_same) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
