/* One line of a file of prompts: a JSON object that says all that a request can ask for.
 *
 *   the prompt   "prompt" (text), "ids" or "messages"; "decoder_ids" with an encoder; "prompt_table": FILE
 *   sampling     the names of the options of `spey run`, with _ for -: "max_tokens", "best_of", "beams", …;
 *                lists for those that may be repeated ("stop", "bad_words", "stop_ids", "suppress_ids",
 *                "begin_suppress_ids", "bad_ids": lists of ids), {"ID": X} for "logit_bias";
 *                "json_schema" (a schema or its text), "regex", "grammar" (text)
 *   scheduling   "priority", "tenant", "salt", "deadline_ms",
 *                "retention": [{"begin", "end", "priority", "duration_ms"}]
 *
 * What a line names comes in place of the default; a list in place of the whole list. */
#ifndef SPEY_CLI_PROMPT_LINE_H
#define SPEY_CLI_PROMPT_LINE_H

#include "base/arena.h"
#include "base/json.h"
#include "spey/spey.h"

/* A prompt's defaults, and what looks its files up. */
typedef struct spey_prompt_lines {
    const spey_engine *engine;
    const spey_request_options *defaults; /* with a sampling */
    bool raw;                             /* no chat template for "prompt" */
    /* The table of a path, which stays open. */
    spey_status (*open_table)(void *user, const char *path, const spey_prompt_table **out);
    void *user;
} spey_prompt_lines;

typedef struct spey_prompt_line {
    spey_request_options options; /* its lists lie in `arena`, in `line` and in the defaults */
    spey_sampling
        sampling; /* likewise; options.sampling is to be set to it before use: lines move */
    int32_t *ids;
    json_t *line;
    spey_arena arena;
} spey_prompt_line;

/* `at` names the line in errors. After a failure it is to be freed all the same. */
spey_status spey_prompt_line_read(const spey_prompt_lines *lines, const char *at,
                                  const json_t *value, spey_prompt_line *out);
void spey_prompt_line_deinit(spey_prompt_line *line);

#endif
