/* Chat templates against what Jinja2 makes of them (tests/data/chat_templates, made by
 * tools/reference/make_chat_templates.py), and against hostile input.
 *
 * With --render the program answers lines {"t": template, "v": variables} with {"ok": text} or
 * {"err": message}, for tools/reference/diff_chat_templates.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/limits.h"
#include "text/chat_template.h"

static spey_status render(const char *source, size_t n, const json_t *variables, spey_strbuf *out)
{
    spey_chat_template *chat_template;
    SPEY_TRY(spey_chat_template_parse(source, n, &chat_template));
    spey_status status = spey_chat_template_render(chat_template, variables, out);
    spey_chat_template_free(chat_template);
    return status;
}

/* ---- fixtures ---- */

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static bool run_case(const json_t *file, const json_t *test)
{
    const char *name = text_of(test, "name"), *source = text_of(test, "template");
    const char *expected = text_of(test, "expected"), *raises = text_of(test, "raises");
    const char *shared = text_of(json_object_get(file, "templates"), source);
    const json_t *variables =
        json_object_get(json_object_get(file, "variables"), text_of(test, "variables"));
    if (shared) source = shared;
    spey_strbuf out = { 0 };
    spey_status status = render(source, strlen(source), variables, &out);
    const char *got = out.data ? out.data : "";
    bool good = expected ? !status && strcmp(got, expected) == 0
                         : status && (!raises || strcmp(spey_last_error(), raises) == 0);
    if (!good)
        print_error("%s: expected %s\n<%s>\ngot %s\n<%s>\n", name, expected ? "text" : "failure",
                    expected ? expected
                    : raises ? raises
                             : "",
                    status ? "failure" : "text", status ? spey_last_error() : got);
    spey_strbuf_deinit(&out);
    return good;
}

static void run_file(const char *path, size_t cases_min)
{
    json_t *file, *cases;
    assert_int_equal(spey_json_read(path, &file), SPEY_OK);
    cases = json_object_get(file, "cases");
    size_t n_bad = 0;
    for (size_t i = 0; i < json_array_size(cases); i++)
        n_bad += !run_case(file, json_array_get(cases, i));
    assert_true(json_array_size(cases) >= cases_min);
    assert_int_equal(n_bad, 0);
    json_decref(file);
}

static void constructs_render_as_in_jinja(void **state)
{
    (void)state;
    run_file("tests/data/chat_templates/constructs.json", 80);
}

static void what_fails_in_jinja_fails_here(void **state)
{
    (void)state;
    run_file("tests/data/chat_templates/failures.json", 50);
}

static void templates_of_model_families_render_as_in_jinja(void **state)
{
    (void)state;
    run_file("tests/data/chat_templates/models.json", 150);
}

/* ---- errors ---- */

static spey_status fails_with(const char *source, const char *message)
{
    json_t *variables = json_pack("{s:[i,i], s:s}", "l", 1, 2, "s", "text");
    spey_strbuf out = { 0 };
    spey_strbuf_puts(&out, "before");
    spey_status status = render(source, strlen(source), variables, &out);
    assert_int_not_equal(status, SPEY_OK);
    if (!strstr(spey_last_error(), message))
        fail_msg("%s\ngave '%s', expected '%s'", source, spey_last_error(), message);
    assert_string_equal(out.data, "before");
    spey_strbuf_deinit(&out);
    json_decref(variables);
    return status;
}

