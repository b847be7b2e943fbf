#include <stdio.h>
#include <string.h>

#include "base/limits.h"
#include "text/jinja_node.h"
#include "text/jinja_parser.h"

/* ---- tokens ---- */

spey_status spey_jinja_parser_next(jinja_parser *parser)
{
    if (parser->has_ahead) {
        parser->token = parser->ahead;
        parser->has_ahead = false;
        return SPEY_OK;
    }
    return spey_jinja_lexer_next(&parser->lexer, &parser->token);
}

spey_status spey_jinja_parser_look(jinja_parser *parser)
{
    if (parser->has_ahead) return SPEY_OK;
    SPEY_TRY(spey_jinja_lexer_next(&parser->lexer, &parser->ahead));
    parser->has_ahead = true;
    return SPEY_OK;
}

bool spey_jinja_token_is(const jinja_token *token, jinja_token_kind kind, const char *text)
{
    return token->kind == kind && token->len == strlen(text) &&
           memcmp(token->text, text, token->len) == 0;
}

bool spey_jinja_at_name(const jinja_parser *parser, const char *name)
{
    return spey_jinja_token_is(&parser->token, JINJA_TOKEN_NAME, name);
}

bool spey_jinja_at_operator(const jinja_parser *parser, const char *op)
{
    return spey_jinja_token_is(&parser->token, JINJA_TOKEN_OPERATOR, op);
}

spey_status spey_jinja_skip_operator(jinja_parser *parser, const char *op, bool *found)
{
    *found = spey_jinja_at_operator(parser, op);
    return *found ? spey_jinja_parser_next(parser) : SPEY_OK;
}

spey_status spey_jinja_skip_name(jinja_parser *parser, const char *name, bool *found)
{
    *found = spey_jinja_at_name(parser, name);
    return *found ? spey_jinja_parser_next(parser) : SPEY_OK;
}

spey_status spey_jinja_fail_token(const jinja_token *token, const char *message)
{
    return SPEY_FAIL(SPEY_FORMAT, "chat template line %u, column %u: %s", token->line,
                     token->column, message);
}

spey_status spey_jinja_unexpected(const jinja_parser *parser, const char *expected)
{
    const jinja_token *token = &parser->token;
    const char *what = NULL;
    switch (token->kind) {
    case JINJA_TOKEN_END: what = "the end of the template"; break;
    case JINJA_TOKEN_VARIABLE_END: what = "'}}'"; break;
    case JINJA_TOKEN_BLOCK_END: what = "'%}'"; break;
    case JINJA_TOKEN_INT:
    case JINJA_TOKEN_FLOAT: what = "a number"; break;
    case JINJA_TOKEN_STRING: what = "a string"; break;
    default: break;
    }
    if (what)
        return SPEY_FAIL(SPEY_FORMAT, "chat template line %u, column %u: expected %s, found %s",
                         token->line, token->column, expected, what);
    return SPEY_FAIL(SPEY_FORMAT, "chat template line %u, column %u: expected %s, found '%.*s'",
                     token->line, token->column, expected, (int)(token->len < 80 ? token->len : 80),
                     token->text);
}

static spey_status expect(jinja_parser *parser, bool found, const char *text)
{
    if (found) return spey_jinja_parser_next(parser);
    char quoted[40];
    snprintf(quoted, sizeof quoted, "'%s'", text);
    return spey_jinja_unexpected(parser, quoted);
}

spey_status spey_jinja_expect_operator(jinja_parser *parser, const char *op)
{
    return expect(parser, spey_jinja_at_operator(parser, op), op);
}

spey_status spey_jinja_expect_name(jinja_parser *parser, const char *name)
{
    return expect(parser, spey_jinja_at_name(parser, name), name);
}

/* ---- nodes ---- */

