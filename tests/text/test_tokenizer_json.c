#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "text/tokenizer.h"

/* A small BPE model; VOCAB and MERGES are filled in. */
#define BPE(vocab, merges, more) \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}" more "}"
#define AB "\"a\":0,\"b\":1,\"ab\":2"

typedef struct bad_input {
    const char *text;
    spey_status status;
    const char *message; /* a part of the error */
} bad_input;

/* clang-format off */
static const bad_input bad_inputs[] = {
    { "", SPEY_FORMAT, "bad JSON" },
    { "[]", SPEY_FORMAT, "not a JSON object" },
    { "{}", SPEY_FORMAT, "\"model\" is missing" },
    { "{\"model\":7}", SPEY_FORMAT, "\"model\" is missing or no object" },
    { "{\"model\":{\"type\":\"Magic\",\"vocab\":{}}}", SPEY_UNSUPPORTED, "\"Magic\"" },
    { "{\"version\":\"2.0\",\"model\":{}}", SPEY_UNSUPPORTED, "version \"2.0\"" },
    { "{\"model\":{\"type\":\"BPE\",\"merges\":[]}}", SPEY_FORMAT, "\"vocab\" is missing" },
    { "{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", SPEY_FORMAT, "\"vocab\" is missing or no object" },
    { "{\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", SPEY_FORMAT, "\"merges\" is missing" },
    { BPE("\"a\":-1", "", ""), SPEY_FORMAT, "\"a\" has no id in" },
    { BPE("\"a\":4194304", "", ""), SPEY_FORMAT, "\"a\" has no id in" },
    { BPE("\"a\":1e99", "", ""), SPEY_FORMAT, "\"a\" has no id in" },
    { BPE("\"a\":\"0\"", "", ""), SPEY_FORMAT, "\"a\" has no id in" },
    { BPE("\"a\":0,\"b\":0", "", ""), SPEY_FORMAT, "both have id 0" },
    { BPE("\"a\":0,\"a\":1", "", ""), SPEY_FORMAT, "duplicate" },
    { BPE(AB, "\"a c\"", ""), SPEY_FORMAT, "merge 0 names \"c\"" },
    { BPE(AB, "\"a b\",\"b a\"", ""), SPEY_FORMAT, "merge 1 names \"ba\"" },
    { BPE(AB, "\"ab\"", ""), SPEY_FORMAT, "merge 0 is not two tokens" },
    { BPE(AB, "\"a b c\"", ""), SPEY_FORMAT, "merge 0 is not two tokens" },
    { BPE(AB, "[\"a\"]", ""), SPEY_FORMAT, "merge 0 is not two tokens" },
    { BPE(AB, "7", ""), SPEY_FORMAT, "merge 0 is not two tokens" },
    { "{\"model\":{\"type\":\"BPE\",\"dropout\":0.5,\"vocab\":{},\"merges\":[]}}", SPEY_UNSUPPORTED, "dropout" },
    { "{\"model\":{\"type\":\"BPE\",\"fuse_unk\":1,\"vocab\":{},\"merges\":[]}}", SPEY_FORMAT, "\"fuse_unk\"" },
    { "{\"model\":{\"type\":\"BPE\",\"unk_token\":1,\"vocab\":{},\"merges\":[]}}", SPEY_FORMAT, "\"unk_token\"" },
    { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", SPEY_FORMAT, "entry 0" },
    { "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",\"b\"]]}}", SPEY_FORMAT, "entry 0" },
    { "{\"model\":{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]}}", SPEY_FORMAT, "\"unk_id\"" },
    { "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", SPEY_FORMAT, "\"unk_token\" is missing" },
    { BPE(AB, "", ",\"normalizer\":{\"type\":\"Rot13\"}"), SPEY_UNSUPPORTED, "normalizer \"Rot13\"" },
    { BPE(AB, "", ",\"normalizer\":{}"), SPEY_FORMAT, "without \"type\"" },
    { BPE(AB, "", ",\"normalizer\":{\"type\":\"Sequence\"}"), SPEY_FORMAT, "\"normalizers\" is missing" },
    { BPE(AB, "", ",\"normalizer\":{\"type\":\"Replace\",\"content\":\"\"}"), SPEY_FORMAT, "\"pattern\" is missing" },
    { BPE(AB, "", ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"?\"}"), SPEY_FORMAT, "base64" },
    { BPE(AB, "", ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"////////\"}"), SPEY_FORMAT, "charsmap" },
    { BPE(AB, "", ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), SPEY_UNSUPPORTED, "\"UnicodeScripts\"" },
    { BPE(AB, "", ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}"), SPEY_UNSUPPORTED, "regex \"(\"" },
    { BPE(AB, "", ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"},\"behavior\":\"Isolated\"}"), SPEY_UNSUPPORTED, "intersection" },
    { BPE(AB, "", ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Sideways\"}"), SPEY_UNSUPPORTED, "\"Sideways\"" },
    { BPE(AB, "", ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}"), SPEY_FORMAT, "one character" },
    { BPE(AB, "", ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"maybe\"}"), SPEY_UNSUPPORTED, "\"maybe\"" },
    { BPE(AB, "", ",\"decoder\":{\"type\":\"CTC\"}"), SPEY_UNSUPPORTED, "decoder \"CTC\"" },
    { BPE(AB, "", ",\"decoder\":{\"type\":\"Strip\",\"content\":\"\"}"), SPEY_FORMAT, "one character" },
    { BPE(AB, "", ",\"post_processor\":{\"type\":\"Stamp\"}"), SPEY_UNSUPPORTED, "\"Stamp\"" },
    { BPE(AB, "", ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"), SPEY_FORMAT, "no special token \"x\"" },
    { BPE(AB, "", ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}]}"), SPEY_UNSUPPORTED, "sequence B" },
    { BPE(AB, "", ",\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"z\",9]}"), SPEY_FORMAT, "names no token" },
    { BPE(AB, "", ",\"added_tokens\":{}"), SPEY_FORMAT, "\"added_tokens\"" },
    { BPE(AB, "", ",\"added_tokens\":[{\"id\":3}]"), SPEY_FORMAT, "\"content\"" },
    { BPE(AB, "", ",\"added_tokens\":[{\"id\":-1,\"content\":\"x\"}]"), SPEY_FORMAT, "\"id\"" },
    { BPE(AB, "", ",\"added_tokens\":[{\"id\":99999999,\"content\":\"x\"}]"), SPEY_FORMAT, "\"id\"" },
    { BPE(AB, "", ",\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"y\"}]"), SPEY_FORMAT, "has id 3, which another has" },
    { BPE(AB, "", ",\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]"), SPEY_FORMAT, "twice" },
};
/* clang-format on */

static void bad_input_gives_one_clear_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_inputs / sizeof bad_inputs[0]; i++) {
        const bad_input *bad = &bad_inputs[i];
        spey_tokenizer *tokenizer = (spey_tokenizer *)(void *)&tokenizer;
        uint64_t live = spey_alloc_read_stats().n_live;
        spey_status status =
            spey_tokenizer_from_json("x.json", bad->text, strlen(bad->text), &tokenizer);
        if (status != bad->status || !strstr(spey_last_error(), bad->message) ||
            !strstr(spey_last_error(), "x.json"))
            fail_msg("%s\n  gives %d \"%s\", expected %d \"%s\"", bad->text, status,
                     spey_last_error(), bad->status, bad->message);
        assert_null(tokenizer);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
}

static const char small[] =
    "{\"added_tokens\":[{\"id\":9,\"content\":\"<x>\",\"special\":true},{\"id\":10,\"content\":\"Ab\",\"normalized\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"Lowercase\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"c+\"},\"content\":\"b\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\s+|d\"},"
    "\"behavior\":\"Removed\",\"invert\":false},{\"type\":\"Digits\"}]},"
    "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"b\"},\"content\":\"B\"},"
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\"a\",\"start\":1,\"stop\":1}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"?\",\"fuse_unk\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"abab\":3,\"?\":4,"
    "\"1\":5,\"\xcc\x81\":6,\"e\":7,\"e\xcc\x81\":8},\"merges\":[\"a b\",[\"ab\",\"ab\"],[\"e\",\"\xcc\x81\"]]}}";

static void a_model_works_end_to_end(void **state)
{
    (void)state;
    spey_tokenizer *tokenizer;
    assert_int_equal(spey_tokenizer_from_json("small", small, sizeof small - 1, &tokenizer),
                     SPEY_OK);
    static const char text[] = "ABAcc b\xc3\xa9 11d<x>zzb";
    static const int32_t want[] = { 0, 10, 10, 1, 8, 5, 5, 9, 4, 1, 1 };
    spey_ids ids = { 0 };
    assert_int_equal(spey_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids), SPEY_OK);
    assert_int_equal(ids.len, sizeof want / sizeof want[0]);
    assert_memory_equal(ids.data, want, sizeof want);
    spey_ids_deinit(&ids);
    spey_tokenizer_free(tokenizer);
}

