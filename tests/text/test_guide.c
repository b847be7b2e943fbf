/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/rng.h"
#include "text/guide.h"

/* What a guide matches, byte by byte and by token masks, is compared with enumerations and a real validator in test_guide.py;
 * here are failures, masks over many-byte tokens, and what holds between calls. */

static spey_guide *compile(spey_guide_format format, const char *text)
{
    spey_guide *guide;
    spey_status status = spey_guide_compile(format, text, strlen(text), &guide);
    if (status) print_message("%s\n", spey_last_error());
    assert_int_equal(status, SPEY_OK);
    return guide;
}

/* ---- failures ---- */

typedef struct failure {
    const char *guide, *says;
    spey_status status;
} failure;

static void expect_failures(spey_guide_format format, const failure *cases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        spey_guide *guide;
        spey_status status =
            spey_guide_compile(format, cases[i].guide, strlen(cases[i].guide), &guide);
        if (status != cases[i].status || !strstr(spey_last_error(), cases[i].says))
            print_message("%.60s: %d %s\n", cases[i].guide, (int)status, spey_last_error());
        assert_int_equal(status, cases[i].status);
        assert_non_null(strstr(spey_last_error(), cases[i].says));
        assert_null(guide);
    }
}

static void bad_regexes_are_refused_where_they_are_bad(void **state)
{
    (void)state;
    const failure cases[] = {
        { "(a", "byte 2: a ) is missing", SPEY_FORMAT },
        { "a)", "byte 1: a ) without", SPEY_FORMAT },
        { "[a", "a ] is missing", SPEY_FORMAT },
        { "[]", "empty class", SPEY_FORMAT },
        { "[z-a]", "ends before it begins", SPEY_FORMAT },
        { "*", "nothing to repeat", SPEY_FORMAT },
        { "a**", "needs brackets", SPEY_FORMAT },
        { "a{3,2}", "ends before it begins", SPEY_FORMAT },
        { "a{", "begins a count", SPEY_FORMAT },
        { "a{99999999}", "too large", SPEY_FORMAT },
        { "\\", "backslash ends", SPEY_FORMAT },
        { "\\1", "escape is not supported", SPEY_FORMAT },
        { "\\b", "escape is not supported", SPEY_FORMAT },
        { "\\xg0", "hexadecimal", SPEY_FORMAT },
        { "\\ud800", "hexadecimal", SPEY_FORMAT },
        { "(?=a)", "not supported", SPEY_FORMAT },
        { "(?<=a)", "not supported", SPEY_FORMAT },
        { "a(^b)", "^ and $", SPEY_FORMAT },
        { "\xff", "not UTF-8", SPEY_FORMAT },
        { "[^\\d\\D]", "matches nothing", SPEY_FORMAT },
        { "((a?){1000}){1000}", "ways", SPEY_LIMIT },
        { "(a{0,500}){0,500}", "ways", SPEY_LIMIT },
    };
    expect_failures(SPEY_GUIDE_REGEX, cases, sizeof cases / sizeof *cases);
}

static void bad_grammars_are_refused_with_their_line(void **state)
{
    (void)state;
    const failure cases[] = {
        { "", "the rule root is missing", SPEY_FORMAT },
        { "root ::= a", "the rule a is missing", SPEY_FORMAT },
        { "root ::= \"x\"\nroot ::= \"y\"", "line 2: this rule is there already", SPEY_FORMAT },
        { "root ::= \"x", "line 1: a \" is missing", SPEY_FORMAT },
        { "root ::= [x", "a ] is missing", SPEY_FORMAT },
        { "root ::= (\"x\"", "a ) is missing", SPEY_FORMAT },
        { "root ::= \"\\q\"", "escape is not known", SPEY_FORMAT },
        { "root ::= \"\\u12g4\"", "hexadecimal", SPEY_FORMAT },
        { "root ::= \"a\"{2,1}", "ends before it begins", SPEY_FORMAT },
        { "root ::= \"a\"{x}", "number is expected", SPEY_FORMAT },
        { "\n\nx", "line 3: `name ::=`", SPEY_FORMAT },
        { "root ::= ;", "is expected", SPEY_FORMAT },
        { "root ::= root \"a\" | \"b\"", "root can call itself", SPEY_FORMAT },
        { "root ::= x\nx ::= \"\" y\ny ::= \"a\"? x | \"z\"", "can call itself", SPEY_FORMAT },
        { "root ::= \"a\" root", "matches nothing", SPEY_FORMAT },
        { "root ::= \"\xc3\"", "not UTF-8", SPEY_FORMAT },
    };
    expect_failures(SPEY_GUIDE_GRAMMAR, cases, sizeof cases / sizeof *cases);
}