spey_status spey_jinja_node_new(jinja_parser *parser, jinja_node_kind kind,
                                const jinja_token *token, bool with_text, jinja_node **out)
{
    jinja_node *node = spey_arena_alloc(parser->arena, sizeof *node);
    if (!node) return SPEY_NOMEM;
    node->kind = kind;
    node->line = token->line;
    node->column = token->column;
    if (with_text) {
        node->text = spey_arena_strndup(parser->arena, token->text, token->len);
        if (!node->text) return SPEY_NOMEM;
        node->len = token->len;
    }
    *out = node;
    return SPEY_OK;
}

spey_status spey_jinja_parser_enter(jinja_parser *parser)
{
    if (++parser->depth <= SPEY_TEMPLATE_NESTING_MAX) return SPEY_OK;
    return SPEY_FAIL(SPEY_LIMIT, "chat template line %u, column %u: nested deeper than %d levels",
                     parser->token.line, parser->token.column, SPEY_TEMPLATE_NESTING_MAX);
}

/* ---- statements ---- */

static spey_status parse_statement(jinja_parser *parser, jinja_node **out);

static bool at_any(const jinja_parser *parser, const char *const *names)
{
    for (; *names; names++)
        if (spey_jinja_at_name(parser, *names)) return true;
    return false;
}

static spey_status end_block(jinja_parser *parser)
{
    if (parser->token.kind != JINJA_TOKEN_BLOCK_END) return spey_jinja_unexpected(parser, "'%}'");
    return spey_jinja_parser_next(parser);
}

static spey_status missing_end(const jinja_parser *parser, const char *const *ends)
{
    size_t last = 0;
    while (ends[last + 1])
        last++;
    return SPEY_FAIL(SPEY_FORMAT,
                     "chat template line %u, column %u: expected '%s', found the end of the "
                     "template",
                     parser->token.line, parser->token.column, ends[last]);
}

/* Template up to a tag with one of the names `ends` (NULL-terminated), which stays the current token; or,
 * with NULL, to the end. */
static spey_status parse_until(jinja_parser *parser, const char *const *ends, jinja_node **out)
{
    SPEY_TRY(spey_jinja_parser_enter(parser));
    *out = NULL;
    while (parser->token.kind != JINJA_TOKEN_END) {
        jinja_token token = parser->token;
        SPEY_TRY(spey_jinja_parser_next(parser));
        if (token.kind == JINJA_TOKEN_DATA) {
            SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_TEXT, &token, true, out));
        } else if (token.kind == JINJA_TOKEN_VARIABLE_BEGIN) {
            SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_OUTPUT, &token, false, out));
            SPEY_TRY(spey_jinja_parse_tuple(parser, true, &(*out)->a));
            if (parser->token.kind != JINJA_TOKEN_VARIABLE_END)
                return spey_jinja_unexpected(parser, "'}}'");
            SPEY_TRY(spey_jinja_parser_next(parser));
        } else {
            if (ends && at_any(parser, ends)) {
                parser->depth--;
                return SPEY_OK;
            }
            SPEY_TRY(parse_statement(parser, out));
            SPEY_TRY(end_block(parser));
        }
        out = &(*out)->next;
    }
    if (ends) return missing_end(parser, ends);
    parser->depth--;
    return SPEY_OK;
}

/* From the end of an opening tag to a closing one, see parse_until. */
static spey_status parse_body(jinja_parser *parser, const char *const *ends, jinja_node **out)
{
    bool found;
    SPEY_TRY(spey_jinja_skip_operator(parser, ":", &found));
    SPEY_TRY(end_block(parser));
    return parse_until(parser, ends, out);
}

/* The same, and behind the name of the closing tag. */
static spey_status parse_whole_body(jinja_parser *parser, const char *end, jinja_node **out)
{
    const char *const ends[] = { end, NULL };
    SPEY_TRY(parse_body(parser, ends, out));
    return spey_jinja_parser_next(parser);
}

