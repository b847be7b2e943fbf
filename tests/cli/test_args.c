/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "base/alloc.h"
#include "cli/args.h"

typedef struct targets {
    bool flag;
    int choice;
    int64_t count;
    double number;
    uint64_t bytes;
    const char *text;
    spey_text_list list;
} targets;

static spey_status parse(targets *t, spey_args *args, int argc, const char *const *argv)
{
    const spey_option options[] = {
        { "flag", SPEY_OPTION_FLAG, &t->flag, NULL, "", 0, 0 },
        { "on", SPEY_OPTION_CHOICE, &t->choice, NULL, "", 1, 0 },
        { "off", SPEY_OPTION_CHOICE, &t->choice, NULL, "", 2, 0 },
        { "count", SPEY_OPTION_INT, &t->count, "N", "", -1, 10 },
        { "number", SPEY_OPTION_NUMBER, &t->number, "X", "", 0, 1 },
        { "bytes", SPEY_OPTION_BYTES, &t->bytes, "SIZE", "", 0, 0 },
        { "output", SPEY_OPTION_TEXT, &t->text, "FILE", "", 0, 0 },
        { "list", SPEY_OPTION_LIST, &t->list, "TEXT", "", 0, 0 },
    };
    const spey_command command = { .name = "try",
                                   .summary = "",
                                   .usage = "A [B]",
                                   .options = options,
                                   .n_options = sizeof options / sizeof *options,
                                   .positional_min = 1,
                                   .positional_max = 2 };
    *t = (targets){ 0 };
    return spey_args_parse(&command, argc, (char **)(uintptr_t)argv, args);
}

#define PARSE(...)                                                                    \
    parse(&t, &args, (int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)), \
          (const char *[]){ __VA_ARGS__ })

#define REFUSED(words, ...)                                 \
    do {                                                    \
        assert_int_equal(PARSE(__VA_ARGS__), SPEY_INVALID); \
        assert_non_null(strstr(spey_last_error(), words));  \
    } while (0)

static void options_and_arguments_come_in_any_order(void **state)
{
    (void)state;
    targets t;
    spey_args args;
    assert_int_equal(PARSE("--count", "-1", "a", "--number=0.5", "--flag", "b", "-o", "x",
                           "--list=1", "--list", "2"),
                     0);
    assert_int_equal(args.n_positional, 2);
    assert_string_equal(args.positional[1], "b");
    assert_true(t.flag && t.count == -1 && t.number > 0.49 && t.number < 0.51);
    assert_string_equal(t.text, "x");
    assert_int_equal(t.list.n, 2);
    assert_string_equal(t.list.items[1], "2");
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    targets t;
    spey_args args;
    assert_int_equal(PARSE("a", "--", "--flag"), 0);
    assert_string_equal(args.positional[1], "--flag");
    assert_false(t.flag);
    assert_int_equal(PARSE("a", "-"), 0); /* a lone dash is an argument */
}

static void the_last_of_several_choices_counts(void **state)
{
    (void)state;
    targets t;
    spey_args args;
    assert_int_equal(PARSE("a"), 0);
    assert_int_equal(t.choice, 0);
    assert_int_equal(PARSE("a", "--on"), 0);
    assert_int_equal(t.choice, 1);
    assert_int_equal(PARSE("--on", "a", "--off"), 0);
    assert_int_equal(t.choice, 2);
    assert_int_equal(PARSE("--off", "a", "--on"), 0);
    assert_int_equal(t.choice, 1);
    REFUSED("takes no value", "a", "--on=1");
}

static void sizes_take_suffixes(void **state)
{
    (void)state;
    targets t;
    spey_args args;
    assert_int_equal(PARSE("a", "--bytes", "1.5K"), 0);
    assert_int_equal(t.bytes, 1536);
    assert_int_equal(PARSE("a", "--bytes", "2GiB"), 0);
    assert_int_equal(t.bytes, 2ull << 30);
    assert_int_equal(PARSE("a", "--bytes", "12"), 0);
    assert_int_equal(t.bytes, 12);
    REFUSED("expected a size", "a", "--bytes", "-1");
    REFUSED("expected a size", "a", "--bytes", "1X");
    REFUSED("expected a size", "a", "--bytes", "1e30");
    REFUSED("expected a size", "a", "--bytes", "nan");
}

static void wrong_options_say_what_is_expected(void **state)
{
    (void)state;
    targets t;
    spey_args args;
    REFUSED("did you mean --count?", "a", "--cuont", "1");
    REFUSED("unknown option --zzz", "a", "--zzz");
    REFUSED("unknown option -q", "a", "-q");
    REFUSED("expected an integer from -1 to 10", "a", "--count", "11");
    REFUSED("expected an integer", "a", "--count", "1.5");
    REFUSED("expected an integer", "a", "--count", "99999999999999999999");
    REFUSED("expected a number from 0 to 1", "a", "--number", "nan");
    REFUSED("takes no value", "a", "--flag=1");
    REFUSED("needs a value", "a", "--count");
    REFUSED("needs a value", "a", "-o");
    REFUSED("arguments are missing", "--flag");
    REFUSED("unexpected argument \"c\"", "a", "b", "c");
}

static void ids_are_numbers_between_commas(void **state)
{
    (void)state;
    int32_t *ids;
    size_t n;
    assert_int_equal(spey_args_ids("--ids", "1, 22,3", &ids, &n), SPEY_OK);
    assert_int_equal(n, 3);
    assert_int_equal(ids[1], 22);
    spey_free(ids);
    static const char *const bad[] = { "", "1,", ",1", "a", "1;2", "-1", "3000000000", "1,,2" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(spey_args_ids("--ids", bad[i], &ids, &n), SPEY_INVALID);
        assert_null(ids);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_and_arguments_come_in_any_order),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(the_last_of_several_choices_counts),
        cmocka_unit_test(sizes_take_suffixes),
        cmocka_unit_test(wrong_options_say_what_is_expected),
        cmocka_unit_test(ids_are_numbers_between_commas),
    };
    return cmocka_run_group_tests_name("args", tests, NULL, NULL);
}
