#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/status.h"

static void every_code_has_a_text(void **state)
{
    (void)state;
    for (int i = SPEY_OK; i <= SPEY_INTERNAL; i++) {
        assert_string_not_equal(spey_status_text((spey_status)i), "unknown status");
        for (int j = SPEY_OK; j < i; j++)
            assert_string_not_equal(spey_status_text((spey_status)i),
                                    spey_status_text((spey_status)j));
    }
    assert_string_equal(spey_status_text((spey_status)999), "unknown status");
    assert_int_equal(SPEY_OK, 0);
}

static spey_status inner(void)
{
    return SPEY_FAIL(SPEY_FORMAT, "%d is %s", 7, "odd");
}

static spey_status outer(void)
{
    SPEY_TRY(SPEY_OK);
    SPEY_TRY_CTX(inner(), "file %s", "x");
    return SPEY_OK;
}

static void context_goes_before_the_text(void **state)
{
    (void)state;
    assert_int_equal(inner(), SPEY_FORMAT);
    assert_string_equal(spey_last_error(), "7 is odd");
    assert_int_equal(outer(), SPEY_FORMAT);
    assert_string_equal(spey_last_error(), "file x: 7 is odd");
}

static void a_text_may_quote_the_one_before(void **state)
{
    (void)state;
    (void)inner();
    (void)SPEY_FAIL(SPEY_IO, "then: %s", spey_last_error());
    assert_string_equal(spey_last_error(), "then: 7 is odd");
}

static void long_texts_are_cut(void **state)
{
    (void)state;
    char text[3 * SPEY_ERROR_BYTES_MAX];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    (void)SPEY_FAIL(SPEY_IO, "%s", text);
    assert_int_equal(strlen(spey_last_error()), SPEY_ERROR_BYTES_MAX - 1);
    assert_int_equal(spey_error_context(SPEY_IO, "%s", text), SPEY_IO);
    assert_int_equal(strlen(spey_last_error()), SPEY_ERROR_BYTES_MAX - 1);
}

static void a_failed_assert_aborts(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        SPEY_ASSERT(child != 0);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    SPEY_ASSERT(child != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_a_text),
        cmocka_unit_test(context_goes_before_the_text),
        cmocka_unit_test(a_text_may_quote_the_one_before),
        cmocka_unit_test(long_texts_are_cut),
        cmocka_unit_test(a_failed_assert_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