static void bad_schemas_are_refused_with_their_pointer(void **state)
{
    (void)state;
    const failure cases[] = {
        { "{", "JSON schema", SPEY_FORMAT },
        { "[3]", "a schema is expected", SPEY_FORMAT },
        { "{\"type\": \"array\", \"items\": false, \"minItems\": 1}", "more than there are",
          SPEY_FORMAT },
        { "{\"required\": [\"a\"], \"additionalProperties\": false}", "matches nothing",
          SPEY_FORMAT },
        { "{\"type\": \"strnig\"}", "\"type\" is not known", SPEY_FORMAT },
        { "{\"not\": {}}", "/not: this keyword is not supported", SPEY_UNSUPPORTED },
        { "{\"properties\": {\"a/b\": {\"if\": {}}}}", "/properties/a~1b/if", SPEY_UNSUPPORTED },
        { "{\"items\": {\"uniqueItems\": true}}", "/items/uniqueItems", SPEY_UNSUPPORTED },
        { "{\"format\": \"iri\"}", "/format: this format", SPEY_UNSUPPORTED },
        { "{\"pattern\": \"(\"}", "/pattern: byte 1: a ) is missing", SPEY_FORMAT },
        { "{\"pattern\": \"a\", \"minLength\": 2}", "only one of", SPEY_UNSUPPORTED },
        { "{\"minLength\": 3, \"maxLength\": 2}", "less than minLength", SPEY_FORMAT },
        { "{\"minLength\": -1}", "/minLength: a count", SPEY_FORMAT },
        { "{\"type\": \"integer\", \"minimum\": 3, \"maximum\": 2}", "nothing lies", SPEY_FORMAT },
        { "{\"type\": \"number\", \"minimum\": 0.2, \"maximum\": 0.8}", "no integer lies",
          SPEY_UNSUPPORTED },
        { "{\"minimum\": \"1\"}", "/minimum: a number", SPEY_FORMAT },
        { "{\"$ref\": \"other.json\"}", "only this document", SPEY_UNSUPPORTED },
        { "{\"$ref\": \"#/$defs/x\"}", "leads nowhere", SPEY_FORMAT },
        { "{\"$defs\": {\"a\": {\"$ref\": \"#/$defs/a\"}}, \"$ref\": \"#/$defs/a\"}",
          "can call itself", SPEY_FORMAT },
        { "{\"allOf\": [{\"$ref\": \"#\"}]}", "nested too deeply", SPEY_LIMIT },
        { "{\"oneOf\": [{\"type\": \"integer\"}, {\"type\": \"number\"}]}", "/oneOf: two of these",
          SPEY_UNSUPPORTED },
        { "{\"allOf\": [{\"pattern\": \"a\"}, {\"pattern\": \"b\"}]}", "/pattern: two of this",
          SPEY_UNSUPPORTED },
        { "{\"enum\": [\"a\"], \"minLength\": 1}", "/minLength: this keyword beside enum",
          SPEY_UNSUPPORTED },
        { "{\"items\": [{}]}", "prefixItems", SPEY_UNSUPPORTED },
        { "{\"required\": 3}", "list of names", SPEY_FORMAT },
        { "{\"type\": \"array\", \"items\": false, \"minItems\": 1}", "more than there are",
          SPEY_FORMAT },
        { "{\"type\": \"array\", \"maxItems\": 99999, \"items\": {}}", "too large", SPEY_LIMIT },
    };
    expect_failures(SPEY_GUIDE_JSON_SCHEMA, cases, sizeof cases / sizeof *cases);
}

