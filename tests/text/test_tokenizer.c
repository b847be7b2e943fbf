#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "text/tokenizer.h"

static const char *const folders[] = {
    "falcon-style",
    "gpt2-style",
    "llama2-style-byte-fallback",
    "llama3-style",
    "qwen2-style-nfc",
    "sentencepiece-bpe",
    "sentencepiece-unigram",
    "t5-style-unigram",
    /* from compare_tokenizers.py --write */
    "added",
    "bpe-clip",
    "fallback-unigram",
    "metaspace-bpe-first-True",
    "normalizer-bert",
    "sp-bpe-user-fallback",
    "sp-unigram-identity",
    "split-deepseek-isolated-False",
    "template",
    "wordpiece-plain",
};
enum { FOLDERS = sizeof folders / sizeof folders[0], REALISTIC = 8 };

static spey_tokenizer *open_fixture(const char *folder)
{
    char path[256];
    snprintf(path, sizeof path, "tests/data/tokenizers/%s", folder);
    spey_tokenizer *tokenizer = NULL;
    if (spey_tokenizer_open(path, &tokenizer)) fail_msg("%s", spey_last_error());
    return tokenizer;
}

static json_t *read_cases(const char *folder)
{
    char path[256];
    json_t *cases = NULL;
    snprintf(path, sizeof path, "tests/data/tokenizers/%s/cases.json", folder);
    if (spey_json_read(path, &cases)) fail_msg("%s", spey_last_error());
    return cases;
}

static void ids_of(const json_t *list, spey_ids *out)
{
    for (size_t i = 0; i < json_array_size(list); i++)
        assert_int_equal(spey_ids_push(out, (int32_t)json_integer_value(json_array_get(list, i))),
                         SPEY_OK);
}

static void assert_ids(const char *folder, const json_t *item, const spey_ids *got,
                       const json_t *want)
{
    bool equal = got->len == json_array_size(want);
    for (size_t i = 0; equal && i < got->len; i++)
        equal = got->data[i] == json_integer_value(json_array_get(want, i));
    if (!equal)
        fail_msg("%s: other ids for %s", folder, json_string_value(json_object_get(item, "text")));
}

static void check_encoding(const char *folder, const spey_tokenizer *tokenizer, const json_t *item,
                           const char *key, bool add_special)
{
    const json_t *want = json_object_get(item, key), *text = json_object_get(item, "text");
    if (!want) return;
    spey_ids ids = { 0 };
    assert_int_equal(spey_tokenizer_encode(tokenizer, json_string_value(text),
                                           json_string_length(text), add_special, &ids),
                     SPEY_OK);
    assert_ids(folder, item, &ids, want);
    spey_ids_deinit(&ids);
}

/* Decoding step by step must give the same, in whole characters. */
static void decode_by_steps(const spey_tokenizer *tokenizer, const spey_ids *ids, bool skip_special,
                            spey_strbuf *out)
{
    spey_detokenizer *detokenizer;
    assert_int_equal(spey_detokenizer_new(tokenizer, skip_special, &detokenizer), SPEY_OK);
    for (size_t i = 0; i < ids->len; i++) {
        assert_int_equal(spey_detokenizer_push(detokenizer, ids->data[i], out), SPEY_OK);
        json_t *whole = json_stringn(out->data ? out->data : "", out->len);
        assert_non_null(whole); /* jansson refuses a torn character */
        json_decref(whole);
    }
    assert_int_equal(spey_detokenizer_flush(detokenizer, out), SPEY_OK);
    spey_detokenizer_free(detokenizer);
}

