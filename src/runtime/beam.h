/* Beam search as Hugging Face's generate() does it: bookkeeping only. Rows of log-probabilities go in; which beam each
 * running one continues with which token, and the finished hypotheses, come out. Blocks, text and the model are the
 * caller's.
 *
 *   step t     candidates: the best (1 + ends, at least 2) · width of running beams × vocabulary, best first
 *                ends?  yes, among the first `width`: a hypothesis, score = sum of log-probabilities / length^penalty
 *                       no: runs on, until `width` do
 *
 * Diverse beams (Vijayakumar et al., 2016) split the width into groups, each a search of its own. They choose in order, and
 * a token that earlier groups chose in this step costs a later one the penalty each time. A group that is done chooses
 * nothing.
 *
 * Scores are summed in float, as Hugging Face's, so that near ties fall the same way. Tokens are stored once, as links to the
 * step before. Nothing allocates after new. One thread. */
#ifndef SPEY_RUNTIME_BEAM_H
#define SPEY_RUNTIME_BEAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "spey/spey.h"

typedef struct spey_beam_options {
    int32_t width;            /* beams in all: 1 to SPEY_BEAMS_MAX */
    int32_t groups;           /* divides width; 1: ordinary beam search */
    double diversity_penalty; /* >= 0; of groups > 1 */
    double length_penalty;    /* exponent; > 0 prefers long ones */
    spey_early_stopping early_stopping;
    int32_t n_ends;    /* ids that end a sequence: how many candidates may be lost to them */
    int32_t steps_max; /* new tokens at most, >= 1; every beam ends there */
    int64_t vocab_size;
} spey_beam_options;

/* A running beam: `parent` is its index among those that ran before the step. */
typedef struct spey_beam_running {
    int32_t parent;
    int32_t token;
    float score; /* sum of the log-probabilities of its new tokens */
} spey_beam_running;

typedef struct spey_beam_hypothesis {
    float score;    /* sum / n_ids^length_penalty: what they are ordered by */
    float sum;      /* of the log-probabilities */
    int32_t n_ids;  /* new tokens, with the one that ended it */
    int32_t parent; /* running beam that it ended from */
    int32_t token;  /* the last one */
} spey_beam_hypothesis;

/* Does `token` after running beam `parent` end the sequence? */
typedef bool (*spey_beam_ends_fn)(void *user, int32_t parent, int32_t token);

typedef struct spey_beam spey_beam;

/* SPEY_INVALID: an option out of range; its name is in the text. */
spey_status spey_beam_check(const spey_beam_options *options);
spey_status spey_beam_new(const spey_beam_options *options, spey_beam **out);
void spey_beam_free(spey_beam *beam);

/* The running beams, best of each group first, groups in order. Before the first step they are `groups` copies of the
 * prompt (parent and token -1). None: the search is over. */
const spey_beam_running *spey_beam_get_running(const spey_beam *beam, int32_t *n);

/* One step of the search, while beams run. rows[i]: the log-probabilities [vocab_size] after running beam i, penalties and
 * bans applied (-inf: banned; so is NaN). */
void spey_beam_step(spey_beam *beam, const float *const *rows, spey_beam_ends_fn ends, void *user);

/* Up to n_max finished hypotheses of all groups, best first. */
int32_t spey_beam_best(const spey_beam *beam, int32_t n_max, spey_beam_hypothesis *out);
/* The ids of a hypothesis, and the sum of the log-probabilities up to each; room for n_ids. */
void spey_beam_ids(const spey_beam *beam, const spey_beam_hypothesis *hypothesis, int32_t *ids,
                   float *sums);

#endif
