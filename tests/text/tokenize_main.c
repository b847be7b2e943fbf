/* A tokenizer behind a pipe, for tools/reference/compare_tokenizers.py and bench/tokenizers.py.
 *
 *     tokenize_main PATH < requests > replies
 *
 * Request: one byte (e encode, E encode with special tokens, d decode, D decode without special tokens,
 * i decode incrementally), uint32 length, payload (text, or int32 ids). Reply: uint32 status, uint32 length,
 * payload (ids, text, or the error), uint64 nanoseconds. Opening is answered like a request. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "spey/status.h"
#include "text/tokenizer.h"

static int reply(spey_status status, const void *payload, size_t n, uint64_t ns)
{
    uint32_t head[2] = { (uint32_t)status, (uint32_t)n };
    fwrite(head, sizeof head, 1, stdout);
    if (n) fwrite(payload, 1, n, stdout);
    fwrite(&ns, sizeof ns, 1, stdout);
    return fflush(stdout);
}

static spey_status decode_by_steps(const spey_tokenizer *tokenizer, const int32_t *ids, size_t n,
                                   spey_strbuf *out)
{
    spey_detokenizer *detokenizer;
    SPEY_TRY(spey_detokenizer_new(tokenizer, false, &detokenizer));
    spey_status status = SPEY_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = spey_detokenizer_push(detokenizer, ids[i], out);
    if (!status) status = spey_detokenizer_flush(detokenizer, out);
    spey_detokenizer_free(detokenizer);
    return status;
}

static int answer(const spey_tokenizer *tokenizer, char what, const spey_strbuf *in)
{
    spey_ids ids = { 0 };
    spey_strbuf text = { 0 };
    const int32_t *given = (const int32_t *)(const void *)in->data;
    uint64_t start = spey_clock_ns();
    spey_status status;
    if (what == 'e' || what == 'E')
        status = spey_tokenizer_encode(tokenizer, in->data, in->len, what == 'E', &ids);
    else if (what == 'i')
        status = decode_by_steps(tokenizer, given, in->len / sizeof *given, &text);
    else
        status =
            spey_tokenizer_decode(tokenizer, given, in->len / sizeof *given, what == 'D', &text);
    uint64_t ns = spey_clock_ns() - start;
    int failed = 0;
    if (status)
        failed = reply(status, spey_last_error(), strlen(spey_last_error()), ns);
    else if (what == 'e' || what == 'E')
        failed = reply(status, ids.data, ids.len * sizeof *ids.data, ns);
    else
        failed = reply(status, text.data, text.len, ns);
    spey_ids_deinit(&ids);
    spey_strbuf_deinit(&text);
    return failed;
}

int main(int argc, char **argv)
{
    spey_tokenizer *tokenizer = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_main PATH < requests > replies\n");
        return 2;
    }
    spey_log_set_level(SPEY_LOG_QUIET);
    uint64_t start = spey_clock_ns();
    spey_status status = spey_tokenizer_open(argv[1], &tokenizer);
    const char *error = status ? spey_last_error() : "";
    reply(status, error, strlen(error), spey_clock_ns() - start);
    spey_strbuf in = { 0 };
    char what;
    uint32_t n;
    while (!status && fread(&what, 1, 1, stdin) == 1 && fread(&n, sizeof n, 1, stdin) == 1) {
        spey_strbuf_reset(&in);
        if (spey_strbuf_reserve(&in, n) || fread(in.data, 1, n, stdin) != n) break;
        in.len = n;
        in.data[n] = 0;
        if (answer(tokenizer, what, &in)) break;
    }
    spey_strbuf_deinit(&in);
    spey_tokenizer_free(tokenizer);
    return status ? 1 : 0;
}