static void syntax_errors_name_line_and_column(void **state)
{
    (void)state;
    static const struct {
        const char *source, *message;
    } cases[] = {
        { "a\nb {{ 1 + }}", "line 2, column 10: expected an expression, found '}}'" },
        { "{% if x %}\n\n{% endfor %}", "line 3, column 4: unknown tag 'endfor'" },
        { "{% if x %}\nyes", "expected 'endif', found the end of the template" },
        { "é {% for x of l %}", "line 1, column 12: expected 'in', found 'of'" },
        { "{{ 'abc }}", "line 1, column 4: string without end" },
        { "\n  {# never", "line 2, column 3: comment without end" },
        { "{{ a ? b }}", "line 1, column 6: unexpected character" },
        { "{{ s|nothing }}", "line 1, column 6: no filter named 'nothing'" },
        { "{% include 'x' %}", "line 1, column 4: the statement 'include' is not supported" },
        { "{{ 99999999999999999999 }}", "line 1, column 4: integer beyond 64 bits" },
        { "{{ \"\\u12\" }}", "malformed" },
        { "{{ (1] }}", "closing bracket without its opening one" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        fails_with(cases[i].source, cases[i].message);
    assert_int_equal(fails_with("{{ \xff }}", "not valid UTF-8"), SPEY_FORMAT);
}

static void running_errors_name_line_and_column(void **state)
{
    (void)state;
    fails_with("a\n{{ l.x.y }}", "line 2, column 8: 'list object' has no attribute 'x'");
    fails_with("{% set x = 1 %}\n {{ 'a' + x }}", "line 2, column 9: can only concatenate str");
    fails_with("{% for a, b in l %}{% endfor %}", "line 1, column 9: 'int' object is not iterable");
    fails_with("{{ l.append(1) }}", "access to attribute 'append' of 'list' object is unsafe");
    fails_with("{% if true %}{{ s|nothing }}{% endif %}", "no filter named 'nothing'");
}

static void raise_exception_gives_its_text_alone(void **state)
{
    (void)state;
    spey_status status = fails_with("{{ raise_exception('Roles must ' ~ 'alternate') }}", "Roles");
    assert_int_equal(status, SPEY_INVALID);
    assert_string_equal(spey_last_error(), "Roles must alternate");
}

static void variables_must_be_an_object(void **state)
{
    (void)state;
    json_t *list = json_array();
    spey_strbuf out = { 0 };
    assert_int_equal(render("x", 1, list, &out), SPEY_INVALID);
    spey_strbuf_deinit(&out);
    json_decref(list);
}

static void strftime_now_gives_the_date(void **state)
{
    (void)state;
    json_t *variables = json_object();
    spey_strbuf out = { 0 };
    const char *source = "{{ strftime_now('%Y-%m-%d')|length }} {{ strftime_now('%Y') > '2000' }}";
    assert_int_equal(render(source, strlen(source), variables, &out), SPEY_OK);
    assert_string_equal(out.data, "10 True");
    spey_strbuf_deinit(&out);
    json_decref(variables);
}

/* ---- limits ---- */

static void endless_work_is_stopped(void **state)
{
    (void)state;
    static const char *const sources[] = {
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ 'x' * 999999999999 }}",
        "{% set x = 'xxxxxxxx' %}{% for i in range(99) %}{% set q = x * 3000000 %}{{ q }}{% endfor %}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}"
        "{{ ns.x|tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = (ns.x,) %}{% endfor %}"
        "{{ {ns.x: 1} }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{{ 'a'.rjust(999999999999) }}",
        "{{ [1] * 99999999999 }}",
        "{{ 7 ** 999999 }}",
        "{{ 'x'|center(9999999999) }}",
        "{{ '%9999999999d' % 1 }}",
        "{% for a in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}"
        "{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'"
        " ~ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        assert_int_equal(fails_with(sources[i], ""), SPEY_LIMIT);
}

/* `open` repeated n times, `middle`, `close` repeated n times. */
static spey_status parse_nested(const char *open, const char *middle, const char *close, size_t n)
{
    spey_strbuf source = { 0 };
    for (size_t i = 0; i < n; i++)
        spey_strbuf_puts(&source, open);
    spey_strbuf_puts(&source, middle);
    for (size_t i = 0; i < n; i++)
        spey_strbuf_puts(&source, close);
    json_t *variables = json_object();
    spey_strbuf out = { 0 };
    spey_status status = render(source.data, source.len, variables, &out);
    spey_strbuf_deinit(&out);
    spey_strbuf_deinit(&source);
    json_decref(variables);
    return status;
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    assert_int_equal(parse_nested("{% if 1 %}", "x", "{% endif %}", 50), SPEY_OK);
    assert_int_equal(parse_nested("{% if 1 %}", "x", "{% endif %}", 5000), SPEY_LIMIT);
    assert_int_equal(parse_nested("(", "{{ ", "", 0), SPEY_FORMAT);
    assert_int_equal(parse_nested("{{ ((((((((((((((((((((((((((((((((((((((((", "1",
                                  ")))))))))))))))))))))))))))))))))))))))) }}", 1),
                     SPEY_OK);
    spey_strbuf brackets = { 0 };
    spey_strbuf_puts(&brackets, "{{ ");
    for (int i = 0; i < 100000; i++)
        spey_strbuf_putc(&brackets, "([{"[i % 3]);
    assert_int_equal(parse_nested(brackets.data, "", "", 1), SPEY_LIMIT);
    spey_strbuf_reset(&brackets);
    spey_strbuf_puts(&brackets, "{{ ");
    for (int i = 0; i < 100000; i++)
        spey_strbuf_puts(&brackets, i % 2 ? "not " : "-");
    assert_int_not_equal(parse_nested(brackets.data, "1 }}", "", 1), SPEY_OK);
    spey_strbuf_reset(&brackets);
    spey_strbuf_puts(&brackets, "{{ 1");
    for (int i = 0; i < 100000; i++)
        spey_strbuf_puts(&brackets, " + 1");
    assert_int_equal(parse_nested(brackets.data, " }}", "", 1), SPEY_LIMIT);
    spey_strbuf_deinit(&brackets);
}

static void long_sources_are_refused(void **state)
{
    (void)state;
    spey_chat_template *chat_template;
    char *source = spey_alloc(SPEY_PURPOSE_GENERAL, SPEY_TEMPLATE_BYTES_MAX + 1);
    memset(source, 'x', SPEY_TEMPLATE_BYTES_MAX + 1);
    assert_int_equal(spey_chat_template_parse(source, SPEY_TEMPLATE_BYTES_MAX + 1, &chat_template),
                     SPEY_LIMIT);
    assert_null(chat_template);
    spey_free(source);
}

/* ---- resources ---- */

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    static const char source[] =
        "{% macro m(a, b=[1, {'k': 'v'}]) %}{{ a }}{{ caller() if caller }}{% endmacro %}"
        "{% set ns = namespace(x=1) %}{% for x in l|sort(reverse=true) if x %}{{ loop.index ~ 'a\\n' }}"
        "{% set ns.x = ns.x + x %}{% endfor %}{{ m(s|upper) }}{% call m(1) %}c{% endcall %}"
        "{% set t | trim %} {{ s.split('e') }} {% endset %}{{ t|tojson(indent=2) }}{{ s[::-1] }}"
        "{{ l|map('string')|join(',') }}{{ '%s' % s }}{{ {'b': 1}|dictsort }}{{ 'a' 'b' }}";
    json_t *variables = json_pack("{s:[i,i], s:s}", "l", 1, 2, "s", "text");
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status status = SPEY_NOMEM;
    uint64_t nth = 1;
    for (; status != SPEY_OK; nth++) {
        spey_strbuf out = { 0 };
        spey_alloc_fail_nth(nth);
        status = render(source, sizeof source - 1, variables, &out);
        spey_alloc_fail_nth(0);
        assert_true(status == SPEY_OK || status == SPEY_NOMEM);
        assert_true(status == SPEY_OK || out.len == 0);
        spey_strbuf_deinit(&out);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    assert_true(nth > 15);
    json_decref(variables);
}

static void one_template_renders_many_times(void **state)
{
    (void)state;
    static const char source[] = "{% for m in messages %}{{ m }};{% endfor %}";
    spey_chat_template *chat_template;
    assert_int_equal(spey_chat_template_parse(source, sizeof source - 1, &chat_template), SPEY_OK);
    for (int i = 0; i < 3; i++) {
        json_t *variables = json_pack("{s:[i]}", "messages", i);
        spey_strbuf out = { 0 };
        assert_int_equal(spey_chat_template_render(chat_template, variables, &out), SPEY_OK);
        const char expected[] = { (char)('0' + i), ';', 0 };
        assert_string_equal(out.data, expected);
        spey_strbuf_deinit(&out);
        json_decref(variables);
    }
    spey_chat_template_free(chat_template);
    spey_chat_template_free(NULL);
}

/* ---- --render ---- */

static int answer_lines(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *question = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        const json_t *source = json_object_get(question, "t");
        spey_strbuf out = { 0 };
        spey_status status = render(json_string_value(source), json_string_length(source),
                                    json_object_get(question, "v"), &out);
        json_t *answer = json_object();
        const char *text = status ? spey_last_error() : out.data ? out.data : "";
        json_object_set_new(answer, status ? "err" : "ok",
                            json_stringn_nocheck(text, status ? strlen(text) : out.len));
        json_dumpf(answer, stdout, JSON_ENSURE_ASCII);
        puts("");
        fflush(stdout);
        spey_strbuf_deinit(&out);
        json_decref(answer);
        json_decref(question);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--render") == 0) return answer_lines();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs_render_as_in_jinja),
        cmocka_unit_test(what_fails_in_jinja_fails_here),
        cmocka_unit_test(templates_of_model_families_render_as_in_jinja),
        cmocka_unit_test(syntax_errors_name_line_and_column),
        cmocka_unit_test(running_errors_name_line_and_column),
        cmocka_unit_test(raise_exception_gives_its_text_alone),
        cmocka_unit_test(variables_must_be_an_object),
        cmocka_unit_test(strftime_now_gives_the_date),
        cmocka_unit_test(endless_work_is_stopped),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(long_sources_are_refused),
        cmocka_unit_test(failing_allocations_leak_nothing),
        cmocka_unit_test(one_template_renders_many_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