/* ---- masks ---- */

enum { N_TOKENS = 200, EOS = N_TOKENS - 1, SILENT = N_TOKENS - 2 };

typedef struct fixture {
    spey_guide_vocab *vocab;
    char bytes[N_TOKENS][8];
} fixture;

/* Tokens of one to five letters of a small alphabet; SILENT and EOS have no bytes. */
static int set_up(void **state)
{
    static fixture f;
    static const char letters[] = "ab01\"{}[]:, ";
    const char *bytes[N_TOKENS];
    uint32_t lengths[N_TOKENS];
    spey_rng rng = { .seed = 7 };
    for (int i = 0; i < N_TOKENS; i++) {
        lengths[i] = i < 12 ? 1 : 1 + (uint32_t)spey_rng_below(&rng, 5);
        for (uint32_t k = 0; k < lengths[i]; k++)
            f.bytes[i][k] = letters[i < 12 ? (uint64_t)i : spey_rng_below(&rng, 12)];
        bytes[i] = i < SILENT ? f.bytes[i] : NULL;
    }
    *state = &f;
    return spey_guide_vocab_from_bytes(bytes, lengths, N_TOKENS, &f.vocab) ? -1 : 0;
}

static int tear_down(void **state)
{
    spey_guide_vocab_free(((fixture *)*state)->vocab);
    return 0;
}

static spey_guide_matcher *match(const fixture *f, const spey_guide *guide)
{
    spey_guide_matcher *m;
    const int32_t eos = EOS;
    assert_int_equal(spey_guide_matcher_new(guide, f->vocab, &eos, 1, &m), SPEY_OK);
    return m;
}

static bool allowed(const uint64_t *mask, int32_t id)
{
    return mask[id >> 6] >> (id & 63) & 1;
}

static const char nested[] = "root ::= \"[\" (item (\",\" \" \"? item)*)? \"]\"\n"
                             "item ::= root | [ab]+ | \"\\\"\" [^\"]* \"\\\"\"";

/* The mask has exactly the tokens that can be taken. */
static void check_mask(spey_guide_matcher *m, spey_guide_state at, uint64_t mask[4])
{
    const uint64_t *found;
    assert_int_equal(spey_guide_matcher_mask(m, at, &found), SPEY_OK);
    memcpy(mask, found, 4 * sizeof *mask);
    for (int32_t id = 0; id < EOS; id++) {
        spey_guide_state next = spey_guide_matcher_fork(m, at);
        spey_status status = spey_guide_matcher_advance(m, &next, id);
        assert_int_equal(status, allowed(mask, id) ? SPEY_OK : SPEY_INVALID);
        if (status) assert_int_equal(next, at);
        spey_guide_matcher_drop(m, next);
    }
    assert_int_equal(allowed(mask, EOS), spey_guide_matcher_can_end(m, at));
    assert_false(allowed(mask, SILENT));
}

