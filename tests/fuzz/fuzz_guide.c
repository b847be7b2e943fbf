/* The first byte chooses: regex, grammar, JSON schema; the rest is that text. What compiles runs over a fixed text and the guide
 * itself, and its masks must say what can be taken. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "text/guide.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { EOS = 256, STEPS = 64 };

static spey_guide_vocab *byte_vocab(void)
{
    static char bytes[256];
    const char *each[EOS + 1] = { NULL };
    uint32_t lengths[EOS + 1] = { 0 };
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        each[i] = bytes + i;
        lengths[i] = 1;
    }
    spey_guide_vocab *vocab;
    if (spey_guide_vocab_from_bytes(each, lengths, EOS + 1, &vocab)) abort();
    return vocab;
}

/* Take the bytes that are allowed, and for one that is not the lowest that is. */
static void walk(spey_guide_matcher *m, const char *text, size_t n)
{
    spey_guide_state at = spey_guide_matcher_start(m);
    for (size_t i = 0; i < n && i < STEPS; i++) {
        const uint64_t *mask;
        if (spey_guide_matcher_mask(m, at, &mask)) break;
        int32_t byte = (unsigned char)text[i];
        if ((mask[4] & 1) != spey_guide_matcher_can_end(m, at)) abort();
        for (int32_t k = 0; k < 256 && !(mask[byte >> 6] >> (byte & 63) & 1); k++)
            byte = k;
        bool allowed = mask[byte >> 6] >> (byte & 63) & 1;
        if (!allowed && !(mask[4] & 1)) abort(); /* nowhere to go */
        if (!spey_guide_matcher_advance(m, &at, byte) != allowed) abort();
    }
    spey_guide_matcher_drop(m, at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char text[] = "{\"a\": [1, -2.5e3, true, null], \"b\": \"x\\n\xc3\xa9\"} abc 0";
    static spey_guide_vocab *vocab;
    const int32_t eos = EOS;
    if (n < 1) return 0;
    spey_log_set_level(SPEY_LOG_QUIET);
    if (!vocab) vocab = byte_vocab();
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_guide *guide;
    spey_guide_matcher *m;
    if (!spey_guide_compile((spey_guide_format)(1 + data[0] % 3), (const char *)data + 1, n - 1,
                            &guide)) {
        if (!spey_guide_matcher_new(guide, vocab, &eos, 1, &m)) {
            walk(m, text, sizeof text - 1);
            walk(m, (const char *)data + 1, n - 1);
            spey_guide_matcher_free(m);
        }
        spey_guide_free(guide);
    }
    if (spey_alloc_read_stats().n_live != live) abort();
    return 0;
}
