/* A request's output: tokens chosen, text made of them, events sent. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/request_impl.h"

bool spey_request_keeps(const spey_request *r)
{
    return r->sampling.best_of > r->sampling.n || r->sampling.beams > 1;
}

bool spey_request_scores(const spey_request *r)
{
    return r->sampling.logprobs >= 0 || spey_request_keeps(r);
}

bool spey_request_takes_best(const spey_request *r)
{
    return spey_sampling_takes_best(&r->sampling) && !spey_request_scores(r) &&
           r->sampling.prompt_logprobs < 0 && !r->process_logits && !r->context_logits &&
           !r->generation_logits;
}

/* ---- events ---- */

static void send_event(spey_request *r, spey_output *event)
{
    event->request = r->id;
    event->error = event->finish == SPEY_FINISH_ERROR ? r->error : NULL;
    if (r->prompt_logprobs && r->prompt_done) { /* told once */
        event->prompt_logprobs = r->prompt_logprobs;
        event->prompt_top = r->prompt_top;
        event->n_prompt = (int32_t)r->n_prompt;
        event->n_prompt_top = r->sampling.prompt_logprobs;
        r->prompt_logprobs = NULL;
    }
    r->ended = event->last;
    if (r->on_output && r->on_output(r->user, event) && !event->last) r->cancelled = true;
}

/* No sequence lives but `choice`, which has just ended. */
static bool all_ended(const spey_request *r)
{
    for (int32_t i = 0; i < r->width; i++)
        if (!r->choices[i].finish) return false;
    return true;
}

static void tell(spey_request *r, spey_choice *c, int32_t token, float logprob)
{
    spey_output event = { .token = token,
                          .text = c->text.len ? c->text.data : "",
                          .text_bytes = c->text.len,
                          .logprob = logprob,
                          .sequence = (int32_t)(c - r->choices),
                          .cumulative_logprob = c->cumulative_logprob,
                          .score = (double)NAN,
                          .finish = c->finish,
                          .last = all_ended(r) };
    if (token >= 0 && r->sampling.logprobs > 0) {
        event.top = r->top;
        event.n_top = r->sampling.logprobs;
    }
    send_event(r, &event);
    spey_strbuf_reset(&c->text);
}

/* ---- events that are kept until the best are known ---- */

static void keep(spey_request *r, spey_choice *c, int32_t token, float logprob)
{
    spey_strbuf_append(&c->kept_text, c->text.data, c->text.len);
    spey_strbuf_reset(&c->text);
    if (token < 0) return;
    int64_t at = c->n - r->n_prompt - 1, n_top = r->sampling.logprobs;
    c->kept[at] = (spey_kept_event){ logprob, c->kept_text.len };
    if (n_top > 0) memcpy(c->kept_top + at * n_top, r->top, (size_t)n_top * sizeof *r->top);
}

/* A hypothesis' own, or the mean log-probability of a token. */
static double score(const spey_request *r, const spey_choice *c)
{
    if (r->beams) return c->score;
    return c->n > r->n_prompt ? c->cumulative_logprob / (double)(c->n - r->n_prompt) : 0;
}

/* The best choice that is not among those marked; equal ones by their order. */
static spey_choice *find_best(spey_request *r)
{
    spey_choice *best = NULL;
    for (int32_t i = 0; i < r->width; i++)
        if (r->choices[i].kept && (!best || score(r, &r->choices[i]) > score(r, best)))
            best = &r->choices[i];
    return best;
}

static void tell_kept(spey_request *r, const spey_choice *c, int32_t rank)
{
    int64_t n = c->n - r->n_prompt, n_top = r->sampling.logprobs;
    size_t text_at = 0;
    double sum = 0;
    bool last = rank + 1 == r->n_told;
    for (int64_t i = 0; i < n || (i == 0 && n == 0); i++) {
        bool final = i + 1 >= n;
        size_t end = final ? c->kept_text.len : c->kept[i].text_end;
        if (n) sum += (double)c->kept[i].logprob;
        spey_output event = { .token = n ? c->ids[r->n_prompt + i] : -1,
                              .text = c->kept_text.len ? c->kept_text.data + text_at : "",
                              .text_bytes = end - text_at,
                              .logprob = n && n_top >= 0 ? c->kept[i].logprob : NAN,
                              .sequence = rank,
                              .cumulative_logprob = sum,
                              .score = r->beams ? c->score : (double)NAN,
                              .finish = final ? c->finish : SPEY_FINISH_NONE,
                              .last = final && last };
        if (n && n_top > 0) {
            event.top = c->kept_top + i * n_top;
            event.n_top = (int32_t)n_top;
        }
        send_event(r, &event);
        text_at = end;
    }
}

void spey_request_tell_best(spey_request *r)
{
    for (int32_t rank = 0; rank < r->n_told; rank++) {
        spey_choice *best = find_best(r);
        tell_kept(r, best, rank);
        best->kept = NULL;
    }
}