static spey_status parse_if(jinja_parser *parser, jinja_node *node)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    parser->conditional++;
    for (;;) {
        SPEY_TRY(spey_jinja_parse_tuple(parser, false, &node->a));
        SPEY_TRY(parse_body(parser, ends, &node->b));
        jinja_token token = parser->token;
        SPEY_TRY(spey_jinja_parser_next(parser));
        if (spey_jinja_token_is(&token, JINJA_TOKEN_NAME, "endif")) break;
        SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_IF, &token, false, &node->c));
        node = node->c;
        if (spey_jinja_token_is(&token, JINJA_TOKEN_NAME, "else")) {
            SPEY_TRY(parse_whole_body(parser, "endif", &node->b));
            break;
        }
    }
    parser->conditional--;
    return SPEY_OK;
}

static spey_status parse_for(jinja_parser *parser, jinja_node *node)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    bool found;
    SPEY_TRY(spey_jinja_parse_target(parser, false, &node->a));
    SPEY_TRY(spey_jinja_expect_name(parser, "in"));
    SPEY_TRY(spey_jinja_parse_tuple(parser, false, &node->b));
    SPEY_TRY(spey_jinja_skip_name(parser, "if", &found));
    if (found) SPEY_TRY(spey_jinja_parse_expression(parser, &node->e));
    SPEY_TRY(spey_jinja_skip_name(parser, "recursive", &node->flag));
    parser->loops++;
    SPEY_TRY(parse_body(parser, ends, &node->c));
    parser->loops--;
    SPEY_TRY(spey_jinja_skip_name(parser, "else", &found));
    if (found) return parse_whole_body(parser, "endfor", &node->d);
    return spey_jinja_parser_next(parser);
}

static spey_status parse_set(jinja_parser *parser, jinja_node *node)
{
    bool found;
    SPEY_TRY(spey_jinja_parse_target(parser, true, &node->a));
    SPEY_TRY(spey_jinja_skip_operator(parser, "=", &found));
    if (found) return spey_jinja_parse_tuple(parser, true, &node->b);
    node->kind = JINJA_NODE_SET_BLOCK;
    SPEY_TRY(spey_jinja_parse_filters(parser, false, &node->b));
    return parse_whole_body(parser, "endset", &node->c);
}

static spey_status parse_parameters(jinja_parser *parser, jinja_node **out)
{
    bool defaults = false, found;
    *out = NULL;
    SPEY_TRY(spey_jinja_expect_operator(parser, "("));
    while (!spey_jinja_at_operator(parser, ")")) {
        if (*out) {
            out = &(*out)->next;
            SPEY_TRY(spey_jinja_expect_operator(parser, ","));
        }
        if (parser->token.kind != JINJA_TOKEN_NAME)
            return spey_jinja_unexpected(parser, "the name of a parameter");
        SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_PARAMETER, &parser->token, true, out));
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(spey_jinja_skip_operator(parser, "=", &found));
        if (found)
            SPEY_TRY(spey_jinja_parse_expression(parser, &(*out)->a));
        else if (defaults)
            return spey_jinja_unexpected(parser, "a default, as the parameters before have one");
        defaults = defaults || found;
    }
    return spey_jinja_parser_next(parser);
}

/* Body of something that is called: a `break` in it cannot leave a loop outside, and the special variables
 * it names are its own. */
static spey_status parse_called_body(jinja_parser *parser, const char *end, jinja_node *node)
{
    int loops = parser->loops;
    uint8_t uses = parser->uses;
    parser->loops = 0;
    parser->uses = 0;
    SPEY_TRY(parse_whole_body(parser, end, &node->c));
    node->uses = parser->uses;
    parser->uses = uses;
    parser->loops = loops;
    return SPEY_OK;
}

static spey_status parse_macro(jinja_parser *parser, jinja_node *node)
{
    if (parser->token.kind != JINJA_TOKEN_NAME)
        return spey_jinja_unexpected(parser, "the name of the macro");
    node->text = spey_arena_strndup(parser->arena, parser->token.text, parser->token.len);
    if (!node->text) return SPEY_NOMEM;
    node->len = parser->token.len;
    SPEY_TRY(spey_jinja_parser_next(parser));
    SPEY_TRY(parse_parameters(parser, &node->a));
    return parse_called_body(parser, "endmacro", node);
}

