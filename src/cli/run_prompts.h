/* Offline batches: many prompts from a file through one context. */
#ifndef SPEY_CLI_RUN_PROMPTS_H
#define SPEY_CLI_RUN_PROMPTS_H

#include "spey/spey.h"

/* Run every line of the JSON Lines file at `path` (prompt_line.h), over the defaults, in a context of these options; it gets as
 * many sequences as the widest line asks for, and room for the largest prompt table. Prints one object for each
 * line, in their order: as `spey run --json`, or {"index": …, "error": …}. A line that cannot run does not stop
 * the others; the status then says how many there were. `raw`: no chat template for "prompt". */
spey_status spey_run_prompts(const char *path, const spey_engine *engine,
                             const spey_context_options *options,
                             const spey_request_options *defaults, bool raw);

#endif
