/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "base/edit_distance.h"
#include "base/limits.h"

static void each_change_of_a_letter_counts_one(void **state)
{
    (void)state;
    assert_int_equal(spey_edit_distance("", ""), 0);
    assert_int_equal(spey_edit_distance("same", "same"), 0);
    assert_int_equal(spey_edit_distance("", "abc"), 3);
    assert_int_equal(spey_edit_distance("abc", ""), 3);
    assert_int_equal(spey_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(spey_edit_distance("Saturday", "Sunday"), 3);
    assert_int_equal(spey_edit_distance("up_proj", "up_prj"), 1);
}

static void endless_names_are_cut(void **state)
{
    (void)state;
    static char a[100000], b[100000];
    memset(a, 'a', sizeof a - 1);
    memset(b, 'b', sizeof b - 1);
    assert_int_equal(spey_edit_distance(a, b), SPEY_NAME_BYTES_MAX - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_change_of_a_letter_counts_one),
        cmocka_unit_test(endless_names_are_cut),
    };
    return cmocka_run_group_tests_name("edit_distance", tests, NULL, NULL);
}