/* Everything once; the result tells whether memory ran out. */
static spey_status use(const char *text, size_t n, bool model)
{
    spey_tokenizer *first = NULL, *second = NULL;
    spey_strbuf blob = { 0 }, out = { 0 };
    spey_ids ids = { 0 };
    spey_detokenizer *steps = NULL;
    static const char words[] =
        "ABAcc b\xc3\xa9 11 <x> zzb \xff abababababababababababababababababababababababababababab";
    spey_status status = model ? spey_tokenizer_from_sentencepiece("x", text, n, &first)
                               : spey_tokenizer_from_json("x", text, n, &first);
    if (!status) status = spey_tokenizer_write(first, &blob);
    if (!status) status = spey_tokenizer_read("blob", blob.data, blob.len, &second);
    if (!status) status = spey_tokenizer_encode(second, words, sizeof words - 1, true, &ids);
    if (!status) status = spey_tokenizer_decode(second, ids.data, ids.len, false, &out);
    if (!status) status = spey_detokenizer_new(second, true, &steps);
    for (size_t i = 0; i < ids.len && !status; i++)
        status = spey_detokenizer_push(steps, ids.data[i], &out);
    if (!status) status = spey_detokenizer_flush(steps, &out);
    spey_detokenizer_free(steps);
    spey_ids_deinit(&ids);
    spey_strbuf_deinit(&out);
    spey_tokenizer_free(second);
    spey_strbuf_deinit(&blob);
    spey_tokenizer_free(first);
    return status;
}

