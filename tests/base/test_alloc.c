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

#include "base/alloc.h"
#include "base/status.h"

static void memory_is_zero_and_aligned(void **state)
{
    (void)state;
    for (size_t bytes = 0; bytes < 5000; bytes += 61) {
        unsigned char *p = spey_alloc(SPEY_PURPOSE_GENERAL, bytes);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < bytes; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, bytes); /* the next one must not see this */
        spey_free(p);
    }
    spey_free(NULL);
}

static void every_purpose_is_counted_apart(void **state)
{
    (void)state;
    spey_alloc_stats before = spey_alloc_read_stats();
    void *text = spey_alloc(SPEY_PURPOSE_TEXT, 100), *kv = spey_alloc(SPEY_PURPOSE_KV, 1000);
    spey_alloc_stats during = spey_alloc_read_stats();
    assert_int_equal(during.bytes[SPEY_PURPOSE_TEXT] - before.bytes[SPEY_PURPOSE_TEXT], 100);
    assert_int_equal(during.bytes[SPEY_PURPOSE_KV] - before.bytes[SPEY_PURPOSE_KV], 1000);
    assert_int_equal(during.n_live - before.n_live, 2);
    assert_int_equal(during.n_allocations - before.n_allocations, 2);
    spey_free(text);
    spey_free(kv);
    spey_alloc_stats after = spey_alloc_read_stats();
    assert_int_equal(after.n_live, before.n_live);
    assert_memory_equal(after.bytes, before.bytes, sizeof after.bytes);
    assert_true(after.peak_bytes >= 1100);
    assert_string_equal(spey_purpose_text(SPEY_PURPOSE_KV), "kv cache");
}

static void realloc_keeps_the_bytes_and_zeroes_new_ones(void **state)
{
    (void)state;
    char *p = spey_realloc(SPEY_PURPOSE_GENERAL, NULL, 3);
    memcpy(p, "abc", 3);
    p = spey_realloc(SPEY_PURPOSE_GENERAL, p, 200);
    assert_memory_equal(p, "abc\0\0\0", 6);
    for (int i = 3; i < 200; i++)
        assert_int_equal(p[i], 0);
    p = spey_realloc(SPEY_PURPOSE_GENERAL, p, 2);
    assert_memory_equal(p, "ab", 2);
    spey_free(p);
}

static void a_failed_realloc_leaves_the_old_block(void **state)
{
    (void)state;
    char *p = spey_strdup(SPEY_PURPOSE_GENERAL, "kept");
    spey_alloc_fail_nth(1);
    assert_null(spey_realloc(SPEY_PURPOSE_GENERAL, p, 100));
    assert_string_equal(p, "kept");
    spey_free(p);
}

static void strings_are_copied_with_a_final_zero(void **state)
{
    (void)state;
    char *p = spey_strndup(SPEY_PURPOSE_GENERAL, "abcdef", 3);
    assert_string_equal(p, "abc");
    spey_free(p);
}

static void torture_fails_exactly_the_nth(void **state)
{
    (void)state;
    void *p[4];
    spey_alloc_fail_nth(3);
    for (int i = 0; i < 4; i++)
        p[i] = spey_alloc(SPEY_PURPOSE_GENERAL, 8);
    assert_true(p[0] && p[1] && !p[2] && p[3]);
    assert_non_null(strstr(spey_last_error(), "out of memory: 8 bytes"));
    for (int i = 0; i < 4; i++)
        spey_free(p[i]);
    spey_alloc_fail_nth(1);
    spey_alloc_fail_nth(0);
    spey_free(p[0] = spey_alloc(SPEY_PURPOSE_GENERAL, 1));
    assert_non_null(p[0]);
}

static void sizes_that_overflow_fail(void **state)
{
    (void)state;
    size_t out = 7;
    assert_null(spey_alloc(SPEY_PURPOSE_GENERAL, SIZE_MAX));
    assert_null(spey_alloc(SPEY_PURPOSE_GENERAL, SIZE_MAX - 100));
    assert_null(spey_alloc_array(SPEY_PURPOSE_GENERAL, SIZE_MAX / 2, 3));
    assert_false(spey_mul_size(SIZE_MAX, 2, &out));
    assert_false(spey_add_size(SIZE_MAX, 1, &out));
    assert_int_equal(out, 7);
    assert_true(spey_mul_size(6, 7, &out));
    assert_int_equal(out, 42);
    assert_true(spey_add_size(40, 2, &out));
    assert_int_equal(out, 42);
}

static void a_sealed_thread_aborts_when_it_allocates(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        spey_alloc_seal(true);
        spey_free(spey_alloc(SPEY_PURPOSE_GENERAL, 1));
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    spey_alloc_seal(true);
    spey_alloc_seal(false);
    void *p = spey_alloc(SPEY_PURPOSE_GENERAL, 1);
    assert_non_null(p);
    spey_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zero_and_aligned),
        cmocka_unit_test(every_purpose_is_counted_apart),
        cmocka_unit_test(realloc_keeps_the_bytes_and_zeroes_new_ones),
        cmocka_unit_test(a_failed_realloc_leaves_the_old_block),
        cmocka_unit_test(strings_are_copied_with_a_final_zero),
        cmocka_unit_test(torture_fails_exactly_the_nth),
        cmocka_unit_test(sizes_that_overflow_fail),
        cmocka_unit_test(a_sealed_thread_aborts_when_it_allocates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
