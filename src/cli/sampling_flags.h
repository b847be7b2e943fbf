/* The sampling options of the command line, and the spey_sampling that they mean. */
#ifndef SPEY_CLI_SAMPLING_FLAGS_H
#define SPEY_CLI_SAMPLING_FLAGS_H

#include "base/arena.h"
#include "base/limits.h"
#include "cli/args.h"
#include "spey/spey.h"

typedef struct spey_sampling_flags {
    int64_t max_tokens, min_tokens, top_k, no_repeat_ngram, seed, logprobs, prompt_logprobs;
    int64_t n, best_of, beams, beam_groups, forced_eos;
    double length_penalty, diversity_penalty;
    const char *early_stopping, *json_schema, *regex, *grammar;
    double temperature, top_p, min_p, typical_p, repetition_penalty, presence_penalty,
        frequency_penalty;
    bool ignore_eos;
    spey_text_list stop, stop_ids, bad_words, bad_ids, suppress_ids, begin_suppress_ids, logit_bias;
} spey_sampling_flags;

/* Defaults: what the model's generation_config says, where the flags leave it open (marked by -1 here). */
void spey_sampling_flags_init(spey_sampling_flags *flags);

/* clang-format off */
#define SPEY_SAMPLING_OPTIONS(f)                                                                                       \
    { "max-tokens", SPEY_OPTION_INT, &(f)->max_tokens, "N", "new tokens at most (default: 128; -1: until the context is full)", -1, 1 << 27 }, \
    { "min-tokens", SPEY_OPTION_INT, &(f)->min_tokens, "N", "no end of text before (default: the model's)", 0, 1 << 27 }, \
    { "temperature", SPEY_OPTION_NUMBER, &(f)->temperature, "T", "0: always the likeliest token (default: the model's)", 0, 100 }, \
    { "top-k", SPEY_OPTION_INT, &(f)->top_k, "N", "choose among the N likeliest; 0: off", 0, 1 << 30 },                \
    { "top-p", SPEY_OPTION_NUMBER, &(f)->top_p, "P", "choose among the likeliest with mass P; 1: off", 0, 1 },         \
    { "min-p", SPEY_OPTION_NUMBER, &(f)->min_p, "P", "drop tokens below P times the likeliest; 0: off", 0, 1 },        \
    { "typical-p", SPEY_OPTION_NUMBER, &(f)->typical_p, "P", "locally typical sampling; 1: off", 0, 1 },               \
    { "repetition-penalty", SPEY_OPTION_NUMBER, &(f)->repetition_penalty, "X", "over prompt and output; 1: off", 1e-6, 1e6 }, \
    { "presence-penalty", SPEY_OPTION_NUMBER, &(f)->presence_penalty, "X", "over the output; 0: off", -100, 100 },     \
    { "frequency-penalty", SPEY_OPTION_NUMBER, &(f)->frequency_penalty, "X", "over the output; 0: off", -100, 100 },   \
    { "no-repeat-ngram", SPEY_OPTION_INT, &(f)->no_repeat_ngram, "N", "no N tokens in a row twice; 0: off (default: the model's)", 0, 1024 }, \
    { "seed", SPEY_OPTION_INT, &(f)->seed, "N", "same seed, same text (default: 0)", 0, 9007199254740992.0 },          \
    { "stop", SPEY_OPTION_LIST, &(f)->stop, "TEXT", "end before this text (may be repeated)", 0, 0 },                  \
    { "stop-ids", SPEY_OPTION_LIST, &(f)->stop_ids, "IDS", "end at these token ids", 0, 0 },                           \
    { "bad-words", SPEY_OPTION_LIST, &(f)->bad_words, "TEXT", "never write this (may be repeated)", 0, 0 },            \
    { "bad-ids", SPEY_OPTION_LIST, &(f)->bad_ids, "IDS", "never write this sequence of token ids", 0, 0 },             \
    { "suppress-ids", SPEY_OPTION_LIST, &(f)->suppress_ids, "IDS", "never write these token ids (beside the model's)", 0, 0 }, \
    { "begin-suppress-ids", SPEY_OPTION_LIST, &(f)->begin_suppress_ids, "IDS", "do not begin with these token ids (beside the model's)", 0, 0 }, \
    { "forced-eos", SPEY_OPTION_INT, &(f)->forced_eos, "ID", "the last token that there is room for; -1: any (default: the model's)", -1, SPEY_VOCAB_MAX }, \
    { "logit-bias", SPEY_OPTION_LIST, &(f)->logit_bias, "ID=X", "add X to the logit of a token", 0, 0 },               \
    { "ignore-eos", SPEY_OPTION_FLAG, &(f)->ignore_eos, NULL, "go on after the end of text", 0, 0 },                   \
    { "n", SPEY_OPTION_INT, &(f)->n, "N", "sequences of one prompt, or the N best beams (default: 1)", 1, SPEY_CHOICES_MAX }, \
    { "best-of", SPEY_OPTION_INT, &(f)->best_of, "N", "draw N sequences, keep the n likeliest", 1, SPEY_CHOICES_MAX }, \
    { "beams", SPEY_OPTION_INT, &(f)->beams, "N", "beam search with N beams; 1: off", 1, SPEY_BEAMS_MAX },            \
    { "length-penalty", SPEY_OPTION_NUMBER, &(f)->length_penalty, "X", "beams: score = log-probability / length^X (default: 1)", -100, 100 }, \
    { "early-stopping", SPEY_OPTION_TEXT, &(f)->early_stopping, "WHEN", "beams: true, false (default) or never, as in transformers", 0, 0 }, \
    { "beam-groups", SPEY_OPTION_INT, &(f)->beam_groups, "N", "beams: groups that differ (default: 1)", 1, SPEY_BEAMS_MAX }, \
    { "diversity-penalty", SPEY_OPTION_NUMBER, &(f)->diversity_penalty, "X", "beams: for a token of another group", 0, 1e6 }, \
    { "json-schema", SPEY_OPTION_TEXT, &(f)->json_schema, "FILE", "write JSON that this schema (a file, or the schema) allows", 0, 0 }, \
    { "regex", SPEY_OPTION_TEXT, &(f)->regex, "REGEX", "write what this regex matches", 0, 0 },                       \
    { "grammar", SPEY_OPTION_TEXT, &(f)->grammar, "FILE", "write what this GBNF grammar (a file, or the grammar) allows", 0, 0 }, \
    { "logprobs", SPEY_OPTION_INT, &(f)->logprobs, "N", "log-probabilities of the token and the N likeliest", 0, 64 }, \
    { "prompt-logprobs", SPEY_OPTION_INT, &(f)->prompt_logprobs, "N", "the same for the prompt", 0, 64 }
/* clang-format on */

/* Everything `out` points to lives in `arena` or argv. */
spey_status spey_sampling_from_flags(const spey_sampling_flags *flags, const spey_engine *engine,
                                     spey_arena *arena, spey_sampling *out);

/* Sequences that run at once. */
int32_t spey_sampling_width(const spey_sampling *sampling);

/* Ban a word as it stands alone and as it follows a space: one or two more of lists[*n], whose ids lie in the arena. */
spey_status spey_bad_word_add(const spey_engine *engine, const char *word, spey_arena *arena,
                              spey_id_list *lists, size_t *n);

#endif
