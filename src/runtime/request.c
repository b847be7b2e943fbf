#include "runtime/request_impl.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"

/* Text that one token can add: the longest piece of any vocabulary we know is far below. */
enum { TEXT_RESERVE_BYTES = 16384, KEPT_BYTES_PER_TOKEN = 8 };

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
    to->stop = NULL;       /* spey_stop has its own copies */
    to->guide_text = NULL; /* the table of guides has it */
    spey_id_list *words = copy_array(&r->arena, from->bad_words, from->n_bad_words, sizeof *words);
    to->stop_ids = copy_array(&r->arena, from->stop_ids, from->n_stop_ids, sizeof *to->stop_ids);
    to->suppress_ids =
        copy_array(&r->arena, from->suppress_ids, from->n_suppress_ids, sizeof *to->suppress_ids);
    to->begin_suppress_ids = copy_array(&r->arena, from->begin_suppress_ids,
                                        from->n_begin_suppress_ids, sizeof *to->begin_suppress_ids);
    to->logit_bias =
        copy_array(&r->arena, from->logit_bias, from->n_logit_bias, sizeof *to->logit_bias);
    if (!words || !to->stop_ids || !to->logit_bias || !to->suppress_ids || !to->begin_suppress_ids)
        return SPEY_NOMEM;
    for (size_t i = 0; i < from->n_bad_words; i++) {
        words[i].ids = copy_array(&r->arena, words[i].ids, words[i].n, sizeof *words[i].ids);
        if (!words[i].ids) return SPEY_NOMEM;
    }
    to->bad_words = words;
    return SPEY_OK;
}

/* A table that the prompt does not name changes nothing: its blocks are everybody's. */
static spey_status copy_table(spey_request *r, const spey_request_setup *setup)
{
    const spey_request_options *o = setup->options;
    bool named = false;
    for (size_t i = 0; i < o->n_prompt; i++)
        named = named || o->prompt[i] >= setup->vocab_size;
    if (!o->prompt_table || !named) return SPEY_OK;
    SPEY_TRY(spey_prompt_table_copy(o->prompt_table, &r->arena, &r->table));
    r->cache_salt = spey_prompt_table_salt(&r->table, r->cache_salt);
    return SPEY_OK;
}

static spey_status copy_retention(spey_request *r, const spey_request_options *o)
{
    r->n_retention = (int)o->n_retention;
    r->retention = spey_arena_array(&r->arena, o->n_retention, sizeof *r->retention);
    if (!r->retention) return SPEY_NOMEM;
    for (size_t i = 0; i < o->n_retention; i++) {
        const spey_retention_range *range = &o->retention[i];
        r->retention[i] =
            (spey_kv_retention){ .begin = range->begin,
                                 .end = range->end ? range->end : INT64_MAX,
                                 .priority = range->priority,
                                 .duration_ns = (uint64_t)range->duration_ms * 1000000 };
    }
    return SPEY_OK;
}

static spey_status find_lengths(spey_request *r, const spey_request_setup *setup)
{
    int64_t n_prompt = (int64_t)setup->options->n_prompt, limit = setup->sequence_tokens_max;
    int64_t wanted = r->sampling.max_tokens < 0 ? limit : r->sampling.max_tokens;
    if (n_prompt < 1)
        return SPEY_FAIL(SPEY_INVALID, "the prompt is empty, expected at least one token");
    if (n_prompt > limit || (n_prompt == limit && wanted > 0))
        return SPEY_FAIL(
            SPEY_LIMIT,
            "the prompt has %lld tokens, and a sequence may have %lld with its output: "
            "shorten it or raise the sequence limit",
            (long long)n_prompt, (long long)limit);
    r->n_prompt = n_prompt;
    r->ids_max = wanted < limit - n_prompt ? n_prompt + wanted : limit;
    return SPEY_OK;
}

static spey_status allocate_prompt_logprobs(spey_request *r)
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

/* Rows of a prompt table are no text. */
static spey_status prime(spey_choice *choice, int64_t n, int64_t vocab_size)
{
    for (int64_t at = 0, end; at < n; at = end + 1) {
        for (end = at; end < n && choice->ids[end] < vocab_size;)
            end++;
        SPEY_TRY(spey_detokenizer_prime(choice->detokenizer, choice->ids + at, (size_t)(end - at)));
    }
    return SPEY_OK;
}

static spey_status prepare_text(spey_request *r, spey_choice *choice,
                                const spey_request_setup *setup)
{
    const spey_sampling *sampling = setup->sampling;
    if (!setup->tokenizer)
        return sampling->n_stop
                   ? SPEY_FAIL(SPEY_UNSUPPORTED, "stop strings need a model with a tokenizer")
                   : SPEY_OK;
    SPEY_TRY(spey_stop_init(&choice->stop, sampling->stop, sampling->n_stop));
    SPEY_TRY(spey_strbuf_reserve(&r->piece, TEXT_RESERVE_BYTES));
    SPEY_TRY(spey_strbuf_reserve(&choice->text, TEXT_RESERVE_BYTES));
    SPEY_TRY(spey_detokenizer_new(setup->tokenizer, true, &choice->detokenizer));
    return prime(choice, r->n_prompt, setup->vocab_size);
}

static spey_status allocate_kept(spey_request *r, spey_choice *choice)
{
    size_t n = (size_t)(r->ids_max - r->n_prompt), n_top = (size_t)r->sampling.logprobs;
    choice->kept = spey_arena_array(&r->arena, n, sizeof *choice->kept);
    if (!choice->kept) return SPEY_NOMEM;
    if (r->sampling.logprobs > 0) {
        choice->kept_top = spey_arena_array(&r->arena, n * n_top, sizeof *choice->kept_top);
        if (!choice->kept_top) return SPEY_NOMEM;
    }
    return spey_strbuf_reserve(&choice->kept_text, n * KEPT_BYTES_PER_TOKEN);
}

