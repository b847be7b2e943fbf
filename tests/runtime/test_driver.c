/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <time.h>

#include "base/alloc.h"
#include "runtime/driver.h"

enum { JOBS = 1000 };

typedef struct log {
    uint64_t numbers[JOBS + 1], squares[JOBS + 1];
    uint64_t n;
} log;

static void square(void *user, uint64_t number)
{
    log *l = user;
    l->numbers[l->n++] = number;
    l->squares[number] = number * number;
}

static void jobs_are_done_in_order_and_can_be_read_behind_wait(void **state)
{
    (void)state;
    static log l;
    spey_driver *driver;
    assert_int_equal(spey_driver_new(square, &l, &driver), SPEY_OK);
    spey_alloc_seal(true);
    for (uint64_t number = 1; number <= JOBS; number++) {
        spey_driver_start(driver);
        if (number == 1) continue;
        spey_driver_wait(driver, number - 1);
        assert_int_equal(l.squares[number - 1], (number - 1) * (number - 1));
    }
    spey_alloc_seal(false);
    spey_driver_wait(driver, JOBS);
    spey_driver_wait(driver, 1); /* long done */
    assert_int_equal(spey_driver_done(driver), JOBS);
    spey_driver_free(driver);
    assert_int_equal(l.n, JOBS);
    for (uint64_t i = 0; i < JOBS; i++)
        assert_int_equal(l.numbers[i], i + 1);
}

static void nap(void *user, uint64_t number)
{
    nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    *(uint64_t *)user = number;
}

static void what_was_handed_over_is_done_before_free_returns(void **state)
{
    (void)state;
    uint64_t last = 0;
    spey_driver *driver;
    assert_int_equal(spey_driver_new(nap, &last, &driver), SPEY_OK);
    spey_driver_start(driver);
    spey_driver_start(driver);
    spey_driver_free(driver);
    assert_int_equal(last, 2);
    assert_int_equal(spey_driver_new(nap, &last, &driver), SPEY_OK);
    spey_driver_free(driver); /* without a job */
    spey_driver_free(NULL);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_driver *driver;
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_driver_new(nap, NULL, &driver), SPEY_NOMEM);
    spey_alloc_fail_nth(0);
    assert_null(driver);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_are_done_in_order_and_can_be_read_behind_wait),
        cmocka_unit_test(what_was_handed_over_is_done_before_free_returns),
        cmocka_unit_test(failing_allocations_leak_nothing),
    };
    return cmocka_run_group_tests_name("driver", tests, NULL, NULL);
}
