/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "device/ceiling.h"

static void the_read_bandwidth_is_a_number_of_this_world(void **state)
{
    (void)state;
    spey_pool *pool;
    double rate;
    assert_int_equal(spey_pool_new(1, &pool), SPEY_OK);
    assert_int_equal(spey_ceiling_read(pool, &rate), SPEY_OK);
    spey_pool_free(pool);
    assert_true(rate > 1e8 && rate < 1e13);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_read_bandwidth_is_a_number_of_this_world),
    };
    return cmocka_run_group_tests_name("ceiling", tests, NULL, NULL);
}
