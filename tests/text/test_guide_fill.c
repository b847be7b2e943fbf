/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/rng.h"
#include "text/guide.h"
#include "text/guide_fold.h"

/* Masks over a vocabulary that is large enough to be folded: words, runs longer than are folded, characters of two to four bytes
 * and parts of them, quotes and escapes. */
enum { N_TOKENS = 6000, EOS = N_TOKENS - 1, TOKEN_BYTES = 48 };

typedef struct fixture {
    spey_guide_vocab *vocab;
    char bytes[N_TOKENS][TOKEN_BYTES];
} fixture;

static uint32_t draw_token(spey_rng *rng, char *out)
{
    static const char *const parts[] = { "a",
                                         "b",
                                         "z",
                                         "Z",
                                         "A",
                                         "0",
                                         "9",
                                         " ",
                                         "\"",
                                         "\\",
                                         "\n",
                                         "n",
                                         ",",
                                         ":",
                                         "{",
                                         "}",
                                         "\xc3\xa9",
                                         "\xc3",
                                         "\xa9",
                                         "ex",
                                         "-----",
                                         "the",
                                         "ing",
                                         "\xe2\x82\xac",
                                         "\xe2\x82",
                                         "\xf0\x9f\x98\x80",
                                         "\xff",
                                         "\x01",
                                         "na",
                                         "me",
                                         "\xed\x9f\xbf",
                                         "\xed\xa0" };
    uint32_t n = 0;
    int wanted = 1 + (int)spey_rng_below(rng, 7);
    bool plain = spey_rng_below(rng, 3) > 0; /* most tokens are words */
    for (int i = 0; i < wanted; i++) {
        const char *part = parts[spey_rng_below(rng, plain ? 5 : sizeof parts / sizeof *parts)];
        memcpy(out + n, part, strlen(part));
        n += (uint32_t)strlen(part);
    }
    return n;
}

static int set_up(void **state)
{
    static fixture f;
    static const char *bytes[N_TOKENS];
    static uint32_t lengths[N_TOKENS];
    spey_rng rng = { .seed = 5 };
    for (int i = 0; i < EOS; i++) {
        lengths[i] = draw_token(&rng, f.bytes[i]);
        bytes[i] = f.bytes[i];
    }
    for (int i = 0; i < 256; i++) {
        f.bytes[i][0] = (char)i;
        lengths[i] = 1;
    }
    *state = &f;
    return spey_guide_vocab_from_bytes(bytes, lengths, N_TOKENS, &f.vocab) ? -1 : 0;
}

static int tear_down(void **state)
{
    spey_guide_vocab_free(((fixture *)*state)->vocab);
    return 0;
}

/* The mask is that of advancing by each token. */
static int check_mask(spey_guide_matcher *m, spey_guide_state at, uint64_t *mask)
{
    const uint64_t *found;
    int n = 0;
    assert_int_equal(spey_guide_matcher_mask(m, at, &found), SPEY_OK);
    memcpy(mask, found, (N_TOKENS + 63) / 64 * sizeof *mask);
    for (int32_t id = 0; id < EOS; id++) {
        spey_guide_state next = spey_guide_matcher_fork(m, at);
        bool taken = !spey_guide_matcher_advance(m, &next, id);
        if (taken != (mask[id >> 6] >> (id & 63) & 1)) print_message("token %d\n", id);
        assert_int_equal(taken, mask[id >> 6] >> (id & 63) & 1);
        spey_guide_matcher_drop(m, next);
        n += taken;
    }
    return n;
}

static void check_guide(const fixture *f, spey_guide_format format, const char *text)
{
    const int32_t eos = EOS;
    spey_guide *guide;
    spey_guide_matcher *m;
    spey_rng rng = { .seed = 3 };
    int most = 0;
    print_message("%s\n", text);
    assert_int_equal(spey_guide_compile(format, text, strlen(text), &guide), SPEY_OK);
    assert_int_equal(spey_guide_matcher_new(guide, f->vocab, &eos, 1, &m), SPEY_OK);
    for (int walk = 0; walk < 4; walk++) {
        spey_guide_state at = spey_guide_matcher_start(m);
        for (int step = 0; step < 10; step++) {
            uint64_t mask[(N_TOKENS + 63) / 64];
            int n = check_mask(m, at, mask);
            int32_t choice = -1, seen = 0;
            most = n > most ? n : most;
            for (int32_t id = 0; id < EOS; id++)
                if (mask[id >> 6] >> (id & 63) & 1 && spey_rng_below(&rng, (uint64_t)++seen) == 0)
                    choice = id;
            if (choice < 0) break;
            assert_int_equal(spey_guide_matcher_advance(m, &at, choice), SPEY_OK);
        }
        spey_guide_matcher_drop(m, at);
    }
    assert_true(most > 200); /* or no fold was of use */
    spey_guide_matcher_free(m);
    spey_guide_free(guide);
}

