#include "runtime/request.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"

/* Text that one token can add: the longest piece of any vocabulary we know is far below. */
enum { TEXT_RESERVE_BYTES = 16384 };

static void *copy_array(spey_arena *arena, const void *items, size_t n, size_t item_bytes)
{
    void *copy = spey_arena_array(arena, n, item_bytes);
    if (copy && n) memcpy(copy, items, n * item_bytes);
    return copy;
}

static spey_status copy_lists(spey_request *r, const spey_sampling *from)
{
    spey_sampling *to = &r->sampling;
    *to = *from;
    to->stop = NULL; /* spey_stop has its own copies */
    spey_id_list *words = copy_array(&r->arena, from->bad_words, from->n_bad_words, sizeof *words);
    to->stop_ids = copy_array(&r->arena, from->stop_ids, from->n_stop_ids, sizeof *to->stop_ids);
    to->logit_bias =
        copy_array(&r->arena, from->logit_bias, from->n_logit_bias, sizeof *to->logit_bias);
    if (!words || !to->stop_ids || !to->logit_bias) return SPEY_NOMEM;
    for (size_t i = 0; i < from->n_bad_words; i++) {
        words[i].ids = copy_array(&r->arena, words[i].ids, words[i].n, sizeof *words[i].ids);
        if (!words[i].ids) return SPEY_NOMEM;
    }
    to->bad_words = words;
    return SPEY_OK;
}

static spey_status allocate_tokens(spey_request *r, const spey_request_options *o)
{
    int64_t n_prompt = (int64_t)o->n_prompt, limit = o->sequence_tokens_max;
    int64_t wanted = o->sampling->max_tokens < 0 ? limit : o->sampling->max_tokens;
    if (n_prompt < 1)
        return SPEY_FAIL(SPEY_INVALID, "the prompt is empty, expected at least one token");
    if (n_prompt > limit || (n_prompt == limit && wanted > 0))
        return SPEY_FAIL(
            SPEY_LIMIT,
            "the prompt has %lld tokens, and a sequence may have %lld with its output: "
            "shorten it or raise the sequence limit",
            (long long)n_prompt, (long long)limit);
    r->n = r->n_prompt = n_prompt;
    r->ids_max = wanted < limit - n_prompt ? n_prompt + wanted : limit;
    r->ids = spey_new_array(SPEY_PURPOSE_RUNTIME, int32_t, r->ids_max);
    if (!r->ids) return SPEY_NOMEM;
    memcpy(r->ids, o->prompt, o->n_prompt * sizeof *r->ids);
    return SPEY_OK;
}

static spey_status allocate_logprobs(spey_request *r)
{
    const spey_sampling *p = &r->sampling;
    if (p->logprobs > 0) {
        r->top = spey_arena_array(&r->arena, (size_t)p->logprobs, sizeof *r->top);
        if (!r->top) return SPEY_NOMEM;
    }
    if (p->prompt_logprobs < 0) return SPEY_OK;
    size_t n = (size_t)r->n_prompt;
    r->prompt_logprobs = spey_arena_array(&r->arena, n, sizeof *r->prompt_logprobs);
    r->prompt_top =
        spey_arena_array(&r->arena, n * (size_t)p->prompt_logprobs, sizeof *r->prompt_top);
    if (!r->prompt_logprobs || !r->prompt_top) return SPEY_NOMEM;
    r->prompt_logprobs[0] = NAN;
    return SPEY_OK;
}

static spey_status prepare_text(spey_request *r, const spey_request_options *o)
{
    if (!o->tokenizer)
        return o->sampling->n_stop
                   ? SPEY_FAIL(SPEY_UNSUPPORTED, "stop strings need a model with a tokenizer")
                   : SPEY_OK;
    SPEY_TRY(spey_stop_init(&r->stop, o->sampling->stop, o->sampling->n_stop));
    SPEY_TRY(spey_strbuf_reserve(&r->piece, TEXT_RESERVE_BYTES));
    SPEY_TRY(spey_strbuf_reserve(&r->text, TEXT_RESERVE_BYTES));
    SPEY_TRY(spey_detokenizer_new(o->tokenizer, true, &r->detokenizer));
    return spey_detokenizer_prime(r->detokenizer, r->ids, (size_t)r->n_prompt);
}

spey_status spey_request_new(const spey_request_options *options, spey_request **out)
{
    *out = NULL;
    spey_request *r = spey_new(SPEY_PURPOSE_RUNTIME, spey_request);
    if (!r) return SPEY_NOMEM;
    spey_arena_init(&r->arena, SPEY_PURPOSE_RUNTIME);
    r->seq = -1;
    r->on_output = options->on_output;
    r->user = options->user;
    spey_status status = copy_lists(r, options->sampling);
    if (!status) status = allocate_tokens(r, options);
    if (!status) status = allocate_logprobs(r);
    if (!status) status = prepare_text(r, options);
    if (status) {
        spey_request_free(r);
        return status;
    }
    *out = r;
    return SPEY_OK;
}

void spey_request_free(spey_request *r)
{
    if (!r) return;
    spey_detokenizer_free(r->detokenizer);
    spey_stop_deinit(&r->stop);
    spey_strbuf_deinit(&r->piece);
    spey_strbuf_deinit(&r->text);
    spey_free(r->ids);
    spey_arena_deinit(&r->arena);
    spey_free(r);
}

