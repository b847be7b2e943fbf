#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdio.h>

#include "spey/spey.h"

static void the_text_is_the_numbers_of_the_header(void **state)
{
    (void)state;
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", SPEY_VERSION_MAJOR, SPEY_VERSION_MINOR,
             SPEY_VERSION_PATCH);
    assert_string_equal(spey_version(), text);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_text_is_the_numbers_of_the_header) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