static void masks_of_large_vocabularies_are_the_tokens_that_can_be_taken(void **state)
{
    static const struct {
        spey_guide_format format;
        const char *text;
    } guides[] = {
        { SPEY_GUIDE_REGEX, ".*" },
        { SPEY_GUIDE_REGEX, "[^\"\\\\]{1,6}" },
        { SPEY_GUIDE_REGEX, "[a-z]+( [A-Za-z]+)*" },
        { SPEY_GUIDE_REGEX, "(name|b{3}|[a-zA-Z]{2,5}.*)" }, /* some characters lead elsewhere */
        { SPEY_GUIDE_REGEX, "([^\\x00-\\x7f]|[a-z])*(\\n.*)?" }, /* two classes are one */
        { SPEY_GUIDE_REGEX, "([a-zA-Z]|\\u00e9[0-9])*" },        /* a longer character does */
        { SPEY_GUIDE_REGEX, "([^a\\n]|a[^a\\n])*" },
        { SPEY_GUIDE_REGEX, "[AZ][a-z]{1,4}(.|\\n)*" }, /* all alike but the first */
        { SPEY_GUIDE_GRAMMAR,
          "root ::= word (\" \" root)?\nword ::= letter word | letter\nletter ::= [a-zA-Z]" },
        { SPEY_GUIDE_JSON_SCHEMA, "{\"type\": \"string\"}" },
        { SPEY_GUIDE_JSON_SCHEMA, "{\"type\": \"string\", \"maxLength\": 9}" },
        { SPEY_GUIDE_JSON_SCHEMA, "{\"properties\": {\"name\": {}, \"na\": {}}, \"required\": "
                                  "[\"name\"], \"additionalProperties\": {\"type\": \"string\"}}" },
    };
    for (size_t i = 0; i < sizeof guides / sizeof *guides; i++)
        check_guide(*state, guides[i].format, guides[i].text);
}

/* ---- folds ---- */

static const spey_guide_range lower = { 'a', 'z' };
static const spey_guide_class letters = { (spey_guide_range *)(uintptr_t)&lower, 1, 1 };

static void a_fold_has_every_token_once_at_its_folded_bytes(void **state)
{
    const fixture *f = *state;
    const spey_guide_fold *fold;
    for (int after_first = 0; after_first < 2; after_first++) {
        static int seen[N_TOKENS];
        memset(seen, 0, sizeof seen);
        assert_int_equal(spey_guide_fold_get(f->vocab, &letters, after_first, &fold), SPEY_OK);
        int32_t path[TOKEN_BYTES + 1] = { 0 };
        for (int32_t i = 1; i < fold->n_nodes; i++) {
            const spey_guide_fold_node *node = &fold->nodes[i];
            path[node->depth] = node->symbol;
            for (int32_t k = node->first; k < node[1].first; k++) {
                int32_t id = fold->ids[k];
                seen[id]++;
                assert_int_equal(node->depth, f->vocab->lengths[id]); /* letters have one byte */
                for (int32_t d = 0; d < node->depth; d++) {
                    bool folded = path[d + 1] == SPEY_GUIDE_FOLDED;
                    unsigned char byte = (unsigned char)f->vocab->bytes[id][d];
                    assert_true(folded ? byte >= 'a' && byte <= 'z' : path[d + 1] == byte);
                    if (d == 0 && after_first) assert_false(folded);
                }
            }
        }
        for (int32_t id = 0; id < EOS; id++)
            assert_int_equal(seen[id], 1);
        spey_guide_fold_put(f->vocab, fold);
    }
}

static void folds_are_shared_and_the_oldest_unused_one_goes(void **state)
{
    const fixture *f = *state;
    const spey_guide_fold *first, *again, *other[SPEY_GUIDE_FOLDS_MAX];
    assert_int_equal(spey_guide_fold_get(f->vocab, &letters, false, &first), SPEY_OK);
    assert_int_equal(spey_guide_fold_get(f->vocab, &letters, false, &again), SPEY_OK);
    assert_ptr_equal(first, again);
    spey_guide_fold_put(f->vocab, again);
    for (int i = 0; i < SPEY_GUIDE_FOLDS_MAX; i++) {
        spey_guide_range range = { '0', (uint32_t)('1' + i) };
        const spey_guide_class class = { &range, 1, 1 };
        assert_int_equal(spey_guide_fold_get(f->vocab, &class, false, &other[i]), SPEY_OK);
        assert_int_equal(other[i] != NULL, i < SPEY_GUIDE_FOLDS_MAX - 1); /* one place is taken */
    }
    for (int i = 0; i < SPEY_GUIDE_FOLDS_MAX; i++)
        spey_guide_fold_put(f->vocab, other[i]);
    assert_int_equal(spey_guide_fold_get(f->vocab, &letters, true, &again), SPEY_OK);
    assert_non_null(again);
    spey_guide_fold_put(f->vocab, again);
    spey_guide_fold_put(f->vocab, first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_of_large_vocabularies_are_the_tokens_that_can_be_taken),
        cmocka_unit_test(a_fold_has_every_token_once_at_its_folded_bytes),
        cmocka_unit_test(folds_are_shared_and_the_oldest_unused_one_goes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
