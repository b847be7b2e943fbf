#include "base/alloc.h"
#include "text/tokenizer_run.h"

enum { DETOKENIZER_RESERVE = 4096 };

struct spey_detokenizer {
    spey_tok_decoder decoder;
    spey_strbuf ignored; /* text of the prompt */
};

spey_status spey_detokenizer_new(const spey_tokenizer *tokenizer, bool skip_special,
                                 spey_detokenizer **out)
{
    *out = NULL;
    spey_detokenizer *detokenizer = spey_new(SPEY_PURPOSE_TEXT, spey_detokenizer);
    if (!detokenizer) return SPEY_NOMEM;
    spey_status status =
        spey_tok_decoder_init(&detokenizer->decoder, tokenizer, skip_special, DETOKENIZER_RESERVE);
    if (!status) status = spey_strbuf_reserve(&detokenizer->ignored, DETOKENIZER_RESERVE);
    if (status)
        spey_detokenizer_free(detokenizer);
    else
        *out = detokenizer;
    return status;
}

void spey_detokenizer_free(spey_detokenizer *detokenizer)
{
    if (!detokenizer) return;
    if (detokenizer->decoder.states) spey_tok_decoder_deinit(&detokenizer->decoder);
    spey_strbuf_deinit(&detokenizer->ignored);
    spey_free(detokenizer);
}

void spey_detokenizer_reset(spey_detokenizer *detokenizer)
{
    spey_tok_decoder_reset(&detokenizer->decoder);
}

spey_status spey_detokenizer_prime(spey_detokenizer *detokenizer, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        spey_strbuf_reset(&detokenizer->ignored);
        SPEY_TRY(spey_tok_decoder_push(&detokenizer->decoder, ids[i], &detokenizer->ignored));
    }
    return SPEY_OK;
}

spey_status spey_detokenizer_push(spey_detokenizer *detokenizer, int32_t id, spey_strbuf *out)
{
    return spey_tok_decoder_push(&detokenizer->decoder, id, out);
}

spey_status spey_detokenizer_flush(spey_detokenizer *detokenizer, spey_strbuf *out)
{
    return spey_tok_decoder_flush(&detokenizer->decoder, out);
}
