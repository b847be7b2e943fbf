/* Reading tokenizer.json, in two files: the vocabulary and the processing steps. */
#ifndef SPEY_TEXT_TOKENIZER_JSON_H
#define SPEY_TEXT_TOKENIZER_JSON_H

#include "base/json.h"
#include "text/tokenizer_impl.h"

/* normalizer, pre_tokenizer, post_processor and decoder of the root into source->ops. */
spey_status spey_tok_json_steps(spey_tok_source *source, const json_t *root);
/* A string member that must be there. */
spey_status spey_tok_json_text(const spey_tok_source *source, const json_t *object, const char *key,
                               const char **text, size_t *n);

#endif