static void check_decoding(const char *folder, const spey_tokenizer *tokenizer, const spey_ids *ids,
                           bool skip_special, const char *want, size_t n)
{
    spey_strbuf got = { 0 }, steps = { 0 };
    assert_int_equal(spey_tokenizer_decode(tokenizer, ids->data, ids->len, skip_special, &got),
                     SPEY_OK);
    decode_by_steps(tokenizer, ids, skip_special, &steps);
    bool same = got.len == steps.len && (!got.len || !memcmp(got.data, steps.data, got.len));
    if (!same) fail_msg("%s: step by step: %.*s", folder, (int)steps.len, steps.data);
    if (want && (got.len != n || (n && memcmp(got.data, want, n))))
        fail_msg("%s: decoded %.*s, expected %.*s", folder, (int)got.len, got.data, (int)n, want);
    spey_strbuf_deinit(&got);
    spey_strbuf_deinit(&steps);
}

static void check_item(const char *folder, const spey_tokenizer *tokenizer, const json_t *item)
{
    check_encoding(folder, tokenizer, item, "ids", true);
    check_encoding(folder, tokenizer, item, "ids_no_special", false);
    const json_t *all = json_object_get(item, "ids"),
                 *plain = json_object_get(item, "ids_no_special");
    const json_t *decoded = json_object_get(item, "decoded");
    const json_t *skipped = json_object_get(item, "decoded_skip_special");
    spey_ids ids = { 0 };
    ids_of(plain, &ids);
    check_decoding(folder, tokenizer, &ids, false, json_string_value(decoded),
                   json_string_length(decoded));
    ids.len = 0;
    ids_of(all ? all : plain, &ids);
    if (skipped)
        check_decoding(folder, tokenizer, &ids, true, json_string_value(skipped),
                       json_string_length(skipped));
    spey_ids_deinit(&ids);
}

static void reference_cases_are_equal(void **state)
{
    (void)state;
    for (size_t f = 0; f < FOLDERS; f++) {
        spey_tokenizer *tokenizer = open_fixture(folders[f]);
        json_t *cases = read_cases(folders[f]);
        for (size_t i = 0; i < json_array_size(cases); i++)
            check_item(folders[f], tokenizer, json_array_get(cases, i));
        json_decref(cases);
        spey_tokenizer_free(tokenizer);
    }
}

static void a_compiled_tokenizer_gives_the_same(void **state)
{
    (void)state;
    for (size_t f = 0; f < FOLDERS; f++) {
        spey_tokenizer *first = open_fixture(folders[f]), *second;
        spey_strbuf blob = { 0 }, again = { 0 };
        assert_int_equal(spey_tokenizer_write(first, &blob), SPEY_OK);
        assert_int_equal(spey_tokenizer_read("blob", blob.data, blob.len, &second), SPEY_OK);
        assert_int_equal(spey_tokenizer_write(second, &again), SPEY_OK);
        assert_int_equal(blob.len, again.len);
        assert_memory_equal(blob.data, again.data, blob.len);
        json_t *cases = read_cases(folders[f]);
        for (size_t i = 0; i < json_array_size(cases); i += 7)
            check_item(folders[f], second, json_array_get(cases, i));
        json_decref(cases);
        spey_tokenizer_free(first);
        spey_tokenizer_free(second);
        spey_strbuf_deinit(&blob);
        spey_strbuf_deinit(&again);
    }
}

static void random_ids_decode_the_same_step_by_step(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 20240611 };
    for (size_t f = 0; f < FOLDERS; f++) {
        spey_tokenizer *tokenizer = open_fixture(folders[f]);
        uint64_t n = (uint64_t)spey_tokenizer_vocab_size(tokenizer);
        for (int round = 0; round < 200; round++) {
            spey_ids ids = { 0 };
            uint64_t len = spey_rng_below(&rng, 40);
            /* Half of the rounds draw from the low ids, where bytes are. */
            uint64_t range = round % 2 && n > 300 ? 300 : n;
            for (uint64_t i = 0; i < len; i++)
                spey_ids_push(&ids, (int32_t)spey_rng_below(&rng, range));
            check_decoding(folders[f], tokenizer, &ids, round % 3 == 0, NULL, 0);
            spey_ids_deinit(&ids);
        }
        spey_tokenizer_free(tokenizer);
    }
}

