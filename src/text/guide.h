/* Guided decoding: which tokens may come next so that the output matches a regex, a grammar or a JSON schema.
 *
 *   text ──guide_regex/grammar/schema──► expressions ──guide_automaton──► spey_guide      immutable, shared
 *   spey_guide + vocabulary ──► spey_guide_matcher                                        states and masks, of any number of texts
 *   matcher + state ──► mask over the vocabulary; state + token ──► state                 each sequence holds a state
 *
 * Syntax and subset: docs/guided-decoding.md. Reading a text is pure; time and memory are bounded for hostile ones, too. */
#ifndef SPEY_TEXT_GUIDE_H
#define SPEY_TEXT_GUIDE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "spey/spey.h"
#include "text/guide_vocab.h"

typedef struct spey_guide spey_guide;

/* SPEY_FORMAT: where in the text and why; SPEY_UNSUPPORTED: a JSON schema's keyword, with its JSON pointer; SPEY_LIMIT. */
spey_status spey_guide_compile(spey_guide_format format, const char *text, size_t n,
                               spey_guide **out);
void spey_guide_free(spey_guide *guide);
/* Bytes that it takes. */
size_t spey_guide_memory(const spey_guide *guide);

/* ---- where texts are ---- */

typedef struct spey_guide_matcher spey_guide_matcher;
typedef int32_t spey_guide_state;

/* Keeps guide and vocab until free. eos_ids, copied, are allowed where the text may end. Nothing allocates after. One thread. */
spey_status spey_guide_matcher_new(const spey_guide *guide, const spey_guide_vocab *vocab,
                                   const int32_t *eos_ids, int32_t n_eos, spey_guide_matcher **out);
void spey_guide_matcher_free(spey_guide_matcher *matcher);
/* Bytes that it takes, folds of the vocabulary aside. */
size_t spey_guide_matcher_bytes(const spey_guide *guide, const spey_guide_vocab *vocab);

/* A state held: drop it. */
spey_guide_state spey_guide_matcher_start(spey_guide_matcher *matcher);
spey_guide_state spey_guide_matcher_fork(spey_guide_matcher *matcher, spey_guide_state state);
void spey_guide_matcher_drop(spey_guide_matcher *matcher, spey_guide_state state);

/* The tokens allowed now: bit id % 64 of word id / 64; valid until the next call. SPEY_LIMIT: too complicated. */
spey_status spey_guide_matcher_mask(spey_guide_matcher *matcher, spey_guide_state state,
                                    const uint64_t **mask);
/* Set the logits of tokens that are not allowed to -inf. */
spey_status spey_guide_matcher_apply(spey_guide_matcher *matcher, spey_guide_state state,
                                     float *logits);
/* The held state becomes that after `token`. SPEY_INVALID: the token is not allowed; the state stays. */
spey_status spey_guide_matcher_advance(spey_guide_matcher *matcher, spey_guide_state *state,
                                       int32_t token);
/* May the output end here; can it do nothing else? */
bool spey_guide_matcher_can_end(const spey_guide_matcher *matcher, spey_guide_state state);
bool spey_guide_matcher_must_end(spey_guide_matcher *matcher, spey_guide_state state);

#endif
