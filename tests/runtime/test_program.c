#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planning.h"
#include "runtime/program.h"

static void faulty_engines_are_refused(void **state)
{
    (void)state;
    static const struct {
        tiny_fault fault;
        spey_status status;
        const char *text;
    } cases[] = {
        { TINY_MISSING_WEIGHT, SPEY_FORMAT, "layer.0.k, which is not there" },
        { TINY_SHAPE, SPEY_FORMAT, "layer.0.k is f32 [32,33], the graph reads it as f32 [32,32]" },
        { TINY_DTYPE, SPEY_FORMAT, "layer.0.k is i8 [32,32]" },
        { TINY_NO_FREQUENCIES, SPEY_FORMAT, "inv_freq has no data" },
        { TINY_VOCAB, SPEY_FORMAT, "50 columns, the vocabulary 51" },
        { TINY_CONTEXT, SPEY_FORMAT, "context length" },
        { TINY_ENGINE_DTYPE, SPEY_UNSUPPORTED, "i8" },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tiny_shape shape = tiny_default;
        shape.fault = cases[i].fault;
        spey_engine_file *file;
        spey_runner *runner;
        assert_int_equal(tiny_engine_new(&shape, &file), SPEY_OK);
        const spey_limits_plan limits = { .threads = 1 };
        assert_int_equal(spey_runner_new(file, &limits, &runner), cases[i].status);
        assert_null(runner);
        if (!strstr(spey_last_error(), cases[i].text)) fail_msg("%s", spey_last_error());
        spey_engine_file_close(file);
    }
}

static void devices_are_found_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *device;
        spey_status status;
    } cases[] = {
        { NULL, SPEY_OK },           { "cpu", SPEY_OK },           { "cpu:0", SPEY_OK },
        { "", SPEY_INVALID },        { ":1", SPEY_INVALID },       { "cpu:", SPEY_INVALID },
        { "cpu:x", SPEY_INVALID },   { "cpu:0x", SPEY_INVALID },   { "cpu:-1", SPEY_INVALID },
        { "cpu:1", SPEY_NOT_FOUND }, { "abacus", SPEY_NOT_FOUND }, { "../cpu", SPEY_INVALID },
    };
    spey_engine_file *file;
    assert_int_equal(tiny_engine_new(&tiny_default, &file), SPEY_OK);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        spey_program program;
        const spey_limits_plan limits = { .threads = 1, .device = cases[i].device };
        assert_int_equal(spey_program_init(&program, file, &limits), cases[i].status);
        if (cases[i].status == SPEY_OK) spey_program_deinit(&program);
    }
    const spey_limits_plan threads = { .threads = -1 };
    spey_program program;
    assert_int_equal(spey_program_init(&program, file, &threads), SPEY_INVALID);
    spey_engine_file_close(file);
}

static void precision_follows_the_engine(void **state)
{
    (void)state;
    static const spey_dtype dtypes[] = { SPEY_F32, SPEY_F16, SPEY_BF16 };
    for (int i = 0; i < 3; i++) {
        tiny_shape shape = tiny_default;
        shape.dtype = dtypes[i];
        spey_engine_file *file;
        spey_program program;
        const spey_limits_plan limits = { .threads = 1 };
        assert_int_equal(tiny_engine_new(&shape, &file), SPEY_OK);
        assert_int_equal(spey_program_init(&program, file, &limits), SPEY_OK);
        assert_int_equal(program.precision, i ? SPEY_PRECISION_16 : SPEY_PRECISION_F32);
        assert_int_equal(program.activation_dtype, SPEY_F32); /* on the CPU */
        assert_true(program.has_virtual_weights);
        spey_program_deinit(&program);
        spey_engine_file_close(file);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faulty_engines_are_refused),
        cmocka_unit_test(devices_are_found_by_name),
        cmocka_unit_test(precision_follows_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