static spey_status prepare_choice(spey_request *r, spey_choice *choice,
                                  const spey_request_setup *setup)
{
    choice->ids = spey_arena_array(&r->arena, (size_t)r->ids_max, sizeof *choice->ids);
    if (!choice->ids) return SPEY_NOMEM;
    memcpy(choice->ids, setup->options->prompt, (size_t)r->n_prompt * sizeof *choice->ids);
    choice->n = r->n_prompt;
    choice->parent = (int32_t)(choice - r->choices);
    choice->cumulative_logprob = spey_request_scores(r) ? 0 : (double)NAN;
    if (spey_request_keeps(r)) SPEY_TRY(allocate_kept(r, choice));
    return prepare_text(r, choice, setup);
}

static spey_status prepare_guide(spey_request *r, const spey_request_setup *setup)
{
    const spey_sampling *p = setup->sampling;
    if (p->guide == SPEY_GUIDE_NONE) return SPEY_OK;
    r->guides = setup->guides;
    return spey_guide_table_get(setup->guides, setup->guide_vocab, p->guide, p->guide_text,
                                &r->guide);
}

static spey_status prepare(spey_request *r, const spey_request_setup *setup)
{
    SPEY_TRY(copy_lists(r, setup->sampling));
    r->source =
        copy_array(&r->arena, setup->source.ids, setup->source.n, sizeof *setup->source.ids);
    r->n_source = (int32_t)setup->source.n;
    if (!r->source) return SPEY_NOMEM;
    SPEY_TRY(find_lengths(r, setup));
    SPEY_TRY(copy_table(r, setup));
    SPEY_TRY(copy_retention(r, setup->options));
    SPEY_TRY(allocate_prompt_logprobs(r));
    SPEY_TRY(prepare_guide(r, setup));
    const spey_sampling *p = &r->sampling;
    r->width = p->beams > 1 ? p->beams : p->best_of > p->n ? p->best_of : p->n;
    r->n_told = p->n;
    r->choices = spey_arena_array(&r->arena, (size_t)r->width, sizeof *r->choices);
    if (!r->choices) return SPEY_NOMEM;
    for (int32_t i = 0; i < r->width; i++)
        SPEY_TRY(prepare_choice(r, &r->choices[i], setup));
    return p->beams > 1 ? spey_request_beams_new(r, setup) : SPEY_OK;
}

spey_status spey_request_new(const spey_request_setup *setup, spey_request **out)
{
    *out = NULL;
    const spey_request_options *o = setup->options;
    spey_request *r = spey_new(SPEY_PURPOSE_RUNTIME, spey_request);
    if (!r) return SPEY_NOMEM;
    spey_arena_init(&r->arena, SPEY_PURPOSE_RUNTIME);
    r->priority = o->priority;
    r->submitted_ns = setup->now_ns;
    r->tenant = o->tenant;
    r->cache_salt = o->cache_salt;
    if (o->deadline_ms) r->deadline_ns = setup->now_ns + (uint64_t)o->deadline_ms * 1000000;
    r->process_logits = o->process_logits;
    r->process_user = o->process_user;
    r->context_logits = o->on_logits && o->context_logits;
    r->generation_logits = o->on_logits && o->generation_logits;
    r->on_logits = o->on_logits;
    r->logits_user = o->logits_user;
    r->on_output = o->on_output;
    r->user = o->user;
    spey_status status = prepare(r, setup);
    if (status) {
        spey_request_free(r);
        return status;
    }
    r->device_chooses = spey_request_may_have_rules(r);
    *out = r;
    return SPEY_OK;
}

void spey_request_free(spey_request *r)
{
    if (!r) return;
    for (int32_t i = 0; r->choices && i < r->width; i++) {
        if (r->guide_generation)
            spey_guide_table_drop(r->guides, r->guide, r->guide_generation,
                                  r->choices[i].guide_state);
        spey_detokenizer_free(r->choices[i].detokenizer);
        spey_stop_deinit(&r->choices[i].stop);
        spey_strbuf_deinit(&r->choices[i].text);
        spey_strbuf_deinit(&r->choices[i].kept_text);
    }
    spey_strbuf_deinit(&r->piece);
    spey_request_beams_free(r);
    if (r->guide) spey_guide_table_put(r->guides, r->guide);
    spey_arena_deinit(&r->arena);
    spey_free(r);
}

void spey_request_take_prompt_logits(spey_request *r, const float *logits, int64_t at,
                                     int64_t vocab_size)
{
    if (r->context_logits) {
        spey_logits_row row = { .request = r->id,
                                .position = (size_t)at,
                                .logits = logits,
                                .vocab_size = (size_t)vocab_size };
        r->on_logits(r->logits_user, &row);
    }
    if (r->sampling.prompt_logprobs < 0) return;
    double total = spey_log_sum_exp(logits, vocab_size);
    const int32_t *ids = r->choices[0].ids;
    if (at + 1 < r->n_prompt)
        r->prompt_logprobs[at + 1] =
            ids[at + 1] < vocab_size ? (float)((double)logits[ids[at + 1]] - total) : NAN;
    int32_t n_top = r->sampling.prompt_logprobs;
    spey_likeliest(logits, vocab_size, total, n_top, r->prompt_top + at * n_top);
    r->prompt_done = r->prompt_done || at + 1 == r->n_prompt;
}
