#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/log.h"
#include "capture_stderr.h"

static void log_one_of_each(spey_log_level level, char *text, size_t size)
{
    captured_stderr captured = capture_begin();
    spey_log_set_level(level);
    spey_log(SPEY_LOG_ERROR, "e%d", 1);
    spey_log(SPEY_LOG_WARNING, "w");
    spey_log(SPEY_LOG_INFO, "i");
    spey_log(SPEY_LOG_DEBUG, "d");
    spey_log_set_level(SPEY_LOG_INFO);
    capture_end(&captured, text, size);
}

static void each_level_shows_itself_and_what_is_graver(void **state)
{
    (void)state;
    char text[1000];
    assert_int_equal(spey_log_get_level(), SPEY_LOG_INFO);
    log_one_of_each(SPEY_LOG_QUIET, text, sizeof text);
    assert_string_equal(text, "");
    log_one_of_each(SPEY_LOG_ERROR, text, sizeof text);
    assert_string_equal(text, "spey: error: e1\n");
    log_one_of_each(SPEY_LOG_WARNING, text, sizeof text);
    assert_string_equal(text, "spey: error: e1\nspey: warning: w\n");
    log_one_of_each(SPEY_LOG_INFO, text, sizeof text);
    assert_string_equal(text, "spey: error: e1\nspey: warning: w\nspey: i\n");
    log_one_of_each(SPEY_LOG_DEBUG, text, sizeof text);
    assert_string_equal(text, "spey: error: e1\nspey: warning: w\nspey: i\nspey: debug: d\n");
}

static void long_lines_are_cut(void **state)
{
    (void)state;
    char text[8000], line[5000];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = 0;
    captured_stderr captured = capture_begin();
    spey_log(SPEY_LOG_ERROR, "%s", line);
    capture_end(&captured, text, sizeof text);
    assert_true(strlen(text) > 1000 && strlen(text) < 3000);
    assert_int_equal(text[strlen(text) - 1], '\n');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_level_shows_itself_and_what_is_graver),
        cmocka_unit_test(long_lines_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
