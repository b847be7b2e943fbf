/* One request inside a context: its tokens, settings and text so far. Everything it will ever need is allocated when it is
 * submitted; feeding it logits allocates nothing. */
#ifndef SPEY_RUNTIME_REQUEST_H
#define SPEY_RUNTIME_REQUEST_H

#include "base/arena.h"
#include "base/strbuf.h"
#include "runtime/kv_cache.h"
#include "runtime/sampler.h"
#include "runtime/stop.h"
#include "spey/spey.h"
#include "text/tokenizer.h"

typedef struct spey_request {
    struct spey_request *next; /* in the queue */
    uint64_t id;
    spey_arena arena;       /* copies of all lists */
    spey_sampling sampling; /* points into the arena */
    int32_t *ids;           /* prompt, then output; room for ids_max */
    int64_t n_prompt, n, ids_max;
    int64_t n_computed; /* tokens whose KV is in the cache */
    spey_seq_id seq;    /* -1 while queued */
    bool cancelled;
    spey_finish finish;
    const char *error;

    spey_detokenizer *detokenizer; /* NULL: no tokenizer */
    spey_stop stop;
    spey_strbuf piece;              /* from the detokenizer, before the stop filter */
    spey_strbuf text;               /* certain, for the next event */
    float *prompt_logprobs;         /* [n_prompt] or NULL */
    spey_token_logprob *prompt_top; /* [n_prompt][sampling.prompt_logprobs] */
    spey_token_logprob *top;        /* [sampling.logprobs] */
    char error_text[256];

    spey_output_fn on_output;
    void *user;
} spey_request;

typedef struct spey_request_options {
    const int32_t *prompt;
    size_t n_prompt;
    const spey_sampling *sampling; /* checked by the caller */
    int64_t sequence_tokens_max;
    const spey_tokenizer *tokenizer; /* NULL: ids only */
    spey_output_fn on_output;
    void *user;
} spey_request_options;

/* SPEY_INVALID: the prompt leaves no room for output. */
spey_status spey_request_new(const spey_request_options *options, spey_request **out);
void spey_request_free(spey_request *request);

/* What the model said at prompt position `at` (0-based): record log-probabilities if asked for. */
void spey_request_take_prompt_logits(spey_request *request, spey_sampler *sampler,
                                     const float *logits, int64_t at, int64_t vocab_size);

typedef struct spey_eos {
    const int32_t *ids;
    int32_t n;
} spey_eos;

/* Choose the next token from `logits` (changed), append it, decide whether the request ends, send the event. */
void spey_request_take_logits(spey_request *request, spey_sampler *sampler, float *logits,
                              int64_t vocab_size, spey_eos eos);

/* End it without a token and send the last event. `error` only with SPEY_FINISH_ERROR; copied. */
void spey_request_end(spey_request *request, spey_finish finish, const char *error);

#endif