/* jansson itself stops in an assert when memory runs out inside a string, so its allocations are left alone. */
static uint64_t allocations_of_parsing(const char *text, size_t n)
{
    uint64_t before = spey_alloc_read_stats().n_allocations;
    json_t *root;
    assert_int_equal(spey_json_parse("x", text, n, &root), SPEY_OK);
    json_decref(root);
    return spey_alloc_read_stats().n_allocations - before;
}

static void torture(const char *text, size_t n, bool model, uint64_t stride)
{
    uint64_t first = model ? 1 : allocations_of_parsing(text, n) + 1;
    uint64_t live = spey_alloc_read_stats().n_live;
    uint64_t before = spey_alloc_read_stats().n_allocations;
    assert_int_equal(use(text, n, model), SPEY_OK);
    uint64_t total = spey_alloc_read_stats().n_allocations - before;
    uint64_t failures = 0;
    for (uint64_t nth = first; nth <= total; nth += nth > 60 ? stride : 1) {
        spey_alloc_fail_nth(nth);
        spey_status status = use(text, n, model);
        spey_alloc_fail_nth(0);
        failures += status == SPEY_NOMEM;
        /* The word cache does without memory; everything else says so. */
        if (status != SPEY_OK && status != SPEY_NOMEM)
            fail_msg("allocation %llu: status %d: %s", (unsigned long long)nth, status,
                     spey_last_error());
        assert_int_equal(spey_alloc_read_stats().n_live, live);
    }
    assert_true(failures > 50);
}

static void failing_allocations_leak_nothing(void **state)
{
    (void)state;
    torture(small, sizeof small - 1, false, 1);
    static const char *const models[] = { "sentencepiece-bpe", "sentencepiece-unigram" };
    for (size_t i = 0; i < 2; i++) {
        char path[128];
        spey_strbuf bytes = { 0 };
        snprintf(path, sizeof path, "tests/data/tokenizers/%s/tokenizer.model", models[i]);
        assert_int_equal(spey_file_read(path, 1 << 24, &bytes), SPEY_OK);
        torture(bytes.data, bytes.len, true, 37);
        spey_strbuf_deinit(&bytes);
    }
}

static void a_damaged_sentencepiece_model_is_refused(void **state)
{
    (void)state;
    spey_strbuf bytes = { 0 };
    assert_int_equal(
        spey_file_read("tests/data/tokenizers/sentencepiece-bpe/tokenizer.model", 1 << 24, &bytes),
        SPEY_OK);
    spey_tokenizer *tokenizer;
    uint64_t live = spey_alloc_read_stats().n_live;
    for (size_t n = 0; n < bytes.len; n += bytes.len / 97 + 1)
        if (!spey_tokenizer_from_sentencepiece("cut", bytes.data, n, &tokenizer))
            spey_tokenizer_free(tokenizer); /* cut between two pieces: a smaller model */
    assert_int_equal(spey_alloc_read_stats().n_live, live);
    static const char no_unk[] = "\x0a\x05\x0a\x03"
                                 "abc";
    assert_int_equal(spey_tokenizer_from_sentencepiece("x", no_unk, sizeof no_unk - 1, &tokenizer),
                     SPEY_FORMAT);
    assert_non_null(strstr(spey_last_error(), "no unknown piece"));
    assert_int_equal(spey_tokenizer_from_sentencepiece("x", "\xff\xff\xff", 3, &tokenizer),
                     SPEY_FORMAT);
    spey_strbuf_deinit(&bytes);
}

int main(void)
{
    spey_log_set_level(SPEY_LOG_QUIET);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_input_gives_one_clear_error),
        cmocka_unit_test(a_model_works_end_to_end),
        cmocka_unit_test(failing_allocations_leak_nothing),
        cmocka_unit_test(a_damaged_sentencepiece_model_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
