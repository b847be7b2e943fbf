/* What the statement and the expression parser share: the token at hand and one to come. Internal. */
#ifndef SPEY_TEXT_JINJA_PARSER_H
#define SPEY_TEXT_JINJA_PARSER_H

#include "text/jinja_lexer.h"
#include "text/jinja_node.h"

typedef struct jinja_parser {
    spey_arena *arena;
    jinja_lexer lexer;
    jinja_token token; /* current */
    jinja_token ahead;
    bool has_ahead;
    int depth;
    int loops;       /* open `for` bodies that a break could leave */
    int conditional; /* open branches: an unknown filter there fails only when it runs */
    uint8_t uses;    /* special variables named in the macro body being parsed */
} jinja_parser;

/* ---- tokens ---- */

spey_status spey_jinja_parser_next(jinja_parser *parser);
spey_status spey_jinja_parser_look(jinja_parser *parser);
bool spey_jinja_token_is(const jinja_token *token, jinja_token_kind kind, const char *text);
bool spey_jinja_at_name(const jinja_parser *parser, const char *name);
bool spey_jinja_at_operator(const jinja_parser *parser, const char *op);
/* Go on if the current token is this operator or name; *found tells. */
spey_status spey_jinja_skip_operator(jinja_parser *parser, const char *op, bool *found);
spey_status spey_jinja_skip_name(jinja_parser *parser, const char *name, bool *found);
spey_status spey_jinja_expect_operator(jinja_parser *parser, const char *op);
spey_status spey_jinja_expect_name(jinja_parser *parser, const char *name);
spey_status spey_jinja_unexpected(const jinja_parser *parser, const char *expected);
spey_status spey_jinja_fail_token(const jinja_token *token, const char *message);

/* ---- nodes ---- */

/* A node at the position of `token`; its text is that of the token when `with_text`. */
spey_status spey_jinja_node_new(jinja_parser *parser, jinja_node_kind kind,
                                const jinja_token *token, bool with_text, jinja_node **out);
spey_status spey_jinja_parser_enter(jinja_parser *parser);

/* ---- expressions ---- */

spey_status spey_jinja_parse_expression(jinja_parser *parser, jinja_node **out);
/* Expressions with commas between them make a tuple. `condition`: `x if y` is allowed. */
spey_status spey_jinja_parse_tuple(jinja_parser *parser, bool condition, jinja_node **out);
spey_status spey_jinja_parse_primary(jinja_parser *parser, jinja_node **out);
/* `name | name(args) …`; with `inline_start` the first has no bar. *out holds the input and gets the result. */
spey_status spey_jinja_parse_filters(jinja_parser *parser, bool inline_start, jinja_node **out);
/* Name, tuple of names or (with `attribute`) namespace.attribute. */
spey_status spey_jinja_parse_target(jinja_parser *parser, bool attribute, jinja_node **out);

#endif
