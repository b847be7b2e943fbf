/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "../base/capture_stderr.h"
#include "build/generation_config.h"

static const spey_model_info plain = {
    .vocab_size = 100, .decoder_start_id = -1, .forced_bos_id = -1, .forced_eos_id = 2
};

/* With an encoder. */
static spey_model_info encodes(void)
{
    spey_model_info info = plain;
    info.decoder_start_id = 2;
    return info;
}

static spey_status apply(const char *text, spey_model_info *info)
{
    json_t *root;
    assert_int_equal(spey_json_parse("generation_config.json", text, strlen(text), &root), SPEY_OK);
    spey_status status = spey_generation_config_apply("generation_config.json", root, info);
    json_decref(root);
    return status;
}

static void what_is_forbidden_and_forced_is_read(void **state)
{
    (void)state;
    spey_model_info info = encodes();
    assert_int_equal(
        apply("{\"suppress_tokens\": [1, 99, 100, -1], \"begin_suppress_tokens\": [7],"
              " \"bad_words_ids\": [[3, 4], [5, 100], [6]], \"no_repeat_ngram_size\": 3,"
              " \"min_length\": 56, \"min_new_tokens\": 5, \"forced_eos_token_id\": 4}",
              &info),
        SPEY_OK);
    assert_int_equal(info.suppress.n, 2); /* what the vocabulary has not goes */
    assert_int_equal(info.suppress.ids[1], 99);
    assert_int_equal(info.begin_suppress.n, 1);
    assert_int_equal(info.begin_suppress.ids[0], 7);
    const int32_t words[] = { 3, 4, -1, 6, -1 };
    assert_int_equal(info.bad_words.n, 5);
    assert_memory_equal(info.bad_words.ids, words, sizeof words);
    assert_int_equal(info.no_repeat_ngram, 3);
    assert_int_equal(info.min_length, 56);
    assert_int_equal(info.min_new_tokens, 5);
    assert_int_equal(info.forced_eos_id, 4);
}

static void the_file_replaces_what_an_architecture_forces(void **state)
{
    (void)state;
    static const char *const nothing[] = { "{}", "{\"forced_eos_token_id\": null}",
                                           "{\"forced_eos_token_id\": 100}",
                                           "{\"forced_eos_token_id\": []}" };
    for (int i = 0; i < 4; i++) {
        spey_model_info info = encodes();
        assert_int_equal(apply(nothing[i], &info), SPEY_OK);
        assert_int_equal(info.forced_eos_id, -1);
        assert_int_equal(info.suppress.n + info.begin_suppress.n + info.bad_words.n, 0);
    }
    spey_model_info info = encodes();
    assert_int_equal(apply("{\"forced_eos_token_id\": [9]}", &info), SPEY_OK);
    assert_int_equal(info.forced_eos_id, 9);
}

/* config.json, when there is no generation_config.json, need not say it. */
static void a_missing_rule_in_config_is_the_architectures(void **state)
{
    (void)state;
    json_t *root = json_object();
    spey_model_info info = encodes();
    assert_int_equal(spey_generation_rules_apply("config.json", root, &info), SPEY_OK);
    assert_int_equal(info.forced_eos_id, 2);
    json_object_set_new(root, "forced_eos_token_id", json_null());
    assert_int_equal(spey_generation_rules_apply("config.json", root, &info), SPEY_OK);
    assert_int_equal(info.forced_eos_id, -1);
    json_decref(root);
}

static void logs(const char *text, spey_model_info info, const char *wanted)
{
    char logged[1024];
    captured_stderr captured = capture_begin();
    spey_status status = apply(text, &info);
    capture_end(&captured, logged, sizeof logged);
    assert_int_equal(status, SPEY_OK);
    if (!*wanted && *logged) fail_msg("%s logs %s", text, logged);
    if (!strstr(logged, wanted)) fail_msg("%s logs %s, expected %s", text, logged, wanted);
}