static void a_primed_detokenizer_keeps_the_space(void **state)
{
    (void)state;
    spey_tokenizer *tokenizer = open_fixture("llama2-style-byte-fallback");
    spey_ids ids = { 0 };
    spey_strbuf out = { 0 };
    spey_detokenizer *detokenizer;
    assert_int_equal(spey_tokenizer_encode(tokenizer, "and the", 7, true, &ids), SPEY_OK);
    assert_int_equal(spey_detokenizer_new(tokenizer, true, &detokenizer), SPEY_OK);
    assert_int_equal(spey_detokenizer_prime(detokenizer, ids.data, ids.len), SPEY_OK);
    int32_t space = spey_tokenizer_find(tokenizer, "\xe2\x96\x81", 3);
    int32_t a = spey_tokenizer_find(tokenizer, "a", 1);
    spey_detokenizer_push(detokenizer, space, &out);
    spey_detokenizer_push(detokenizer, a, &out);
    spey_detokenizer_flush(detokenizer, &out);
    assert_string_equal(out.data, " a");
    /* Without a prompt the first space goes. */
    spey_strbuf_reset(&out);
    spey_detokenizer_push(detokenizer, space, &out);
    spey_detokenizer_push(detokenizer, a, &out);
    spey_detokenizer_flush(detokenizer, &out);
    assert_string_equal(out.data, "a");
    spey_detokenizer_free(detokenizer);
    spey_strbuf_deinit(&out);
    spey_ids_deinit(&ids);
    spey_tokenizer_free(tokenizer);
}

/* One word of a megabyte, several shapes: linear time shows as well under a second here. */
static void a_word_of_a_megabyte_takes_linear_time(void **state)
{
    (void)state;
    static const char *const units[] = { "a",  "the", "\xe4\xb8\x80", " ", "\xcc\x81\xcc\xa3",
                                         "\n", "'" };
    enum { BYTES = 1 << 20 };
    char *text = spey_alloc(SPEY_PURPOSE_TEXT, BYTES);
    for (size_t f = 0; f < REALISTIC; f++) {
        spey_tokenizer *tokenizer = open_fixture(folders[f]);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            size_t len = strlen(units[u]), n = BYTES / len * len;
            for (size_t i = 0; i < n; i += len)
                memcpy(text + i, units[u], len);
            spey_ids ids = { 0 };
            uint64_t start = spey_clock_ns();
            assert_int_equal(spey_tokenizer_encode(tokenizer, text, n, false, &ids), SPEY_OK);
            if (spey_clock_seconds_since(start) > 20)
                fail_msg("%s: a megabyte of \"%s\" takes %g s", folders[f], units[u],
                         spey_clock_seconds_since(start));
            spey_ids_deinit(&ids);
        }
        spey_tokenizer_free(tokenizer);
    }
    spey_free(text);
}

static void invalid_utf8_is_replaced(void **state)
{
    (void)state;
    spey_tokenizer *tokenizer = open_fixture("llama3-style");
    static const char bad[] = "a\xff"
                              "b\xe2\x82"
                              "c\xf0\x9f\x98"
                              "\xc0\x80"
                              "\xed\xa0\x80z";
    static const char good[] = "a\xef\xbf\xbd"
                               "b\xef\xbf\xbd"
                               "c\xef\xbf\xbd"
                               "\xef\xbf\xbd\xef\xbf\xbd"
                               "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz";
    spey_ids ids = { 0 }, want = { 0 };
    assert_int_equal(spey_tokenizer_encode(tokenizer, bad, sizeof bad - 1, false, &ids), SPEY_OK);
    assert_int_equal(spey_tokenizer_encode(tokenizer, good, sizeof good - 1, false, &want),
                     SPEY_OK);
    assert_int_equal(ids.len, want.len);
    assert_memory_equal(ids.data, want.data, ids.len * sizeof *ids.data);
    spey_ids_deinit(&ids);
    spey_ids_deinit(&want);
    spey_tokenizer_free(tokenizer);
}

