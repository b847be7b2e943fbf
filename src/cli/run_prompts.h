/* Offline batches: many prompts from a file through one context. */
#ifndef SPEY_CLI_RUN_PROMPTS_H
#define SPEY_CLI_RUN_PROMPTS_H

#include "spey/spey.h"

/* Run every line of the JSON Lines file at `path`:
 *
 *   {"prompt": "…"} or {"ids": [1, 2]} or {"messages": [{"role": …, "content": …}]}, and any of max_tokens, min_tokens,
 *   temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty,
 *   no_repeat_ngram, seed, ignore_eos, stop
 *
 * over the defaults in `sampling`, and print one object for each, in their order: as `spey run --json`, or
 * {"index": …, "error": …}. A line that cannot run does not stop the others; the status then says how many there were.
 * `raw`: no chat template for "prompt". */
spey_status spey_run_prompts(const char *path, const spey_engine *engine, spey_context *context,
                             const spey_sampling *sampling, bool raw);

#endif
