/* Prompts: text, or a conversation under the chat template, to token ids. */
#ifndef SPEY_CLI_PROMPT_H
#define SPEY_CLI_PROMPT_H

#include "base/json.h"
#include "spey/spey.h"

/* The caller frees *out with spey_free. */
spey_status spey_prompt_encode(const spey_engine *engine, const char *text, size_t bytes,
                               bool add_special, int32_t **out, size_t *n);
/* `messages`: an array of {"role", "content"}; the ids end where the assistant's answer begins. */
spey_status spey_prompt_encode_chat(const spey_engine *engine, const json_t *messages,
                                    int32_t **out, size_t *n);
spey_status spey_prompt_add_message(json_t *messages, const char *role, const char *text,
                                    size_t bytes);

#endif
