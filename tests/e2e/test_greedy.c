/* The demo model continues its prompts as Hugging Face Transformers does in FP32 (tests/data/demo.json).
 *
 *   test_greedy [PATTERN] [--device cuda] */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "engine_fixture.h"

enum { VOCAB = 8192, PROMPT_MAX = 64, OUTPUT_MAX = 256 };

static size_t read_ids(const json_t *object, const char *key, int32_t *out, size_t max)
{
    const json_t *list = json_object_get(object, key);
    size_t n = json_array_size(list);
    assert_in_range(n, 1, max);
    for (size_t i = 0; i < n; i++)
        out[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

/* Logits this close are equal in FP32: at output 10 of the second prompt two lie 4e-5 apart, and demo.json and
 * generation.json disagree about them. */
static const double tie = 2e-4;

/* Feed the prompt, then one token at a time; each must be the expected one. The first id of a prompt, BOS, is left out:
 * the expected texts were made with 0 as the padding id too, so that generate() masked it, and positions count from
 * the second. (With it the first prompt goes on with 304, as "prompt_logprobs" in generation.json says as well.) */
static void check_prompt(spey_runner *runner, const json_t *entry)
{
    int32_t prompt[PROMPT_MAX], wanted[OUTPUT_MAX];
    size_t n_prompt = read_ids(entry, "prompt_ids", prompt, PROMPT_MAX);
    size_t n = read_ids(entry, "output_ids", wanted, OUTPUT_MAX);
    spey_seq_id seq;
    float *logits;
    e2e_ok(spey_kv_open(spey_runner_kv(runner), &seq), "sequence");
    assert_int_equal(prompt[0], 0);
    spey_step_seq step = { seq, prompt + 1, (int32_t)n_prompt - 1, 1, NULL };
    for (size_t i = 0; i < n; i++) {
        e2e_ok(spey_runner_step(runner, &step, 1, &logits), "step");
        int32_t token = e2e_argmax(logits, VOCAB);
        if ((double)logits[token] - (double)logits[wanted[i]] > tie)
            fail_msg("'%s': output %zu is %d, expected %d",
                     json_string_value(json_object_get(entry, "prompt")), i, token, wanted[i]);
        step = (spey_step_seq){ seq, &wanted[i], 1, 1, NULL };
    }
    spey_kv_close(spey_runner_kv(runner), seq);
}

static void the_demo_model_continues_as_expected(void **state)
{
    (void)state;
    json_t *expected;
    e2e_ok(spey_json_read("tests/data/demo.json", &expected), "demo.json");
    spey_engine_file *engine = e2e_build("models/demo", "f32", NULL);
    const spey_limits_plan limits = { .device = e2e_device, .threads = 2 };
    spey_runner *runner = e2e_runner(engine, &limits);
    const json_t *prompts = json_object_get(expected, "greedy_fp32");
    assert_true(json_array_size(prompts) > 0);
    for (size_t i = 0; i < json_array_size(prompts); i++)
        check_prompt(runner, json_array_get(prompts, i));
    spey_runner_free(runner);
    spey_engine_file_close(engine);
    json_decref(expected);
}

int main(int argc, char **argv)
{
    if (!e2e_read_arguments(argc, argv)) return 2;
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_demo_model_continues_as_expected) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
