/* Regular expressions as Hugging Face tokenizers write them (Oniguruma, Ruby syntax), run by PCRE2 with JIT.
 *
 * A compiled regex is immutable; any thread may match with its own scratch. The pattern is translated where
 * the two engines mean different things: \s \w \h, ^ and $ at line ends. What cannot be translated
 * (set operations, nested classes, absent operators) is SPEY_UNSUPPORTED. Matching is bounded: a pattern that
 * backtracks too far on a text is SPEY_LIMIT, never a wrong answer. */
#ifndef SPEY_TEXT_REGEX_H
#define SPEY_TEXT_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct spey_regex spey_regex;
typedef struct spey_regex_scratch spey_regex_scratch;

/* `where` names the source in errors. */
spey_status spey_regex_new(const char *where, const char *pattern, size_t n, spey_regex **out);
void spey_regex_free(spey_regex *regex);

spey_status spey_regex_scratch_new(spey_regex_scratch **out);
void spey_regex_scratch_free(spey_regex_scratch *scratch);

/* Where a search over one text is: zero-initialise. */
typedef struct spey_regex_cursor {
    size_t from;     /* next search starts here */
    size_t last_end; /* end of the last match, valid when `matched` */
    bool matched;
} spey_regex_cursor;

/* The next match in valid UTF-8. *found is false at the end. Empty matches right after a match are skipped. */
spey_status spey_regex_next(const spey_regex *regex, spey_regex_scratch *scratch, const char *text,
                            size_t n, spey_regex_cursor *cursor, bool *found, size_t *begin,
                            size_t *end);

#endif
