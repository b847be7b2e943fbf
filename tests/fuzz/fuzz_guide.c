/* The first byte chooses: regex, grammar, JSON schema; the rest is that text. What compiles runs over a fixed text and the guide
 * itself, and its masks must say what can be taken. The vocabulary is large enough for folds (text/guide_fold.h). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/rng.h"
#include "text/guide.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { EOS = 1600, STEPS = 64, TRIES = 24, TOKEN_BYTES = 12 };

static char bytes[EOS][TOKEN_BYTES];
static const char *each[EOS + 1];
static uint32_t lengths[EOS + 1];

/* Every byte, and tokens of up to six parts. */
static void draw_tokens(void)
{
    static const char *const parts[] = {
        "a", "e", "t", " ", "0", "A",  "\"",   "\\",   ",",
        ":", "{", "}", "[", "]", "\n", "\xc3", "\xa9", "\xc3\xa9"
    };
    spey_rng rng = { .seed = 1 };
    for (int i = 0; i < EOS; i++) {
        uint64_t n_parts = i % 2 ? 5 : sizeof parts / sizeof *parts;
        for (uint64_t k = 1 + spey_rng_below(&rng, 6); k > 0 && i >= 256; k--) {
            const char *part = parts[spey_rng_below(&rng, n_parts)];
            memcpy(bytes[i] + lengths[i], part, strlen(part));
            lengths[i] += (uint32_t)strlen(part);
        }
        each[i] = bytes[i];
        if (i >= 256) continue;
        bytes[i][0] = (char)i;
        lengths[i] = 1;
    }
}

static bool is_allowed(const uint64_t *mask, int32_t token)
{
    return mask[token >> 6] >> (token & 63) & 1;
}

static void check_tokens(spey_guide_matcher *m, spey_guide_state at, const uint64_t *mask,
                         spey_rng *rng)
{
    for (int i = 0; i < TRIES; i++) {
        int32_t token = (int32_t)spey_rng_below(rng, EOS);
        spey_guide_state next = spey_guide_matcher_fork(m, at);
        if (!spey_guide_matcher_advance(m, &next, token) != is_allowed(mask, token)) abort();
        spey_guide_matcher_drop(m, next);
    }
}

/* Take the bytes that are allowed, and for one that is not the lowest that is. */
static void walk(spey_guide_matcher *m, const char *text, size_t n)
{
    spey_guide_state at = spey_guide_matcher_start(m);
    spey_rng rng = { .seed = n };
    for (size_t i = 0; i < n && i < STEPS; i++) {
        const uint64_t *found;
        uint64_t mask[EOS / 64 + 1];
        if (spey_guide_matcher_mask(m, at, &found)) break;
        memcpy(mask, found, sizeof mask); /* a step may make room */
        check_tokens(m, at, mask, &rng);
        int32_t byte = (unsigned char)text[i];
        if (is_allowed(mask, EOS) != spey_guide_matcher_can_end(m, at)) abort();
        for (int32_t k = 0; k < 256 && !is_allowed(mask, byte); k++)
            byte = k;
        bool allowed = is_allowed(mask, byte);
        if (!allowed && !is_allowed(mask, EOS)) abort(); /* nowhere to go */
        if (!spey_guide_matcher_advance(m, &at, byte) != allowed) abort();
    }
    spey_guide_matcher_drop(m, at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char text[] = "{\"a\": [1, -2.5e3, true, null], \"b\": \"x\\n\xc3\xa9\"} abc 0";
    const int32_t eos = EOS;
    if (n < 1) return 0;
    spey_log_set_level(SPEY_LOG_QUIET);
    if (!each[0]) draw_tokens();
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_guide *guide;
    spey_guide_vocab *vocab;
    spey_guide_matcher *m;
    if (!spey_guide_compile((spey_guide_format)(1 + data[0] % 3), (const char *)data + 1, n - 1,
                            &guide)) {
        if (spey_guide_vocab_from_bytes(each, lengths, EOS + 1, &vocab)) abort();
        if (!spey_guide_matcher_new(guide, vocab, &eos, 1, &m)) {
            walk(m, text, sizeof text - 1);
            walk(m, (const char *)data + 1, n - 1);
            spey_guide_matcher_free(m);
        }
        spey_guide_vocab_free(vocab);
        spey_guide_free(guide);
    }
    if (spey_alloc_read_stats().n_live != live) abort();
    return 0;
}