static void masks_are_the_tokens_that_can_be_taken(void **state)
{
    const fixture *f = *state;
    const struct {
        spey_guide_format format;
        const char *text;
    } guides[] = { { SPEY_GUIDE_REGEX, "(a|b)*0(1{2,4}|ab)[:, ]*" },
                   { SPEY_GUIDE_GRAMMAR, nested },
                   { SPEY_GUIDE_JSON_SCHEMA,
                     "{\"additionalProperties\": {\"type\": [\"array\", "
                     "\"integer\"], \"items\": {\"type\": \"string\"}}}" } };
    spey_rng rng = { .seed = 11 };
    for (size_t g = 0; g < sizeof guides / sizeof *guides; g++) {
        spey_guide *guide = compile(guides[g].format, guides[g].text);
        spey_guide_matcher *m = match(f, guide);
        for (int walk = 0; walk < 20; walk++) {
            spey_guide_state at = spey_guide_matcher_start(m);
            for (int step = 0; step < 30; step++) {
                uint64_t mask[4];
                int32_t choice = -1, seen = 0;
                check_mask(m, at, mask);
                for (int32_t id = 0; id < EOS; id++)
                    if (allowed(mask, id) && spey_rng_below(&rng, (uint64_t)++seen) == 0)
                        choice = id;
                if (choice < 0) break;
                assert_int_equal(spey_guide_matcher_advance(m, &at, choice), SPEY_OK);
            }
            spey_guide_matcher_drop(m, at);
        }
        spey_guide_matcher_free(m);
        spey_guide_free(guide);
    }
}

static void the_end_is_allowed_where_the_text_may_end_only(void **state)
{
    const fixture *f = *state;
    spey_guide *guide = compile(SPEY_GUIDE_REGEX, "ab?");
    spey_guide_matcher *m = match(f, guide);
    spey_guide_state at = spey_guide_matcher_start(m);
    float logits[N_TOKENS] = { 0 };
    assert_false(spey_guide_matcher_can_end(m, at));
    assert_int_equal(spey_guide_matcher_advance(m, &at, 0), SPEY_OK); /* a */
    assert_true(spey_guide_matcher_can_end(m, at));
    assert_false(spey_guide_matcher_must_end(m, at));
    assert_int_equal(spey_guide_matcher_advance(m, &at, 1), SPEY_OK); /* b */
    assert_true(spey_guide_matcher_must_end(m, at));
    assert_int_equal(spey_guide_matcher_apply(m, at, logits), SPEY_OK);
    for (int32_t id = 0; id < N_TOKENS; id++)
        assert_true(id == EOS ? logits[id] == 0 : isinf(logits[id]));
    assert_int_equal(spey_guide_matcher_advance(m, &at, SILENT), SPEY_INVALID);
    spey_guide_matcher_drop(m, at);
    spey_guide_matcher_free(m);
    spey_guide_free(guide);
}

static void forks_go_their_own_ways_and_nothing_allocates(void **state)
{
    const fixture *f = *state;
    spey_guide *guide = compile(SPEY_GUIDE_GRAMMAR, nested);
    spey_guide_matcher *m = match(f, guide);
    const int32_t open = 7, close = 8, a = 0; /* of "ab01\"{}[]:, " */
    const uint64_t *mask;
    spey_alloc_seal(true);
    spey_guide_state one = spey_guide_matcher_start(m);
    assert_int_equal(spey_guide_matcher_advance(m, &one, open), SPEY_OK);
    spey_guide_state two = spey_guide_matcher_fork(m, one);
    assert_int_equal(spey_guide_matcher_advance(m, &one, open), SPEY_OK);
    assert_int_equal(spey_guide_matcher_advance(m, &two, a), SPEY_OK);
    assert_int_equal(spey_guide_matcher_mask(m, one, &mask), SPEY_OK);
    assert_int_equal(spey_guide_matcher_advance(m, &one, close), SPEY_OK);
    assert_false(spey_guide_matcher_can_end(m, one));
    assert_int_equal(spey_guide_matcher_advance(m, &two, close), SPEY_OK);
    assert_true(spey_guide_matcher_can_end(m, two));
    assert_int_equal(spey_guide_matcher_advance(m, &one, close), SPEY_OK);
    assert_int_equal(one, two); /* the same state is stored once */
    spey_guide_matcher_drop(m, one);
    spey_guide_matcher_drop(m, two);
    spey_alloc_seal(false);
    spey_guide_matcher_free(m);
    spey_guide_free(guide);
}

