#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "device/backend.h"

static void a_missing_library_says_where_it_was_sought(void **state)
{
    (void)state;
    const spey_backend *backend;
    assert_int_equal(spey_backend_open_plugin("nonesuch", &backend), SPEY_NOT_FOUND);
    assert_null(backend);
    assert_non_null(strstr(spey_last_error(), "libspey-nonesuch.so"));
    assert_non_null(strstr(spey_last_error(), "../lib/spey"));
}

static void names_that_are_paths_are_refused(void **state)
{
    (void)state;
    const spey_backend *backend;
    static const char *const names[] = { "", "../x", "a/b", "longer-than-any-name-of-a-device-is" };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(spey_backend_open_plugin(names[i], &backend), SPEY_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_library_says_where_it_was_sought),
        cmocka_unit_test(names_that_are_paths_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
