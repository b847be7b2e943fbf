/* Chat templates: the subset of Jinja2 that the templates of published checkpoints use, as transformers'
 * apply_chat_template runs it (trim_blocks and lstrip_blocks on; loop controls; `raise_exception`,
 * `strftime_now`; the filters and tests in use; `tojson` as transformers defines it; namespace, macros).
 *
 * A template is immutable after parsing; rendering is bounded (SPEY_TEMPLATE_STEPS_MAX steps, 16 MiB of
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
 * append to `out`. A template's raise_exception is SPEY_INVALID with its text. */
spey_status spey_chat_template_render(const spey_chat_template *chat_template,
                                      const json_t *variables, spey_strbuf *out);

#endif