void spey_request_take_prompt_logits(spey_request *r, spey_sampler *sampler, const float *logits,
                                     int64_t at, int64_t vocab_size)
{
    if (r->sampling.prompt_logprobs < 0) return;
    double total = spey_log_sum_exp(logits, vocab_size);
    if (at + 1 < r->n_prompt)
        r->prompt_logprobs[at + 1] = (float)((double)logits[r->ids[at + 1]] - total);
    int32_t n_top = r->sampling.prompt_logprobs;
    spey_sampler_top(sampler, logits, total, n_top, r->prompt_top + at * n_top);
}

/* ---- events ---- */

static void send_event(spey_request *r, int32_t token, float logprob)
{
    spey_output event = { .request = r->id,
                          .token = token,
                          .text = r->text.len ? r->text.data : "",
                          .text_bytes = r->text.len,
                          .logprob = logprob,
                          .finish = r->finish,
                          .error = r->error };
    if (token >= 0 && r->sampling.logprobs > 0) {
        event.top = r->top;
        event.n_top = r->sampling.logprobs;
    }
    if (r->prompt_logprobs && r->n_computed >= r->n_prompt) {
        event.prompt_logprobs = r->prompt_logprobs;
        event.prompt_top = r->prompt_top;
        event.n_prompt = (int32_t)r->n_prompt;
        event.n_prompt_top = r->sampling.prompt_logprobs;
        r->prompt_logprobs = NULL; /* told once */
    }
    if (r->on_output && r->on_output(r->user, &event) && !r->finish) r->cancelled = true;
    spey_strbuf_reset(&r->text);
}

static bool is_stop_id(const spey_request *r, int32_t id)
{
    for (size_t i = 0; i < r->sampling.n_stop_ids; i++)
        if (r->sampling.stop_ids[i] == id) return true;
    return false;
}

static bool is_eos(const spey_request *r, spey_eos eos, int32_t id)
{
    for (int32_t i = 0; !r->sampling.ignore_eos && i < eos.n; i++)
        if (eos.ids[i] == id) return true;
    return false;
}

/* Turn the newest token into text; true when a stop string appeared. */
static bool add_text(spey_request *r, int32_t id)
{
    if (!r->detokenizer) return false;
    spey_strbuf_reset(&r->piece);
    if (spey_detokenizer_push(r->detokenizer, id, &r->piece))
        return false; /* an id without a piece: no text */
    return spey_stop_push(&r->stop, r->piece.data, r->piece.len, &r->text);
}

/* What was held back, now that no more text comes. */
static void flush_text(spey_request *r)
{
    if (!r->detokenizer) return;
    spey_strbuf_reset(&r->piece);
    if (!spey_detokenizer_flush(r->detokenizer, &r->piece) &&
        spey_stop_push(&r->stop, r->piece.data, r->piece.len, &r->text))
        return;
    spey_stop_flush(&r->stop, &r->text);
}

static spey_finish decide(spey_request *r, spey_eos eos, int32_t id)
{
    if (is_eos(r, eos, id)) return SPEY_FINISH_EOS;
    if (is_stop_id(r, id)) return SPEY_FINISH_STOP;
    if (add_text(r, id)) return SPEY_FINISH_STOP;
    return r->n == r->ids_max ? SPEY_FINISH_LENGTH : SPEY_FINISH_NONE;
}

void spey_request_take_logits(spey_request *r, spey_sampler *sampler, float *logits,
                              int64_t vocab_size, spey_eos eos)
{
    if (r->n == r->ids_max) { /* max_tokens 0: only the prompt's log-probabilities were wanted */
        spey_request_end(r, SPEY_FINISH_LENGTH, NULL);
        return;
    }
    float logprob = NAN;
    double total = 0;
    bool wants_logprobs = r->sampling.logprobs >= 0;
    if (wants_logprobs) {
        total = spey_log_sum_exp(logits, vocab_size);
        spey_sampler_top(sampler, logits, total, r->sampling.logprobs, r->top);
    }
    /* Log-probabilities are the model's own, so the penalties go into a copy when they are wanted. */
    float *scores = wants_logprobs ? spey_sampler_copy(sampler, logits) : logits;
    spey_history history = { r->ids, r->n_prompt, r->n };
    spey_sampler_penalize(sampler, &r->sampling, &history, eos.ids, eos.n, scores);
    int32_t id;
    spey_status status =
        spey_sampler_draw(sampler, &r->sampling, scores, (uint64_t)(r->n - r->n_prompt), &id);
    if (status) {
        spey_request_end(r, SPEY_FINISH_ERROR, spey_last_error());
        return;
    }
    if (wants_logprobs) logprob = (float)((double)logits[id] - total);
    r->ids[r->n++] = id;
    r->finish = decide(r, eos, id);
    if (r->finish == SPEY_FINISH_EOS || r->finish == SPEY_FINISH_LENGTH ||
        (r->finish == SPEY_FINISH_STOP && is_stop_id(r, id)))
        flush_text(r);
    send_event(r, id, logprob);
}

void spey_request_end(spey_request *r, spey_finish finish, const char *error)
{
    r->finish = finish;
    if (error) {
        snprintf(r->error_text, sizeof r->error_text, "%s", error);
        r->error = r->error_text;
    }
    flush_text(r);
    send_event(r, -1, NAN);
}
