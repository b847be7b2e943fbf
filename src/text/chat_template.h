/* Chat templates: the subset of Jinja2 that the templates of published checkpoints use, as transformers'
 * apply_chat_template runs it (immutable sandbox; trim_blocks and lstrip_blocks on; loop controls and
 * `generation` blocks; `raise_exception`, `strftime_now`; `tojson` as transformers defines it).
 *
 * Known to differ from Jinja2: integers have 64 bits; `safe` gives plain text; `map` and its like do their work
 * at once, not when walked; groupby, wordwrap, truncate, include, import, extends and block are missing.
 * transformers passes `tools` and `documents` as none where the caller has none: so should ours.
 *
 * A template is immutable after parsing; rendering is bounded (the SPEY_TEMPLATE_ limits: steps, depth, memory,
 * output), so a hostile template or message cannot hang or exhaust the process. Any thread. */
#ifndef SPEY_TEXT_CHAT_TEMPLATE_H
#define SPEY_TEXT_CHAT_TEMPLATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "base/strbuf.h"

typedef struct spey_chat_template spey_chat_template;

/* Parse. Errors name line and column and show what was expected. `source` is copied. */
spey_status spey_chat_template_parse(const char *source, size_t n, spey_chat_template **out);
void spey_chat_template_free(spey_chat_template *chat_template);

/* Render with `variables` (a JSON object: messages, tools, add_generation_prompt, bos_token, eos_token, …),
 * append to `out`, which a failure leaves as it was. Errors name line and column, but raise_exception is
 * SPEY_INVALID with the template's text alone. Strings of `variables` must be UTF-8, as jansson's are. */
spey_status spey_chat_template_render(const spey_chat_template *chat_template,
                                      const json_t *variables, spey_strbuf *out);

#endif