static spey_status parse_call_block(jinja_parser *parser, jinja_node *node)
{
    node->text = "caller";
    node->len = 6;
    if (spey_jinja_at_operator(parser, "(")) SPEY_TRY(parse_parameters(parser, &node->a));
    SPEY_TRY(spey_jinja_parse_expression(parser, &node->b));
    if (node->b->kind != JINJA_NODE_CALL)
        return SPEY_FAIL(SPEY_FORMAT, "chat template line %u, column %u: expected a call",
                         node->line, node->column);
    return parse_called_body(parser, "endcall", node);
}

static spey_status parse_filter_block(jinja_parser *parser, jinja_node *node)
{
    SPEY_TRY(spey_jinja_parse_filters(parser, true, &node->b));
    return parse_whole_body(parser, "endfilter", &node->c);
}

static spey_status parse_with(jinja_parser *parser, jinja_node *node)
{
    jinja_node **link = &node->a;
    while (parser->token.kind != JINJA_TOKEN_BLOCK_END) {
        if (node->a) SPEY_TRY(spey_jinja_expect_operator(parser, ","));
        SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_PAIR, &parser->token, false, link));
        SPEY_TRY(spey_jinja_parse_target(parser, false, &(*link)->a));
        SPEY_TRY(spey_jinja_expect_operator(parser, "="));
        SPEY_TRY(spey_jinja_parse_expression(parser, &(*link)->b));
        link = &(*link)->next;
    }
    return parse_whole_body(parser, "endwith", &node->c);
}

static spey_status parse_generation(jinja_parser *parser, jinja_node *node)
{
    return parse_called_body(parser, "endgeneration", node);
}

static spey_status parse_jump(jinja_parser *parser, jinja_node *node)
{
    (void)node;
    if (parser->loops) return SPEY_OK;
    return spey_jinja_fail_token(&parser->token, "break or continue outside of a loop");
}

static const struct {
    const char *name;
    jinja_node_kind kind;
    spey_status (*parse)(jinja_parser *parser, jinja_node *node);
} statements[] = {
    { "if", JINJA_NODE_IF, parse_if },
    { "for", JINJA_NODE_FOR, parse_for },
    { "set", JINJA_NODE_SET, parse_set },
    { "macro", JINJA_NODE_MACRO, parse_macro },
    { "call", JINJA_NODE_CALL_BLOCK, parse_call_block },
    { "filter", JINJA_NODE_FILTER_BLOCK, parse_filter_block },
    { "with", JINJA_NODE_WITH, parse_with },
    { "generation", JINJA_NODE_SCOPED, parse_generation },
    { "break", JINJA_NODE_BREAK, parse_jump },
    { "continue", JINJA_NODE_CONTINUE, parse_jump },
};

static spey_status parse_statement(jinja_parser *parser, jinja_node **out)
{
    static const char *const others[] = { "extends", "include",    "import", "from",
                                          "block",   "autoescape", "print",  NULL };
    jinja_token token = parser->token;
    if (token.kind != JINJA_TOKEN_NAME) return spey_jinja_unexpected(parser, "a statement");
    if (at_any(parser, others))
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "chat template line %u, column %u: the statement '%.*s' is not supported",
                         token.line, token.column, (int)token.len, token.text);
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!spey_jinja_at_name(parser, statements[i].name)) continue;
        SPEY_TRY(spey_jinja_node_new(parser, statements[i].kind, &token, false, out));
        SPEY_TRY(spey_jinja_parser_next(parser));
        return statements[i].parse(parser, *out);
    }
    return SPEY_FAIL(SPEY_FORMAT, "chat template line %u, column %u: unknown tag '%.*s'",
                     token.line, token.column, (int)(token.len < 80 ? token.len : 80), token.text);
}

spey_status spey_jinja_parse(spey_arena *arena, const char *source, size_t n, jinja_node **out)
{
    jinja_parser parser = { .arena = arena };
    spey_jinja_lexer_init(&parser.lexer, arena, source, n);
    SPEY_TRY(spey_jinja_parser_next(&parser));
    return parse_until(&parser, NULL, out);
}
