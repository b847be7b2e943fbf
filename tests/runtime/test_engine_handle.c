/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "build/build.h"
#include "spey/spey.h"

static char path[] = "/tmp/spey-engine-handle-XXXXXX";
static spey_engine *engine;

static int build_demo(void **state)
{
    (void)state;
    int fd = mkstemp(path);
    if (fd < 0) return -1;
    close(fd);
    const spey_build_options options = { .quiet = true };
    if (spey_build_engine("models/demo", path, &options, NULL)) return -1;
    return spey_engine_open(path, &engine) ? -1 : 0;
}

static int remove_demo(void **state)
{
    (void)state;
    spey_engine_close(engine);
    return unlink(path);
}

static void text_goes_to_ids_and_back(void **state)
{
    (void)state;
    const char *text = "Once upon a time";
    const int32_t expected[] = { 0, 51, 1242, 587, 263, 591 };
    int32_t ids[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    size_t n;
    assert_int_equal(spey_engine_tokenize(engine, text, strlen(text), true, ids, 8, &n), SPEY_OK);
    assert_int_equal(n, 6);
    assert_memory_equal(ids, expected, sizeof expected);
    assert_int_equal(spey_engine_tokenize(engine, text, strlen(text), false, ids, 2, &n), SPEY_OK);
    assert_int_equal(n, 5); /* more than there was room for; the rest is untouched */
    assert_int_equal(ids[1], 1242);
    assert_int_equal(ids[2], 1242);
    char *back;
    size_t bytes;
    assert_int_equal(spey_engine_detokenize(engine, expected, 6, true, &back, &bytes), SPEY_OK);
    assert_string_equal(back, text);
    assert_int_equal(bytes, strlen(text));
    spey_text_free(back);
    const int32_t far[] = { 1 << 20 };
    assert_int_equal(spey_engine_detokenize(engine, far, 1, true, &back, &bytes), SPEY_INVALID);
    assert_null(back);
}

static void the_engine_says_what_it_has(void **state)
{
    (void)state;
    assert_true(spey_engine_has_tokenizer(engine));
    assert_false(spey_engine_has_chat_template(engine));
    assert_int_equal(spey_engine_vocab_size(engine), 8192);
    assert_int_equal(spey_engine_context_length(engine), 1024);
    char *text;
    size_t bytes;
    assert_int_equal(spey_engine_chat_prompt(engine, "[]", true, &text, &bytes), SPEY_UNSUPPORTED);
    assert_non_null(strstr(spey_last_error(), "no chat template"));
}

static void a_file_that_is_no_engine_is_refused(void **state)
{
    (void)state;
    spey_engine *other = engine;
    assert_int_equal(spey_engine_open("README.md", &other), SPEY_FORMAT);
    assert_null(other);
    assert_int_equal(spey_engine_open("/nonexistent", &other), SPEY_NOT_FOUND);
    spey_engine_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_goes_to_ids_and_back),
        cmocka_unit_test(the_engine_says_what_it_has),
        cmocka_unit_test(a_file_that_is_no_engine_is_refused),
    };
    return cmocka_run_group_tests_name("engine_handle", tests, build_demo, remove_demo);
}