static void the_vocabulary_can_be_asked(void **state)
{
    (void)state;
    spey_tokenizer *tokenizer = open_fixture("gpt2-style");
    size_t n;
    assert_int_equal(spey_tokenizer_vocab_size(tokenizer), 3002);
    assert_memory_equal(spey_tokenizer_piece(tokenizer, 3000, &n), "<|extra_special|>", 17);
    assert_int_equal(n, 17);
    assert_int_equal(spey_tokenizer_find(tokenizer, "foobarbaz", 9), 3001);
    assert_int_equal(spey_tokenizer_find(tokenizer, "no such piece", 13), -1);
    assert_true(spey_tokenizer_is_special(tokenizer, 0));
    assert_false(spey_tokenizer_is_special(tokenizer, 3001));
    assert_null(spey_tokenizer_piece(tokenizer, 3002, &n));
    spey_strbuf out = { 0 };
    int32_t bad[] = { 1, 3002 };
    assert_int_equal(spey_tokenizer_decode(tokenizer, bad, 2, false, &out), SPEY_INVALID);
    spey_strbuf_deinit(&out);
    spey_tokenizer_free(tokenizer);
}

/* Bytes of a compiled tokenizer changed at random are refused or harmless. */
static void a_damaged_compiled_tokenizer_is_harmless(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 77 };
    for (size_t f = 0; f < FOLDERS; f++) {
        spey_tokenizer *tokenizer = open_fixture(folders[f]), *damaged;
        spey_strbuf blob = { 0 };
        assert_int_equal(spey_tokenizer_write(tokenizer, &blob), SPEY_OK);
        spey_tokenizer_free(tokenizer);
        for (int round = 0; round < 60; round++) {
            /* The header and the last sections (steps, counts) decide most. */
            uint64_t place = spey_rng_below(&rng, 3);
            size_t from = place == 0 ? 0 : place == 1 ? blob.len - 4096 : 0;
            size_t range = place == 2 ? blob.len : place == 1 ? 4096 : 320;
            size_t at = from + spey_rng_below(&rng, range);
            char old = blob.data[at];
            blob.data[at] = (char)spey_rng_below(&rng, 256);
            if (!spey_tokenizer_read("blob", blob.data, blob.len, &damaged)) {
                spey_ids ids = { 0 };
                spey_strbuf out = { 0 };
                static const char text[] =
                    "The quick \xe2\x96\x81 brown <s> f\xc3\xb6x 123 foobarbaz\n";
                if (!spey_tokenizer_encode(damaged, text, sizeof text - 1, true, &ids))
                    (void)spey_tokenizer_decode(damaged, ids.data, ids.len, false, &out);
                spey_ids_deinit(&ids);
                spey_strbuf_deinit(&out);
                spey_tokenizer_free(damaged);
            }
            blob.data[at] = old;
        }
        for (size_t n = 0; n < blob.len; n += blob.len / 37 + 1)
            assert_int_not_equal(spey_tokenizer_read("blob", blob.data, n, &damaged), SPEY_OK);
        spey_strbuf_deinit(&blob);
    }
}

int main(void)
{
    spey_log_set_level(SPEY_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_cases_are_equal),
        cmocka_unit_test(a_compiled_tokenizer_gives_the_same),
        cmocka_unit_test(random_ids_decode_the_same_step_by_step),
        cmocka_unit_test(a_primed_detokenizer_keeps_the_space),
        cmocka_unit_test(a_word_of_a_megabyte_takes_linear_time),
        cmocka_unit_test(invalid_utf8_is_replaced),
        cmocka_unit_test(the_vocabulary_can_be_asked),
        cmocka_unit_test(a_damaged_compiled_tokenizer_is_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
