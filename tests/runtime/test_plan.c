#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "planning.h"

static void the_table_names_every_line(void **state)
{
    (void)state;
    spey_plan plan = plan_of(&tiny_default, (spey_limits_plan){ .kv_dtype = "f16" });
    spey_strbuf text = { 0 };
    spey_plan_write(&plan, &text);
    for (int i = 0; i < plan.n_lines; i++)
        assert_non_null(strstr(text.data, plan.lines[i].what));
    assert_non_null(strstr(text.data, "1 blocks of 64 tokens, f16, 16.0 KiB each"));
    spey_strbuf_deinit(&text);
}

static void a_state_is_said_beside_the_cache(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.scans = true;
    spey_plan plan = plan_of(&shape, (spey_limits_plan){ 0 });
    spey_strbuf both = { 0 }, alone = { 0 };
    spey_plan_write(&plan, &both);
    assert_non_null(strstr(both.data, "a state of 4.0 KiB for each sequence"));
    assert_non_null(strstr(both.data, "blocks of"));
    plan.kv_block_bytes = 0; /* as of a model without attention */
    spey_plan_write(&plan, &alone);
    assert_non_null(strstr(alone.data, "a state of 4.0 KiB for each sequence"));
    assert_null(strstr(alone.data, "blocks of"));
    spey_strbuf_deinit(&both);
    spey_strbuf_deinit(&alone);
}

static void groups_that_differ_have_lines_of_their_own(void **state)
{
    (void)state;
    tiny_shape shape = tiny_default;
    shape.two_groups = true;
    shape.window = 5;
    const spey_limits_plan limits = { .kv_block_tokens = 1, .step_tokens_max = 4 };
    spey_plan plan = plan_of(&shape, limits);
    spey_strbuf text = { 0 };
    spey_plan_write(&plan, &text);
    assert_non_null(strstr(text.data, "  64 blocks of 1 tokens, f32, 256 B each\n"
                                      "  27 blocks of 1 tokens, f32, 512 B each\n"
                                      "    for windows of 5 tokens\n"));
    spey_strbuf_deinit(&text);
}

static void bytes_read_well(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = { { 0, "0 B" },
                  { 1023, "1023 B" },
                  { 1024, "1.0 KiB" },
                  { 1536, "1.5 KiB" },
                  { (1 << 20) - 1, "1.0 MiB" },
                  { (uint64_t)5 << 30, "5.0 GiB" },
                  { UINT64_MAX, "16.0 EiB" } };
    char text[SPEY_BYTES_TEXT];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(spey_bytes_text(text, cases[i].bytes), cases[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_names_every_line),
        cmocka_unit_test(a_state_is_said_beside_the_cache),
        cmocka_unit_test(groups_that_differ_have_lines_of_their_own),
        cmocka_unit_test(bytes_read_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
