#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

static void time_never_goes_back(void **state)
{
    (void)state;
    uint64_t last = spey_clock_ns();
    assert_true(last > 0);
    for (int i = 0; i < 10000; i++) {
        uint64_t now = spey_clock_ns();
        assert_true(now >= last);
        last = now;
    }
}

static void seconds_since_agree_with_nanoseconds(void **state)
{
    (void)state;
    uint64_t start = spey_clock_ns() - 2000000000u;
    double seconds = spey_clock_seconds_since(start);
    assert_true(seconds >= 2.0 && seconds < 30.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_never_goes_back),
        cmocka_unit_test(seconds_since_agree_with_nanoseconds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
