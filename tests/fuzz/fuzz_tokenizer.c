/* The first byte chooses: tokenizer.json, SentencePiece model, or compiled tokenizer; the rest is that file. What
 * opens then encodes and decodes a fixed text, and the file itself. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void use(const spey_tokenizer *tokenizer, const char *text, size_t n)
{
    spey_ids ids = { 0 };
    spey_strbuf out = { 0 }, steps = { 0 };
    spey_detokenizer *detokenizer = NULL;
    if (!spey_tokenizer_encode(tokenizer, text, n, true, &ids)) {
        if (ids.len > 2000) ids.len = 2000;
        spey_status status = spey_tokenizer_decode(tokenizer, ids.data, ids.len, false, &out);
        if (spey_detokenizer_new(tokenizer, false, &detokenizer)) abort();
        spey_status pushed = SPEY_OK;
        for (size_t i = 0; i < ids.len && !pushed; i++)
            pushed = spey_detokenizer_push(detokenizer, ids.data[i], &steps);
        if (!pushed) pushed = spey_detokenizer_flush(detokenizer, &steps);
        if (!status && !pushed &&
            (out.len != steps.len || (out.len && memcmp(out.data, steps.data, out.len))))
            abort();
    }
    spey_detokenizer_free(detokenizer);
    spey_ids_deinit(&ids);
    spey_strbuf_deinit(&out);
    spey_strbuf_deinit(&steps);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char text[] =
        "The cat's \xe2\x96\x81 na\xc3\xafve <s> [UNK]\r\n 1234 e\xcc\x81\xcc\xa3 \xff <0x41> "
        "\xf0\x9f\x98\x80 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  x ";
    if (n < 1) return 0;
    spey_log_set_level(SPEY_LOG_QUIET);
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_tokenizer *tokenizer = NULL;
    spey_status status;
    char *copy = spey_alloc(SPEY_PURPOSE_TEXT, n); /* aligned as a section of an engine file is */
    if (!copy) return 0;
    memcpy(copy, data + 1, n - 1);
    switch (data[0] % 3) {
    case 0: status = spey_tokenizer_from_json("fuzz", copy, n - 1, &tokenizer); break;
    case 1: status = spey_tokenizer_from_sentencepiece("fuzz", copy, n - 1, &tokenizer); break;
    default: status = spey_tokenizer_read("fuzz", copy, n - 1, &tokenizer); break;
    }
    if (!status) {
        use(tokenizer, text, sizeof text - 1);
        use(tokenizer, copy, n < 4096 ? n - 1 : 4096);
    }
    spey_tokenizer_free(tokenizer);
    spey_free(copy);
    if (spey_alloc_read_stats().n_live != live) abort();
    return 0;
}
