#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"

static json_t *parse(const char *text)
{
    json_t *root;
    assert_int_equal(spey_json_parse("here", text, strlen(text), &root), SPEY_OK);
    return root;
}

static void fails(spey_status expected, const char *text, const char *message)
{
    json_t *root;
    assert_int_equal(spey_json_parse("here", text, strlen(text), &root), expected);
    assert_null(root);
    if (!strstr(spey_last_error(), message))
        fail_msg("'%s' lacks '%s'", spey_last_error(), message);
}

static void writing_and_parsing_again_gives_the_same(void **state)
{
    (void)state;
    json_t *root = parse("{\"a\": [1, 2.5, \"t\\u00e9xt\"], \"b\": null}"), *again;
    spey_strbuf text = { 0 };
    assert_int_equal(spey_json_write(root, JSON_COMPACT, &text), SPEY_OK);
    assert_int_equal(spey_json_parse("here", text.data, text.len, &again), SPEY_OK);
    assert_true(json_equal(root, again));
    json_decref(root);
    json_decref(again);
    spey_strbuf_deinit(&text);
}

static void bad_text_names_the_place(void **state)
{
    (void)state;
    fails(SPEY_FORMAT, "{\n \"a\": }", "here: bad JSON at line 2");
    fails(SPEY_FORMAT, "", "here: bad JSON");
    fails(SPEY_FORMAT, "[1] x", "here: bad JSON");
    fails(SPEY_FORMAT, "{\"a\":1,\"a\":2}", "duplicate");
    fails(SPEY_FORMAT, "[\"\xff\"]", "here: bad JSON");
    json_t *root;
    assert_int_equal(spey_json_parse("here", NULL, 0, &root), SPEY_FORMAT);
}

static void depth_is_bounded(void **state)
{
    (void)state;
    char text[2 * SPEY_JSON_DEPTH_MAX + 3] = { 0 };
    memset(text, '[', SPEY_JSON_DEPTH_MAX);
    memset(text + SPEY_JSON_DEPTH_MAX, ']', SPEY_JSON_DEPTH_MAX);
    json_decref(parse(text));
    memset(text, '[', SPEY_JSON_DEPTH_MAX + 1);
    memset(text + SPEY_JSON_DEPTH_MAX + 1, ']', SPEY_JSON_DEPTH_MAX + 1);
    fails(SPEY_LIMIT, text, "nested deeper");
    json_decref(parse(
        "[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[\"]"));
}

static void integers_are_checked(void **state)
{
    (void)state;
    json_t *root =
        parse("{\"i\": 5, \"e\": 1e6, \"f\": 1.5, \"s\": \"5\", \"n\": null, \"h\": 1e300}");
    int64_t out = -1;
    assert_int_equal(spey_json_int(root, "here", "i", 0, 9, -1, &out), SPEY_OK);
    assert_int_equal(out, 5);
    assert_int_equal(spey_json_int(root, "here", "e", 0, 9999999, -1, &out), SPEY_OK);
    assert_int_equal(out, 1000000);
    assert_int_equal(spey_json_int(root, "here", "n", 0, 9, 3, &out), SPEY_OK);
    assert_int_equal(out, 3);
    assert_int_equal(spey_json_int(root, "here", "i", 6, 9, 7, &out), SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "here: \"i\" is 5, expected 6…9"));
    assert_int_equal(spey_json_int(root, "here", "q", 6, 9, 0, &out), SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "missing"));
    assert_int_equal(spey_json_int(root, "here", "f", 0, 9, 0, &out), SPEY_FORMAT);
    assert_int_equal(spey_json_int(root, "here", "s", 0, 9, 0, &out), SPEY_FORMAT);
    assert_int_equal(spey_json_int(root, "here", "h", 0, 9, 0, &out), SPEY_FORMAT);
    assert_int_equal(out, 3);
    json_decref(root);
}

static void numbers_are_checked(void **state)
{
    (void)state;
    json_t *root = parse("{\"i\": 5, \"f\": 0.25, \"s\": \"5\"}");
    double out = -1;
    assert_int_equal(spey_json_number(root, "here", "i", 0, 9, 1, &out), SPEY_OK);
    assert_true(out == 5);
    assert_int_equal(spey_json_number(root, "here", "f", 0, 9, 1, &out), SPEY_OK);
    assert_true(out == 0.25);
    assert_int_equal(spey_json_number(root, "here", "q", 0, 9, 1.5, &out), SPEY_OK);
    assert_true(out == 1.5);
    assert_int_equal(spey_json_number(root, "here", "q", 0, 9, (double)NAN, &out), SPEY_FORMAT);
    assert_int_equal(spey_json_number(root, "here", "f", 1, 9, 1, &out), SPEY_FORMAT);
    assert_int_equal(spey_json_number(root, "here", "s", 0, 9, 1, &out), SPEY_FORMAT);
    assert_true(out == 1.5);
    json_decref(root);
}

