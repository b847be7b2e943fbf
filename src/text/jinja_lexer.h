/* Tokens of a template, one at a time, with Jinja's whitespace rules (trim_blocks and lstrip_blocks on).
 * Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_LEXER_H
#define SPEY_TEXT_JINJA_LEXER_H

#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef enum jinja_token_kind {
    JINJA_TOKEN_END,
    JINJA_TOKEN_DATA,           /* template text */
    JINJA_TOKEN_VARIABLE_BEGIN, /* {{ */
    JINJA_TOKEN_VARIABLE_END,
    JINJA_TOKEN_BLOCK_BEGIN, /* {% */
    JINJA_TOKEN_BLOCK_END,
    JINJA_TOKEN_NAME,
    JINJA_TOKEN_STRING, /* text is the decoded string */
    JINJA_TOKEN_INT,
    JINJA_TOKEN_FLOAT,
    JINJA_TOKEN_OPERATOR, /* text is the operator */
} jinja_token_kind;

typedef struct jinja_token {
    jinja_token_kind kind;
    const char *text; /* in the source or in the arena; no final 0 */
    size_t len;
    int64_t integer;
    double real;
    uint32_t line, column;
} jinja_token;

enum { JINJA_BRACKETS_MAX = 256 };

typedef struct jinja_lexer {
    spey_arena *arena; /* borrowed */
    const char *source;
    size_t n, pos;
    size_t counted; /* line and column are those of this position */
    uint32_t line, column;
    enum { JINJA_LEX_DATA, JINJA_LEX_TAG, JINJA_LEX_BLOCK, JINJA_LEX_VARIABLE } state;
    int n_brackets;
    char brackets[JINJA_BRACKETS_MAX]; /* closing brackets wanted */
} jinja_lexer;

/* Borrows `source` and `arena` while tokens are read; line ends must be \n alone. */
void spey_jinja_lexer_init(jinja_lexer *lexer, spey_arena *arena, const char *source, size_t n);
spey_status spey_jinja_lexer_next(jinja_lexer *lexer, jinja_token *out);

#endif
