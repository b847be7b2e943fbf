/* A request that searches with beams. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "runtime/request_impl.h"

typedef struct spey_request_beams {
    spey_beam *search;
    int64_t vocab_size, tokens_max;
    float *rows;  /* [width][vocab_size] log-probabilities */
    int32_t *ids; /* [width][tokens_max] outputs while they are handed on */
    float *sums;  /* [tokens_max] */
} spey_request_beams;

spey_status spey_request_beams_new(spey_request *r, const spey_request_setup *setup)
{
    spey_beam_options options = spey_sampling_beams(&r->sampling);
    int64_t tokens_max = r->ids_max - r->n_prompt;
    if (tokens_max == 0) return SPEY_OK; /* only the prompt's numbers are wanted */
    options.n_ends = (int32_t)r->sampling.n_stop_ids;
    if (!r->sampling.ignore_eos || r->matcher) options.n_ends += setup->eos.n;
    options.steps_max = (int32_t)tokens_max;
    options.vocab_size = setup->vocab_size;
    spey_request_beams *b = spey_arena_alloc(&r->arena, sizeof *b);
    if (!b) return SPEY_NOMEM;
    size_t width = (size_t)r->width;
    r->beams = b;
    b->vocab_size = setup->vocab_size;
    b->tokens_max = tokens_max;
    b->rows = spey_arena_array(&r->arena, width * (size_t)b->vocab_size, sizeof *b->rows);
    b->ids = spey_arena_array(&r->arena, width * (size_t)tokens_max, sizeof *b->ids);
    b->sums = spey_arena_array(&r->arena, (size_t)tokens_max, sizeof *b->sums);
    if (!b->rows || !b->ids || !b->sums) return SPEY_NOMEM;
    return spey_beam_new(&options, &b->search);
}

void spey_request_beams_free(spey_request *r)
{
    if (r->beams) spey_beam_free(r->beams->search);
}

/* ---- scores ---- */

typedef struct ending {
    const spey_request *r;
    spey_eos eos;
} ending;

static bool ends(void *user, int32_t parent, int32_t token)
{
    (void)parent;
    const ending *e = user;
    return spey_request_end_of(e->r, e->eos, token) != SPEY_FINISH_NONE;
}

/* Log-probabilities first, then penalties: in Hugging Face's order. */
static spey_status score_beam(spey_request *r, const spey_choosing *choosing, const spey_choice *c,
                              const float *logits, float *row)
{
    float total = (float)spey_log_sum_exp(logits, choosing->vocab_size);
    if (!isfinite(total)) return SPEY_FAIL(SPEY_INVALID, "the logits are not numbers");
    for (int64_t i = 0; i < choosing->vocab_size; i++)
        row[i] = logits[i] - total;
    return spey_request_process(r, choosing, c, row);
}

/* ---- from beams to sequences ---- */

/* Sequence i gets the output of beam i's parent and its token. */
static spey_status hand_on(spey_request *r, const spey_beam_running *running, int32_t n)
{
    spey_request_beams *b = r->beams;
    int64_t n_output = r->choices[0].n - r->n_prompt;
    spey_guide_state states[SPEY_BEAMS_MAX];
    for (int32_t i = 0; i < r->width; i++) {
        const spey_choice *parent = &r->choices[running[i < n ? i : 0].parent];
        memcpy(b->ids + i * b->tokens_max, parent->ids + r->n_prompt,
               (size_t)n_output * sizeof *b->ids);
        if (r->matcher) states[i] = spey_guide_matcher_fork(r->matcher, parent->guide_state);
    }
    spey_status status = SPEY_OK;
    for (int32_t i = 0; i < r->width; i++) {
        spey_choice *c = &r->choices[i];
        const spey_beam_running *beam = &running[i < n ? i : 0];
        memcpy(c->ids + r->n_prompt, b->ids + i * b->tokens_max, (size_t)n_output * sizeof *b->ids);
        c->ids[c->n++] = beam->token;
        c->parent = n_output ? beam->parent : 0;
        if (!r->matcher) continue;
        spey_guide_matcher_drop(r->matcher, c->guide_state);
        c->guide_state = states[i];
        if (!status) status = spey_guide_matcher_advance(r->matcher, &c->guide_state, beam->token);
    }
    return status;
}

/* Sequence `rank` becomes a hypothesis: its ids, and the events that tell them. */
static void become(spey_request *r, spey_choice *c, const spey_beam_hypothesis *h, spey_eos eos)
{
    spey_request_beams *b = r->beams;
    spey_beam_ids(b->search, h, b->ids, b->sums);
    c->score = (double)h->score;
    c->n = r->n_prompt;
    for (int32_t i = 0; i < h->n_ids; i++) {
        c->ids[c->n++] = b->ids[i];
        if (i + 1 == h->n_ids) {
            c->finish = spey_request_end_of(r, eos, b->ids[i]);
            if (c->finish == SPEY_FINISH_NONE) c->finish = SPEY_FINISH_LENGTH;
        }
        spey_request_keep(r, c, b->sums[i] - (i ? b->sums[i - 1] : 0));
    }
}

static spey_status finish(spey_request *r, spey_eos eos)
{
    spey_beam_hypothesis best[SPEY_BEAMS_MAX];
    int32_t n = spey_beam_best(r->beams->search, r->sampling.n, best);
    if (n == 0) return SPEY_FAIL(SPEY_INVALID, "no beam can go on: every token is banned");
    for (int32_t i = 0; i < r->width; i++) {
        spey_choice *c = &r->choices[i];
        if (i < n) {
            become(r, c, &best[i], eos);
        } else {
            c->finish = SPEY_FINISH_LENGTH;
            c->kept = NULL; /* not told */
        }
    }
    r->n_told = n;
    spey_request_tell_best(r);
    return SPEY_OK;
}

spey_status spey_request_beams_grow(spey_request *r, const spey_choosing *choosing,
                                    const spey_row *rows)
{
    spey_request_beams *b = r->beams;
    const float *scores[SPEY_BEAMS_MAX];
    int32_t n;
    spey_beam_get_running(b->search, &n);
    for (int32_t i = 0; i < n; i++) {
        float *row = b->rows + i * b->vocab_size;
        SPEY_TRY(score_beam(r, choosing, &r->choices[i], rows[i].logits, row));
        scores[i] = row;
    }
    ending e = { r, choosing->eos };
    spey_beam_step(b->search, scores, ends, &e);
    const spey_beam_running *running = spey_beam_get_running(b->search, &n);
    return n ? hand_on(r, running, n) : finish(r, choosing->eos);
}
