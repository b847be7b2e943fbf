/* One request as it happens: what its events say, as text, ids and JSON. */
#ifndef SPEY_CLI_GENERATION_H
#define SPEY_CLI_GENERATION_H

#include <signal.h>
#include <stdbool.h>

#include "base/limits.h"
#include "base/strbuf.h"
#include "spey/spey.h"

/* A sequence beyond the first, with n > 1. */
typedef struct spey_generation_choice {
    spey_strbuf text, ids;
    spey_finish finish;
    double score; /* beams */
} spey_generation_choice;

/* Text, ids and log-probabilities are those of the first sequence, or the best beam. */
typedef struct spey_generation {
    bool stream;                              /* text to stdout as it comes */
    const volatile sig_atomic_t *interrupted; /* non-zero cancels; NULL: nothing does */
    spey_strbuf text;
    spey_strbuf output_ids; /* "16, 285" */
    spey_strbuf logprobs;   /* JSON items */
    spey_strbuf prompt_logprobs;
    int64_t n_output;
    uint64_t start_ns, first_ns, last_ns; /* of the clock: submitted, first and last token */
    spey_finish finish;
    double score;                   /* beams */
    spey_generation_choice *others; /* sequences 1 … */
    int32_t n_others;
    char error[256];
    bool write_failed;
} spey_generation;

/* A spey_output_fn; `user` is the generation. */
int spey_generation_on_output(void *user, const spey_output *event);
/* Append {"prompt_ids": …, "output_ids": …, "text": …, "finish_reason": …, …, "timings": …}. */
void spey_generation_write_json(const spey_generation *g, const spey_engine *engine,
                                const int32_t *prompt, size_t n, spey_strbuf *out);
/* Tokens per second of all but the first output token. */
double spey_generation_decode_rate(const spey_generation *g);
void spey_generation_deinit(spey_generation *g);

/* 0 when `to` lies before `from`. */
double spey_ms_between(uint64_t from, uint64_t to);

#endif