static void booleans_and_strings_are_checked(void **state)
{
    (void)state;
    json_t *root = parse("{\"t\": true, \"s\": \"x\", \"n\": null}");
    bool flag = false;
    const char *text = NULL;
    assert_int_equal(spey_json_bool(root, "here", "t", false, &flag), SPEY_OK);
    assert_true(flag);
    assert_int_equal(spey_json_bool(root, "here", "n", true, &flag), SPEY_OK);
    assert_true(flag);
    assert_int_equal(spey_json_bool(root, "here", "s", true, &flag), SPEY_FORMAT);
    assert_int_equal(spey_json_string(root, "here", "s", NULL, &text), SPEY_OK);
    assert_string_equal(text, "x");
    assert_int_equal(spey_json_string(root, "here", "n", "y", &text), SPEY_OK);
    assert_string_equal(text, "y");
    assert_int_equal(spey_json_string(root, "here", "t", NULL, &text), SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "here: \"t\" is a boolean, expected a string"));
    json_decref(root);
}

static void quoted_text_reads_back(void **state)
{
    (void)state;
    static const char text[] = "a\"b\\c\nd\te\x01\x7f é \xf0\x9f\x98\x80 /";
    spey_strbuf buf = { 0 };
    spey_strbuf_putc(&buf, '[');
    spey_json_quote(&buf, text, sizeof text - 1);
    spey_strbuf_putc(&buf, ']');
    json_t *root = parse(buf.data);
    assert_string_equal(json_string_value(json_array_get(root, 0)), text);
    json_decref(root);
    spey_strbuf_reset(&buf);
    spey_json_quote(&buf, "a\xff\xc3", 3);
    assert_string_equal(buf.data, "\"a\xef\xbf\xbd\xef\xbf\xbd\"");
    spey_strbuf_reset(&buf);
    spey_json_quote(&buf, "\xed\xa0\x80", 3); /* a surrogate is no character */
    assert_string_equal(buf.data, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    spey_strbuf_deinit(&buf);
}

static void files_are_read_and_named(void **state)
{
    (void)state;
    json_t *root;
    assert_int_equal(spey_json_read("tests/data/no-such-file.json", &root), SPEY_NOT_FOUND);
    assert_non_null(strstr(spey_last_error(), "tests/data/no-such-file.json"));
    assert_int_equal(spey_json_read("CMakeLists.txt", &root), SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "CMakeLists.txt: bad JSON"));
}

static spey_status sum_value(void *user, const char *at, const json_t *value)
{
    int64_t x;
    SPEY_TRY(spey_json_int(value, at, "x", 0, 100, 0, &x));
    *(int64_t *)user = *(int64_t *)user * 10 + x;
    return SPEY_OK;
}

static void json_lines_are_read_one_by_one(void **state)
{
    (void)state;
    int64_t sum = 0;
    const char text[] = "{\"x\": 1}\r\n\n{\"x\": 2}\n{}"; /* the last has no newline */
    assert_int_equal(spey_jsonl_each("in", text, sizeof text - 1, sum_value, &sum), SPEY_OK);
    assert_int_equal(sum, 120);
    const char *bad[] = { "{}\n\n{\"x\": 101}\n{}", "{}\n\n{\"x\": \n{}" };
    for (int i = 0; i < 2; i++) {
        sum = 1;
        assert_int_equal(spey_jsonl_each("in", bad[i], strlen(bad[i]), sum_value, &sum),
                         SPEY_FORMAT);
        assert_non_null(strstr(spey_last_error(), "in:3"));
        assert_int_equal(sum, 10); /* the line before was taken, the one behind was not */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writing_and_parsing_again_gives_the_same),
        cmocka_unit_test(bad_text_names_the_place),
        cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(integers_are_checked),
        cmocka_unit_test(numbers_are_checked),
        cmocka_unit_test(booleans_and_strings_are_checked),
        cmocka_unit_test(quoted_text_reads_back),
        cmocka_unit_test(files_are_read_and_named),
        cmocka_unit_test(json_lines_are_read_one_by_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