/* Brackets 20,000 deep make more states and stacks than are kept, twice: what is held survives. */
static void held_states_outlive_full_tables(void **state)
{
    const fixture *f = *state;
    spey_guide *guide = compile(SPEY_GUIDE_GRAMMAR, "root ::= \"[\" root \"]\" | \"a\"");
    spey_guide_matcher *m = match(f, guide);
    const int32_t open = 7, close = 8, a = 0, depth = 20000;
    spey_guide_state at = spey_guide_matcher_start(m);
    const uint64_t *mask;
    for (int32_t i = 0; i < depth; i++) {
        assert_int_equal(spey_guide_matcher_advance(m, &at, open), SPEY_OK);
        assert_int_equal(spey_guide_matcher_mask(m, at, &mask), SPEY_OK);
        assert_true(allowed(mask, open) && allowed(mask, a) && !allowed(mask, close));
    }
    spey_guide_state middle = spey_guide_matcher_fork(m, at);
    for (int round = 0; round < 2; round++) {
        at = spey_guide_matcher_fork(m, middle);
        assert_int_equal(spey_guide_matcher_advance(m, &at, a), SPEY_OK);
        for (int32_t i = 0; i < depth; i++) {
            assert_false(spey_guide_matcher_can_end(m, at));
            assert_int_equal(spey_guide_matcher_advance(m, &at, close), SPEY_OK);
        }
        assert_true(spey_guide_matcher_must_end(m, at));
        spey_guide_matcher_drop(m, at);
    }
    spey_guide_matcher_free(m);
    spey_guide_free(guide);
}

/* A large vocabulary leaves room for few masks: those that were given up are made again. */
static void masks_that_were_given_up_come_back_equal(void **state)
{
    (void)state;
    enum { VOCAB = 1 << 20, COUNT = 150 };
    static const char *bytes[VOCAB] = { "a", "aa", "b" };
    static uint32_t lengths[VOCAB] = { 1, 2, 1 };
    spey_guide_vocab *vocab;
    spey_guide_matcher *m;
    assert_int_equal(spey_guide_vocab_from_bytes(bytes, lengths, VOCAB, &vocab), SPEY_OK);
    spey_guide *guide = compile(SPEY_GUIDE_REGEX, "a{0,150}b");
    assert_int_equal(spey_guide_matcher_new(guide, vocab, NULL, 0, &m), SPEY_OK);
    for (int round = 0; round < 2; round++) {
        spey_guide_state at = spey_guide_matcher_start(m);
        for (int i = 0; i <= COUNT; i++) {
            const uint64_t *mask;
            assert_int_equal(spey_guide_matcher_mask(m, at, &mask), SPEY_OK);
            uint64_t left = (uint64_t)(COUNT - i);
            assert_int_equal(mask[0], 4 | (left >= 1) | (uint64_t)(left >= 2) << 1);
            if (left) assert_int_equal(spey_guide_matcher_advance(m, &at, 0), SPEY_OK);
        }
        spey_guide_matcher_drop(m, at);
    }
    spey_guide_matcher_free(m);
    spey_guide_free(guide);
    spey_guide_vocab_free(vocab);
}

/* ---- tokenizers ---- */

