/* From a row of logits to a token, as Hugging Face's generate() with the same settings: penalties and bans, then
 * temperature → top-k → top-p → min-p → typical, then one draw, as kernels/sample/sample.h defines it: a device that draws
 * from the same logits takes the same token.
 *
 * A token depends on the logits, the sequence's own tokens, the settings and (seed, index) alone: the same whatever runs
 * beside it. Nothing allocates after new. One thread. */
#ifndef SPEY_RUNTIME_SAMPLER_H
#define SPEY_RUNTIME_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/sample/sample.h"
#include "runtime/beam.h"
#include "spey/spey.h"

/* Scratch for one row at a time. */
typedef struct spey_sampler spey_sampler;
spey_status spey_sampler_new(int64_t vocab_size, spey_sampler **out);
void spey_sampler_free(spey_sampler *sampler);

/* The sequence so far: prompt, then output. Ids beyond the vocabulary are rows of a prompt table, which nothing penalizes. */
typedef struct spey_history {
    const int32_t *ids;
    int64_t n_prompt;
    int64_t n; /* prompt and output */
} spey_history;

/* Every range of the settings; the message names the field. Ids must lie in [0, vocab_size). */
spey_status spey_sampling_check(const spey_sampling *sampling, int64_t vocab_size);

/* Every next token is simply the one with the largest logit, of equal ones the lowest id. */
bool spey_sampling_takes_best(const spey_sampling *sampling);
/* The settings of its beam search, without lengths. */
spey_beam_options spey_sampling_beams(const spey_sampling *sampling);

/* Change `logits` [vocab] in place: logit bias, repetition, presence and frequency penalties, no-repeat n-grams, bad words,
 * suppressed ids, and the end-of-text ids while the output is shorter than min_tokens. */
void spey_sampler_penalize(spey_sampler *sampler, const spey_sampling *sampling,
                           const spey_history *history, const int32_t *eos_ids, int32_t n_eos,
                           float *logits);

/* Leave no choice but this id. */
void spey_sampler_force(const spey_sampler *sampler, int32_t id, float *logits);

/* The row copied into the sampler's scratch, valid until the next copy. */
float *spey_sampler_copy(spey_sampler *sampler, const float *logits);

/* Choose the next token. SPEY_INVALID: every logit is banned, or one is NaN. `index`: its place in the output. */
spey_status spey_sampler_draw(spey_sampler *sampler, const spey_sampling *sampling,
                              const float *logits, uint64_t index, int32_t *out);

#endif