static void emit(spey_request *r, spey_choice *c, int32_t token, float logprob)
{
    if (!spey_request_keeps(r)) {
        tell(r, c, token, logprob);
        return;
    }
    keep(r, c, token, logprob);
    if (all_ended(r)) spey_request_tell_best(r);
}

/* ---- ends ---- */

static bool is_stop_id(const spey_request *r, int32_t id)
{
    for (size_t i = 0; i < r->sampling.n_stop_ids; i++)
        if (r->sampling.stop_ids[i] == id) return true;
    return false;
}

static bool is_eos(const spey_request *r, spey_eos eos, int32_t id)
{
    bool heeded = !r->sampling.ignore_eos || r->matcher;
    for (int32_t i = 0; heeded && i < eos.n; i++)
        if (eos.ids[i] == id) return true;
    return false;
}

/* Turn the newest token into text; true when a stop string appeared. */
static bool add_text(spey_request *r, spey_choice *c, int32_t id)
{
    if (!c->detokenizer) return false;
    spey_strbuf_reset(&r->piece);
    if (spey_detokenizer_push(c->detokenizer, id, &r->piece))
        return false; /* an id without a piece: no text */
    return spey_stop_push(&c->stop, r->piece.data, r->piece.len, &c->text);
}

/* What was held back, now that no more text comes. */
static void flush_text(spey_request *r, spey_choice *c)
{
    if (!c->detokenizer) return;
    spey_strbuf_reset(&r->piece);
    if (!spey_detokenizer_flush(c->detokenizer, &r->piece) &&
        spey_stop_push(&c->stop, r->piece.data, r->piece.len, &c->text))
        return;
    spey_stop_flush(&c->stop, &c->text);
}

spey_finish spey_request_end_of(const spey_request *r, spey_eos eos, int32_t id)
{
    if (is_eos(r, eos, id)) return SPEY_FINISH_EOS;
    return is_stop_id(r, id) ? SPEY_FINISH_STOP : SPEY_FINISH_NONE;
}

void spey_request_keep(spey_request *r, spey_choice *c, float logprob)
{
    bool silent = c->finish == SPEY_FINISH_EOS || c->finish == SPEY_FINISH_STOP;
    if (!silent) add_text(r, c, c->ids[c->n - 1]);
    if (c->finish) flush_text(r, c);
    keep(r, c, c->ids[c->n - 1], logprob);
}

static spey_finish decide(spey_request *r, spey_choice *c, spey_eos eos, int32_t id)
{
    spey_finish end = spey_request_end_of(r, eos, id);
    if (end) return end;
    if (add_text(r, c, id)) return SPEY_FINISH_STOP;
    return c->n == r->ids_max ? SPEY_FINISH_LENGTH : SPEY_FINISH_NONE;
}

static void append(spey_request *r, spey_choice *c, spey_eos eos, int32_t id, float logprob)
{
    c->ids[c->n++] = id;
    c->cumulative_logprob += (double)logprob;
    c->finish = decide(r, c, eos, id);
    if (c->finish == SPEY_FINISH_EOS || c->finish == SPEY_FINISH_LENGTH ||
        (c->finish == SPEY_FINISH_STOP && is_stop_id(r, id)))
        flush_text(r, c);
    emit(r, c, id, logprob);
}

/* ---- choosing ---- */

spey_status spey_request_process(spey_request *r, const spey_choosing *choosing,
                                 const spey_choice *c, float *scores)
{
    int32_t index = (int32_t)(c - r->choices);
    if (r->process_logits && r->process_logits(r->process_user, r->id, index, c->ids, (size_t)c->n,
                                               scores, (size_t)choosing->vocab_size))
        return SPEY_FAIL(SPEY_CANCELLED, "the logits processor failed");
    spey_history history = { c->ids, r->n_prompt, c->n };
    bool over = r->matcher && spey_guide_matcher_must_end(r->matcher, c->guide_state);
    if (!over) /* min_tokens and bans do not keep an output that is complete from ending */
        spey_sampler_penalize(choosing->sampler, &r->sampling, &history, choosing->eos.ids,
                              choosing->eos.n, scores);
    if (r->matcher) return spey_guide_matcher_apply(r->matcher, c->guide_state, scores);
    if (r->sampling.forced_eos_id >= 0 && c->n + 1 == r->ids_max)
        spey_sampler_force(choosing->sampler, r->sampling.forced_eos_id, scores);
    return SPEY_OK;
}

/* The token from logits that the sampler may change. */
static spey_status draw(spey_request *r, const spey_choosing *choosing, const spey_choice *c,
                        float *scores, int32_t *id)
{
    SPEY_TRY(spey_request_process(r, choosing, c, scores));
    spey_sampling sampling = r->sampling;
    sampling.seed += (uint64_t)(c - r->choices);
    return spey_sampler_draw(choosing->sampler, &sampling, scores, (uint64_t)(c->n - r->n_prompt),
                             id);
}