/* The bytes of a text's tokens, one after the other, are the text; SentencePiece begins with a space of its own. */
static void check_tokenizer(const char *path)
{
    static const char text[] = "Ann's na\xc3\xafve caf\xc3\xa9 \xe2\x82\xac 12 {\"a\": [1]} "
                               "\xf0\x9f\x98\x80 end";
    spey_tokenizer *t;
    spey_guide_vocab *v;
    spey_ids ids = { 0 };
    spey_strbuf out = { 0 };
    assert_int_equal(spey_tokenizer_open(path, &t), SPEY_OK);
    assert_int_equal(spey_guide_vocab_new(t, spey_tokenizer_vocab_size(t) + 5, &v), SPEY_OK);
    assert_int_equal(spey_tokenizer_encode(t, text, sizeof text - 1, false, &ids), SPEY_OK);
    for (size_t i = 0; i < ids.len; i++)
        if (v->bytes[ids.data[i]])
            spey_strbuf_append(&out, v->bytes[ids.data[i]], v->lengths[ids.data[i]]);
    const char *found = out.data[0] == ' ' ? out.data + 1 : out.data;
    print_message("%s: %s\n", path, found);
    assert_string_equal(found, text);
    for (int32_t id = 0; id < v->vocab_size; id++)
        if (id >= spey_tokenizer_vocab_size(t) || spey_tokenizer_is_special(t, id))
            assert_null(v->bytes[id]);
    spey_strbuf_deinit(&out);
    spey_ids_deinit(&ids);
    spey_guide_vocab_free(v);
    spey_tokenizer_free(t);
}

static void tokens_have_the_bytes_that_the_detokenizer_writes(void **state)
{
    (void)state;
    check_tokenizer("tests/data/tokenizers/gpt2-style");
    check_tokenizer("tests/data/tokenizers/llama3-style");
    check_tokenizer("tests/data/tokenizers/llama2-style-byte-fallback");
    check_tokenizer("tests/data/tokenizers/sentencepiece-bpe");
    check_tokenizer("models/demo");
}

/* ---- memory ---- */

static spey_status build_all(spey_guide_format format, const char *text)
{
    spey_guide *guide;
    spey_guide_matcher *m = NULL;
    const char *bytes[3] = { "a", NULL, "\"a" };
    const uint32_t lengths[3] = { 1, 0, 2 };
    spey_guide_vocab *vocab = NULL;
    spey_status status = spey_guide_compile(format, text, strlen(text), &guide);
    if (!status) status = spey_guide_vocab_from_bytes(bytes, lengths, 3, &vocab);
    if (!status) status = spey_guide_matcher_new(guide, vocab, NULL, 0, &m);
    spey_guide_matcher_free(m);
    spey_guide_vocab_free(vocab);
    spey_guide_free(guide);
    return status;
}

static void failed_allocations_leak_nothing(void **state)
{
    (void)state;
    const struct {
        spey_guide_format format;
        const char *text;
    } guides[] = { { SPEY_GUIDE_REGEX, "(a|[^b]){2,5}" },
                   { SPEY_GUIDE_GRAMMAR, nested },
                   { SPEY_GUIDE_JSON_SCHEMA,
                     "{\"allOf\": [{\"properties\": {\"a\": {\"$ref\": \"#\"}}}, {\"required\": "
                     "[\"b\"], \"type\": \"object\"}]}" } };
    for (size_t g = 0; g < sizeof guides / sizeof *guides; g++) {
        uint64_t live = spey_alloc_read_stats().n_live;
        spey_status status = SPEY_NOMEM;
        for (uint64_t nth = 1; status; nth++) {
            spey_alloc_fail_nth(nth);
            status = build_all(guides[g].format, guides[g].text);
            spey_alloc_fail_nth(0);
            assert_true(status == SPEY_NOMEM || status == SPEY_OK);
            assert_int_equal(spey_alloc_read_stats().n_live, live);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_regexes_are_refused_where_they_are_bad),
        cmocka_unit_test(bad_grammars_are_refused_with_their_line),
        cmocka_unit_test(bad_schemas_are_refused_with_their_pointer),
        cmocka_unit_test(masks_are_the_tokens_that_can_be_taken),
        cmocka_unit_test(the_end_is_allowed_where_the_text_may_end_only),
        cmocka_unit_test(forks_go_their_own_ways_and_nothing_allocates),
        cmocka_unit_test(held_states_outlive_full_tables),
        cmocka_unit_test(masks_that_were_given_up_come_back_equal),
        cmocka_unit_test(tokens_have_the_bytes_that_the_detokenizer_writes),
        cmocka_unit_test(failed_allocations_leak_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