static void what_is_no_default_here_is_logged_by_name(void **state)
{
    (void)state;
    logs("{\"num_beams\": 4}", plain, "num_beams is 4");
    logs("{\"encoder_no_repeat_ngram_size\": 2}", plain, "encoder_no_repeat_ngram_size is 2");
    logs("{\"sequence_bias\": [[[5], 2.0]]}", plain, "sequence_bias is [[[5],2.0]]");
    logs("{\"exponential_decay_length_penalty\": [5, 1.5]}", plain, "exponential_decay");
    logs("{\"renormalize_logits\": true}", plain, "renormalize_logits is true");
    logs("{\"guidance_scale\": 1.5}", plain, "guidance_scale is 1.5");
    logs("{\"forced_eos_token_id\": [1, 2]}", plain, "forced_eos_token_id lists 2 ids");
    logs("{\"min_length\": 5}", plain, "min_length is 5");
    logs("{\"min_length\": 5}", encodes(), "");
    logs("{\"forced_bos_token_id\": 0}", plain, "forced_bos_token_id is 0");
    logs("{\"forced_bos_token_id\": 0}", encodes(), "");
    logs(
        "{\"num_beams\": 1, \"num_beam_groups\": 1, \"diversity_penalty\": 0.0, \"guidance_scale\": null,"
        " \"renormalize_logits\": false, \"stop_strings\": [], \"min_length\": 0, \"use_cache\": true}",
        plain, "");
}

static void what_is_no_rule_is_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "{\"suppress_tokens\": 5}", "\"suppress_tokens\" is not a list of ids" },
        { "{\"begin_suppress_tokens\": [1.5]}", "\"begin_suppress_tokens\" holds what is not" },
        { "{\"bad_words_ids\": {}}", "\"bad_words_ids\" is not a list of lists" },
        { "{\"bad_words_ids\": [5]}", "\"bad_words_ids\" is not a list of lists" },
        { "{\"bad_words_ids\": [[]]}", "\"bad_words_ids\" is not a list of lists" },
        { "{\"bad_words_ids\": [[\"x\"]]}", "\"bad_words_ids\" holds what is not" },
        { "{\"forced_eos_token_id\": \"x\"}", "\"forced_eos_token_id\" holds what is not" },
        { "{\"no_repeat_ngram_size\": -1}", "\"no_repeat_ngram_size\" is -1" },
        { "{\"min_new_tokens\": \"x\"}", "\"min_new_tokens\" is a string" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_model_info info = encodes();
        assert_int_equal(apply(cases[i][0], &info), SPEY_FORMAT);
        if (!strstr(spey_last_error(), cases[i][1]))
            fail_msg("%s: %s", cases[i][0], spey_last_error());
    }
}

static void lists_have_an_end(void **state)
{
    (void)state;
    spey_strbuf text = { 0 };
    spey_model_info info = plain;
    for (int words = 0; words < 2; words++) {
        spey_strbuf_reset(&text);
        spey_strbuf_puts(&text, words ? "{\"bad_words_ids\": [[1" : "{\"suppress_tokens\": [1");
        for (int i = 1; i < SPEY_INFO_IDS_MAX + !words; i++)
            spey_strbuf_puts(&text, ", 1");
        spey_strbuf_puts(&text, words ? "]]}" : "]}");
        assert_int_equal(apply(text.data, &info), SPEY_LIMIT);
        assert_non_null(strstr(spey_last_error(), "more than 512 ids"));
    }
    spey_strbuf_deinit(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_forbidden_and_forced_is_read),
        cmocka_unit_test(the_file_replaces_what_an_architecture_forces),
        cmocka_unit_test(a_missing_rule_in_config_is_the_architectures),
        cmocka_unit_test(what_is_no_default_here_is_logged_by_name),
        cmocka_unit_test(what_is_no_rule_is_refused),
        cmocka_unit_test(lists_have_an_end),
    };
    return cmocka_run_group_tests_name("generation config", tests, NULL, NULL);
}