/* The guide goes on with the token. */
static spey_status follow_guide(spey_request *r, const spey_choosing *choosing, spey_choice *c,
                                int32_t id)
{
    if (!r->matcher || is_eos(r, choosing->eos, id)) return SPEY_OK;
    return spey_guide_matcher_advance(r->matcher, &c->guide_state, id);
}

static spey_status choose(spey_request *r, const spey_choosing *choosing, spey_choice *c,
                          spey_row row)
{
    float *logits = row.logits;
    if (!logits) {
        if (row.id < 0)
            return SPEY_FAIL(SPEY_INVALID, "no token can be chosen: the model gave a logit that is "
                                           "not a number, or every token is banned");
        SPEY_TRY(follow_guide(r, choosing, c, row.id));
        for (int32_t i = 0; i < r->sampling.logprobs; i++)
            r->top[i] = (spey_token_logprob){ row.top_ids[i], row.top_logprobs[i] };
        append(r, c, choosing->eos, row.id, row.logprob);
        return SPEY_OK;
    }
    double total = 0;
    if (spey_request_scores(r)) total = spey_log_sum_exp(logits, choosing->vocab_size);
    if (r->sampling.logprobs > 0)
        spey_likeliest(logits, choosing->vocab_size, total, r->sampling.logprobs, r->top);
    /* Log-probabilities are the model's own, and sequences may have the row in common: penalties go into a copy. */
    float *scores = spey_request_scores(r) || r->width > 1
                        ? spey_sampler_copy(choosing->sampler, logits)
                        : logits;
    int32_t id;
    SPEY_TRY(draw(r, choosing, c, scores, &id));
    SPEY_TRY(follow_guide(r, choosing, c, id));
    float logprob = spey_request_scores(r) ? (float)((double)logits[id] - total) : NAN;
    append(r, c, choosing->eos, id, logprob);
    return SPEY_OK;
}

static void tell_logits(const spey_request *r, const spey_choosing *choosing, const spey_row *rows)
{
    for (int32_t i = 0; i < r->width; i++) {
        const spey_choice *c = &r->choices[i];
        spey_logits_row row = { .request = r->id,
                                .sequence = i,
                                .generation = true,
                                .position = (size_t)c->n - 1,
                                .logits = rows[i].logits,
                                .vocab_size = (size_t)choosing->vocab_size };
        if (!c->finish) r->on_logits(r->logits_user, &row);
    }
}

/* The guide's states after what was written so far: at first, and when the guide had to give up its tables meanwhile. */
static spey_status replay(spey_request *r)
{
    spey_status status = SPEY_OK;
    for (int32_t i = 0; i < r->width; i++) {
        spey_choice *c = &r->choices[i];
        c->guide_state = spey_guide_matcher_start(r->matcher);
        for (int64_t k = r->n_prompt; k < c->n && !c->finish && !status; k++)
            status = spey_guide_matcher_advance(r->matcher, &c->guide_state, c->ids[k]);
    }
    return status;
}

spey_status spey_request_begin_guide(spey_request *r)
{
    uint64_t generation;
    if (!r->guide) return SPEY_OK;
    SPEY_TRY(spey_guide_table_begin(r->guides, r->guide, &r->matcher, &generation));
    if (generation == r->guide_generation) return SPEY_OK;
    r->guide_generation = generation;
    return replay(r);
}

void spey_request_end_guide(spey_request *r)
{
    if (r->matcher) spey_guide_table_end(r->guides, r->guide);
    r->matcher = NULL;
}

static spey_status grow(spey_request *r, const spey_choosing *choosing, const spey_row *rows)
{
    if (r->beams) return spey_request_beams_grow(r, choosing, rows);
    for (int32_t i = 0; i < r->width; i++) {
        spey_choice *c = &r->choices[i];
        if (c->finish) continue;
        c->parent = c->n == r->n_prompt ? 0 : i;
        SPEY_TRY(choose(r, choosing, c, rows[i]));
    }
    return SPEY_OK;
}

void spey_request_grow(spey_request *r, const spey_choosing *choosing, const spey_row *rows)
{
    if (r->choices[0].n == r->ids_max && r->n_prompt == r->ids_max) {
        spey_request_end(r, SPEY_FINISH_LENGTH, NULL); /* only the prompt's numbers were wanted */
        return;
    }
    if (r->generation_logits) tell_logits(r, choosing, rows);
    spey_status status = spey_request_begin_guide(r);
    if (!status) status = grow(r, choosing, rows);
    spey_request_end_guide(r);
    if (status) spey_request_end(r, SPEY_FINISH_ERROR, spey_last_error());
}

void spey_request_end(spey_request *r, spey_finish finish, const char *error)
{
    if (error) snprintf(r->error, sizeof r->error, "%s", error);
    for (int32_t i = 0; i < r->width; i++) {
        spey_choice *c = &r->choices[i];
        if (c->finish) continue;
        c->finish = finish;
        if (r->beams) c->n = r->n_prompt; /* no hypothesis is told */
        flush_text(r, c);
        emit(r, c, -1, NAN);
    }
}
