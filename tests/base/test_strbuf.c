#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/strbuf.h"

static void appending_keeps_a_final_zero(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    spey_strbuf_puts(&buf, "ab");
    spey_strbuf_putc(&buf, 'c');
    spey_strbuf_append(&buf, "d\0e", 3);
    spey_strbuf_printf(&buf, "%d-%s", 42, "x");
    assert_int_equal(buf.len, 10);
    assert_memory_equal(buf.data, "abcd\0e42-x", 11);
    spey_strbuf_reset(&buf);
    assert_int_equal(buf.len, 0);
    assert_string_equal(buf.data, "");
    spey_strbuf_deinit(&buf);
    assert_null(buf.data);
}

static void growth_keeps_the_text(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    for (int i = 0; i < 10000; i++)
        spey_strbuf_printf(&buf, "%04d", i);
    assert_int_equal(buf.len, 40000);
    assert_memory_equal(buf.data + 4 * 1234, "1234", 4);
    assert_int_equal(strlen(buf.data), 40000);
    spey_strbuf_deinit(&buf);
}

static void failure_is_sticky_until_reset(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    spey_strbuf_puts(&buf, "kept");
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_strbuf_reserve(&buf, 1000), SPEY_NOMEM);
    spey_strbuf_puts(&buf, "lost");
    assert_int_equal(spey_strbuf_status(&buf), SPEY_NOMEM);
    assert_string_equal(buf.data, "kept");
    char *text;
    assert_int_equal(spey_strbuf_take(&buf, &text, NULL), SPEY_NOMEM);
    spey_strbuf_reset(&buf);
    spey_strbuf_puts(&buf, "new");
    assert_int_equal(spey_strbuf_status(&buf), SPEY_OK);
    assert_string_equal(buf.data, "new");
    spey_strbuf_deinit(&buf);
}

static void the_limit_is_exact(void **state)
{
    (void)state;
    spey_strbuf buf = { .max = 5 };
    spey_strbuf_puts(&buf, "12345");
    assert_int_equal(spey_strbuf_status(&buf), SPEY_OK);
    spey_strbuf_putc(&buf, '6');
    assert_int_equal(spey_strbuf_status(&buf), SPEY_LIMIT);
    assert_string_equal(buf.data, "12345");
    spey_strbuf_deinit(&buf);
    assert_int_equal(buf.max, 5);
}

static void impossible_sizes_fail_at_once(void **state)
{
    (void)state;
    static const size_t sizes[] = { SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 10, SIZE_MAX / 3 * 2 + 9 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        spey_strbuf buf = { 0 };
        spey_strbuf_puts(&buf, "x");
        assert_int_equal(spey_strbuf_reserve(&buf, sizes[i]), SPEY_NOMEM);
        assert_string_equal(buf.data, "x");
        spey_strbuf_deinit(&buf);
    }
}

static void take_hands_the_bytes_over(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    char *text;
    size_t len = 9;
    assert_int_equal(spey_strbuf_take(&buf, &text, &len), SPEY_OK); /* never NULL */
    assert_string_equal(text, "");
    assert_int_equal(len, 0);
    spey_free(text);
    spey_strbuf_puts(&buf, "abc");
    assert_int_equal(spey_strbuf_take(&buf, &text, &len), SPEY_OK);
    assert_string_equal(text, "abc");
    assert_int_equal(len, 3);
    assert_null(buf.data);
    spey_free(text);
}

static void reserved_bytes_allocate_nothing(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    assert_int_equal(spey_strbuf_reserve(&buf, 1000), SPEY_OK);
    spey_alloc_seal(true);
    for (int i = 0; i < 1000; i++)
        spey_strbuf_putc(&buf, 'x');
    spey_alloc_seal(false);
    assert_int_equal(buf.len, 1000);
    spey_strbuf_deinit(&buf);
}

static void code_points_become_utf8(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    static const uint32_t codes[] = { 0x24,   0x7f,    0x80,     0x7ff,  0x800,
                                      0xffff, 0x10000, 0x10ffff, 0xd800, 0x110000 };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        spey_strbuf_put_utf8(&buf, codes[i]);
    assert_string_equal(buf.data, "$\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80"
                                  "\xf4\x8f\xbf\xbf\xef\xbf\xbd\xef\xbf\xbd");
    spey_strbuf_deinit(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(appending_keeps_a_final_zero),
        cmocka_unit_test(growth_keeps_the_text),
        cmocka_unit_test(failure_is_sticky_until_reset),
        cmocka_unit_test(the_limit_is_exact),
        cmocka_unit_test(impossible_sizes_fail_at_once),
        cmocka_unit_test(take_hands_the_bytes_over),
        cmocka_unit_test(reserved_bytes_allocate_nothing),
        cmocka_unit_test(code_points_become_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
