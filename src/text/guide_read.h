/* The readers of guides: text in, rules in a builder out. Pure. Their failures, with where and why, are the builder's. */
#ifndef SPEY_TEXT_GUIDE_READ_H
#define SPEY_TEXT_GUIDE_READ_H

#include <stdbool.h>
#include <stddef.h>

#include "text/guide_expr.h"

/* Rule 0 is the whole text. */
void spey_guide_read_regex(spey_guide_builder *b, const char *text, size_t n);
void spey_guide_read_grammar(spey_guide_builder *b, const char *text, size_t n);
void spey_guide_read_schema(spey_guide_builder *b, const char *text, size_t n);

/* How a set of characters is written where it appears; `set` may be changed. */
typedef const spey_guide_expr *(*spey_guide_write_fn)(spey_guide_builder *b, spey_guide_class *set);

/* A regex as an expression. `search`: it may match anywhere, as in JSON schema's "pattern", unless ^ and $ say where. Each
 * character is written by `write` (spey_guide_class_expr: as UTF-8). `where` names the regex in messages. */
const spey_guide_expr *spey_guide_regex_expr(spey_guide_builder *b, const char *where,
                                             const char *text, size_t n, bool search,
                                             spey_guide_write_fn write);

#endif
