#include <string.h>

#include "text/jinja_builtin.h"
#include "text/jinja_parser.h"

/* Precedence, loosest first: if-else, or, and, not, comparison, + -, ~, * / // %, **, sign, postfix, filter. */

static spey_status parse_or(jinja_parser *parser, jinja_node **out);
static spey_status parse_not(jinja_parser *parser, jinja_node **out);
static spey_status parse_unary(jinja_parser *parser, bool with_filter, jinja_node **out);

static spey_status two_children(jinja_parser *parser, jinja_node_kind kind,
                                const jinja_token *token, jinja_node *a, jinja_node *b,
                                jinja_node **out)
{
    jinja_node *node;
    SPEY_TRY(spey_jinja_node_new(parser, kind, token, false, &node));
    node->a = a;
    node->b = b;
    *out = node;
    return SPEY_OK;
}

spey_status spey_jinja_parse_expression(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(spey_jinja_parser_enter(parser));
    SPEY_TRY(parse_or(parser, out));
    while (spey_jinja_at_name(parser, "if")) {
        jinja_node *node;
        bool found;
        SPEY_TRY(two_children(parser, JINJA_NODE_CHOICE, &parser->token, NULL, *out, &node));
        SPEY_TRY(spey_jinja_parser_next(parser));
        parser->conditional++;
        SPEY_TRY(parse_or(parser, &node->a));
        SPEY_TRY(spey_jinja_skip_name(parser, "else", &found));
        if (found) SPEY_TRY(spey_jinja_parse_expression(parser, &node->c));
        parser->conditional--;
        *out = node;
    }
    parser->depth--;
    return SPEY_OK;
}

static spey_status parse_and(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(parse_not(parser, out));
    while (spey_jinja_at_name(parser, "and")) {
        SPEY_TRY(two_children(parser, JINJA_NODE_AND, &parser->token, *out, NULL, out));
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_not(parser, &(*out)->b));
    }
    return SPEY_OK;
}

static spey_status parse_or(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(parse_and(parser, out));
    while (spey_jinja_at_name(parser, "or")) {
        SPEY_TRY(two_children(parser, JINJA_NODE_OR, &parser->token, *out, NULL, out));
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_and(parser, &(*out)->b));
    }
    return SPEY_OK;
}

/* Left-associative operators of one level; `names` ends with NULL. */
typedef struct operator_level {
    const char *name;
    jinja_op op;
} operator_level;

static const operator_level *operator_at(const jinja_parser *parser, const operator_level *level)
{
    for (; level->name; level++)
        if (spey_jinja_at_operator(parser, level->name)) return level;
    return NULL;
}

static spey_status parse_power(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(parse_unary(parser, true, out));
    while (spey_jinja_at_operator(parser, "**")) {
        SPEY_TRY(two_children(parser, JINJA_NODE_BINARY, &parser->token, *out, NULL, out));
        (*out)->op = JINJA_OP_POW;
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_unary(parser, true, &(*out)->b));
    }
    return SPEY_OK;
}

static spey_status parse_product(jinja_parser *parser, jinja_node **out)
{
    static const operator_level level[] = { { "*", JINJA_OP_MUL },
                                            { "/", JINJA_OP_DIV },
                                            { "//", JINJA_OP_FLOOR_DIV },
                                            { "%", JINJA_OP_MOD },
                                            { NULL, JINJA_OP_MUL } };
    SPEY_TRY(parse_power(parser, out));
    const operator_level *found;
    while ((found = operator_at(parser, level))) {
        SPEY_TRY(two_children(parser, JINJA_NODE_BINARY, &parser->token, *out, NULL, out));
        (*out)->op = (uint8_t)found->op;
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_power(parser, &(*out)->b));
    }
    return SPEY_OK;
}

static spey_status parse_concat(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(parse_product(parser, out));
    if (!spey_jinja_at_operator(parser, "~")) return SPEY_OK;
    SPEY_TRY(two_children(parser, JINJA_NODE_CONCAT, &parser->token, *out, NULL, out));
    jinja_node *last = (*out)->a;
    while (spey_jinja_at_operator(parser, "~")) {
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_product(parser, &last->next));
        last = last->next;
    }
    return SPEY_OK;
}

static spey_status parse_sum(jinja_parser *parser, jinja_node **out)
{
    static const operator_level level[] = { { "+", JINJA_OP_ADD },
                                            { "-", JINJA_OP_SUB },
                                            { NULL, JINJA_OP_ADD } };
    SPEY_TRY(parse_concat(parser, out));
    const operator_level *found;
    while ((found = operator_at(parser, level))) {
        SPEY_TRY(two_children(parser, JINJA_NODE_BINARY, &parser->token, *out, NULL, out));
        (*out)->op = (uint8_t)found->op;
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_concat(parser, &(*out)->b));
    }
    return SPEY_OK;
}

/* The comparison operator at hand, taken. */
static spey_status take_comparison(jinja_parser *parser, jinja_op *op, bool *found)
{
    static const operator_level level[] = { { "==", JINJA_OP_EQ }, { "!=", JINJA_OP_NE },
                                            { "<", JINJA_OP_LT },  { "<=", JINJA_OP_LE },
                                            { ">", JINJA_OP_GT },  { ">=", JINJA_OP_GE },
                                            { NULL, JINJA_OP_EQ } };
    const operator_level *entry = operator_at(parser, level);
    *found = entry || spey_jinja_at_name(parser, "in");
    *op = entry ? entry->op : JINJA_OP_IN;
    if (spey_jinja_at_name(parser, "not")) {
        SPEY_TRY(spey_jinja_parser_look(parser));
        if (!spey_jinja_token_is(&parser->ahead, JINJA_TOKEN_NAME, "in")) return SPEY_OK;
        SPEY_TRY(spey_jinja_parser_next(parser));
        *found = true;
        *op = JINJA_OP_NOT_IN;
    }
    return *found ? spey_jinja_parser_next(parser) : SPEY_OK;
}

static spey_status parse_comparison(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(parse_sum(parser, out));
    jinja_node **link = NULL;
    for (;;) {
        jinja_token token = parser->token;
        jinja_op op;
        bool found;
        SPEY_TRY(take_comparison(parser, &op, &found));
        if (!found) return SPEY_OK;
        if (!link) {
            SPEY_TRY(two_children(parser, JINJA_NODE_COMPARE, &token, *out, NULL, out));
            link = &(*out)->b;
        }
        SPEY_TRY(two_children(parser, JINJA_NODE_COMPARAND, &token, NULL, NULL, link));
        (*link)->op = (uint8_t)op;
        SPEY_TRY(parse_sum(parser, &(*link)->a));
        link = &(*link)->next;
    }
}

static spey_status parse_not(jinja_parser *parser, jinja_node **out)
{
    if (!spey_jinja_at_name(parser, "not")) return parse_comparison(parser, out);
    SPEY_TRY(spey_jinja_parser_enter(parser));
    jinja_node *node;
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_NOT, &parser->token, false, &node));
    SPEY_TRY(spey_jinja_parser_next(parser));
    SPEY_TRY(parse_not(parser, &node->a));
    *out = node;
    parser->depth--;
    return SPEY_OK;
}

/* ---- calls and subscripts ---- */

static spey_status parse_argument(jinja_parser *parser, uint8_t *seen, jinja_node **out)
{
    enum { KEYWORD = 1, STAR = 2, STAR_STAR = 4 };
    jinja_node *node;
    bool star = spey_jinja_at_operator(parser, "*"),
         star_star = spey_jinja_at_operator(parser, "**"), keyword = false;
    if (parser->token.kind == JINJA_TOKEN_NAME) {
        SPEY_TRY(spey_jinja_parser_look(parser));
        keyword = spey_jinja_token_is(&parser->ahead, JINJA_TOKEN_OPERATOR, "=");
    }
    uint8_t forbidden = star                   ? STAR | STAR_STAR
                        : star_star || keyword ? STAR_STAR
                                               : KEYWORD | STAR | STAR_STAR;
    if (*seen & forbidden)
        return spey_jinja_fail_token(&parser->token, "arguments are in a wrong order");
    *seen |= star ? STAR : star_star ? STAR_STAR : keyword ? KEYWORD : 0;
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_ARGUMENT, &parser->token, keyword, &node));
    node->op = star ? '*' : star_star ? 'd' : 0;
    if (keyword) SPEY_TRY(spey_jinja_parser_next(parser));
    if (keyword || star || star_star) SPEY_TRY(spey_jinja_parser_next(parser));
    *out = node;
    return spey_jinja_parse_expression(parser, &node->a);
}

static spey_status parse_arguments(jinja_parser *parser, jinja_node **out)
{
    uint8_t seen = 0;
    bool first = true;
    *out = NULL;
    SPEY_TRY(spey_jinja_expect_operator(parser, "("));
    while (!spey_jinja_at_operator(parser, ")")) {
        if (!first) {
            SPEY_TRY(spey_jinja_expect_operator(parser, ","));
            if (spey_jinja_at_operator(parser, ")")) break;
        }
        first = false;
        SPEY_TRY(parse_argument(parser, &seen, out));
        out = &(*out)->next;
    }
    return spey_jinja_expect_operator(parser, ")");
}

static spey_status parse_call(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(two_children(parser, JINJA_NODE_CALL, &parser->token, *out, NULL, out));
    return parse_arguments(parser, &(*out)->b);
}

static bool at_slice_end(const jinja_parser *parser)
{
    return spey_jinja_at_operator(parser, ":") || spey_jinja_at_operator(parser, "]") ||
           spey_jinja_at_operator(parser, ",");
}

static spey_status parse_subscribed(jinja_parser *parser, jinja_node **out)
{
    jinja_token token = parser->token;
    jinja_node *start = NULL, *node;
    bool found;
    if (!spey_jinja_at_operator(parser, ":")) {
        SPEY_TRY(spey_jinja_parse_expression(parser, &start));
        if (!spey_jinja_at_operator(parser, ":")) {
            *out = start;
            return SPEY_OK;
        }
    }
    SPEY_TRY(spey_jinja_parser_next(parser));
    SPEY_TRY(two_children(parser, JINJA_NODE_SLICE, &token, start, NULL, &node));
    if (!at_slice_end(parser)) SPEY_TRY(spey_jinja_parse_expression(parser, &node->b));
    SPEY_TRY(spey_jinja_skip_operator(parser, ":", &found));
    if (found && !at_slice_end(parser)) SPEY_TRY(spey_jinja_parse_expression(parser, &node->c));
    *out = node;
    return SPEY_OK;
}

static spey_status parse_brackets(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(two_children(parser, JINJA_NODE_ITEM, &parser->token, *out, NULL, out));
    jinja_node **link = &(*out)->b;
    size_t n = 0;
    SPEY_TRY(spey_jinja_parser_next(parser));
    while (!spey_jinja_at_operator(parser, "]")) {
        if (n++) SPEY_TRY(spey_jinja_expect_operator(parser, ","));
        SPEY_TRY(parse_subscribed(parser, link));
        link = &(*link)->next;
    }
    if (n != 1) {
        jinja_node *items = (*out)->b;
        SPEY_TRY(two_children(parser, JINJA_NODE_TUPLE, &parser->token, items, NULL, &(*out)->b));
    }
    return spey_jinja_parser_next(parser);
}

static spey_status parse_dot(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(spey_jinja_parser_next(parser));
    jinja_node *node;
    if (parser->token.kind == JINJA_TOKEN_NAME) {
        SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_ATTRIBUTE, &parser->token, true, &node));
    } else if (parser->token.kind == JINJA_TOKEN_INT) {
        SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_ITEM, &parser->token, false, &node));
        SPEY_TRY(spey_jinja_parse_primary(parser, &node->b));
        node->a = *out;
        *out = node;
        return SPEY_OK;
    } else {
        return spey_jinja_unexpected(parser, "a name or number after the dot");
    }
    node->a = *out;
    *out = node;
    return spey_jinja_parser_next(parser);
}

static spey_status parse_postfix(jinja_parser *parser, jinja_node **out)
{
    for (;;) {
        if (spey_jinja_at_operator(parser, "."))
            SPEY_TRY(parse_dot(parser, out));
        else if (spey_jinja_at_operator(parser, "["))
            SPEY_TRY(parse_brackets(parser, out));
        else if (spey_jinja_at_operator(parser, "("))
            SPEY_TRY(parse_call(parser, out));
        else
            return SPEY_OK;
    }
}

/* ---- filters and tests ---- */

/* Jinja refuses unknown names when it compiles, except in branches that may never run. */
static spey_status resolve(jinja_parser *parser, const char *what, jinja_node *node)
{
    node->builtin = node->kind == JINJA_NODE_FILTER ? spey_jinja_find_filter(node->text, node->len)
                                                    : spey_jinja_find_test(node->text, node->len);
    if (node->builtin || parser->conditional) return SPEY_OK;
    return SPEY_FAIL(SPEY_UNSUPPORTED, "chat template line %u, column %u: no %s named '%.100s'",
                     node->line, node->column, what, node->text);
}

spey_status spey_jinja_parse_filters(jinja_parser *parser, bool inline_start, jinja_node **out)
{
    while (inline_start || spey_jinja_at_operator(parser, "|")) {
        if (!inline_start) SPEY_TRY(spey_jinja_parser_next(parser));
        inline_start = false;
        if (parser->token.kind != JINJA_TOKEN_NAME)
            return spey_jinja_unexpected(parser, "the name of a filter");
        jinja_node *node;
        SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_FILTER, &parser->token, true, &node));
        node->a = *out;
        SPEY_TRY(resolve(parser, "filter", node));
        SPEY_TRY(spey_jinja_parser_next(parser));
        if (spey_jinja_at_operator(parser, "(")) SPEY_TRY(parse_arguments(parser, &node->b));
        *out = node;
    }
    return SPEY_OK;
}

static bool at_test_argument(const jinja_parser *parser)
{
    switch (parser->token.kind) {
    case JINJA_TOKEN_STRING:
    case JINJA_TOKEN_INT:
    case JINJA_TOKEN_FLOAT: return true;
    case JINJA_TOKEN_OPERATOR:
        return spey_jinja_at_operator(parser, "[") || spey_jinja_at_operator(parser, "{");
    case JINJA_TOKEN_NAME:
        return !spey_jinja_at_name(parser, "else") && !spey_jinja_at_name(parser, "or") &&
               !spey_jinja_at_name(parser, "and");
    default: return false;
    }
}

/* `in` is the one keyword that names a test; `x is in y` then reads as a test with an argument. */
static spey_status parse_test(jinja_parser *parser, jinja_node **out)
{
    jinja_token is = parser->token;
    bool negated;
    jinja_node *node;
    SPEY_TRY(spey_jinja_parser_next(parser));
    SPEY_TRY(spey_jinja_skip_name(parser, "not", &negated));
    if (parser->token.kind != JINJA_TOKEN_NAME)
        return spey_jinja_unexpected(parser, "the name of a test");
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_TEST, &parser->token, true, &node));
    node->a = *out;
    SPEY_TRY(resolve(parser, "test", node));
    SPEY_TRY(spey_jinja_parser_next(parser));
    if (spey_jinja_at_operator(parser, "(")) {
        SPEY_TRY(parse_arguments(parser, &node->b));
    } else if (at_test_argument(parser)) {
        if (spey_jinja_at_name(parser, "is"))
            return spey_jinja_fail_token(&parser->token, "tests with `is` cannot be chained");
        SPEY_TRY(two_children(parser, JINJA_NODE_ARGUMENT, &parser->token, NULL, NULL, &node->b));
        SPEY_TRY(spey_jinja_parse_primary(parser, &node->b->a));
        SPEY_TRY(parse_postfix(parser, &node->b->a));
    }
    *out = node;
    return negated ? two_children(parser, JINJA_NODE_NOT, &is, node, NULL, out) : SPEY_OK;
}

static spey_status parse_filter_expr(jinja_parser *parser, jinja_node **out)
{
    for (;;) {
        if (spey_jinja_at_operator(parser, "|"))
            SPEY_TRY(spey_jinja_parse_filters(parser, false, out));
        else if (spey_jinja_at_name(parser, "is"))
            SPEY_TRY(parse_test(parser, out));
        else if (spey_jinja_at_operator(parser, "("))
            SPEY_TRY(parse_call(parser, out));
        else
            return SPEY_OK;
    }
}

static spey_status parse_unary(jinja_parser *parser, bool with_filter, jinja_node **out)
{
    bool minus = spey_jinja_at_operator(parser, "-"), plus = spey_jinja_at_operator(parser, "+");
    if (minus || plus) {
        SPEY_TRY(spey_jinja_parser_enter(parser));
        SPEY_TRY(two_children(parser, minus ? JINJA_NODE_NEGATE : JINJA_NODE_POSITIVE,
                              &parser->token, NULL, NULL, out));
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(parse_unary(parser, false, &(*out)->a));
        parser->depth--;
    } else {
        SPEY_TRY(spey_jinja_parse_primary(parser, out));
    }
    SPEY_TRY(parse_postfix(parser, out));
    return with_filter ? parse_filter_expr(parser, out) : SPEY_OK;
}

/* ---- literals and names ---- */

static spey_status parse_constant(jinja_parser *parser, jinja_value value, jinja_node **out)
{
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_CONST, &parser->token, false, out));
    (*out)->constant = value;
    return spey_jinja_parser_next(parser);
}

static spey_status parse_name(jinja_parser *parser, jinja_node **out)
{
    if (spey_jinja_at_name(parser, "true") || spey_jinja_at_name(parser, "True"))
        return parse_constant(parser, spey_jinja_bool(true), out);
    if (spey_jinja_at_name(parser, "false") || spey_jinja_at_name(parser, "False"))
        return parse_constant(parser, spey_jinja_bool(false), out);
    if (spey_jinja_at_name(parser, "none") || spey_jinja_at_name(parser, "None"))
        return parse_constant(parser, spey_jinja_none(), out);
    if (spey_jinja_at_name(parser, "caller")) parser->uses |= JINJA_USES_CALLER;
    if (spey_jinja_at_name(parser, "varargs")) parser->uses |= JINJA_USES_VARARGS;
    if (spey_jinja_at_name(parser, "kwargs")) parser->uses |= JINJA_USES_KWARGS;
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_NAME, &parser->token, true, out));
    return spey_jinja_parser_next(parser);
}

/* Adjacent strings are one. */
static spey_status parse_string(jinja_parser *parser, jinja_node **out)
{
    jinja_value value = spey_jinja_text(parser->token.text, parser->token.len);
    SPEY_TRY(parse_constant(parser, value, out));
    if (parser->token.kind != JINJA_TOKEN_STRING) return SPEY_OK;
    spey_strbuf buf = { 0 };
    spey_strbuf_append(&buf, value.text, value.len);
    spey_status status = SPEY_OK;
    while (!status && parser->token.kind == JINJA_TOKEN_STRING) {
        spey_strbuf_append(&buf, parser->token.text, parser->token.len);
        status = spey_jinja_parser_next(parser);
    }
    if (!status) status = spey_strbuf_status(&buf);
    char *copy = status ? NULL : spey_arena_strndup(parser->arena, buf.data, buf.len);
    if (!status && !copy) status = SPEY_NOMEM;
    (*out)->constant = spey_jinja_text(copy, buf.len);
    spey_strbuf_deinit(&buf);
    return status;
}

static spey_status parse_list(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_LIST, &parser->token, false, out));
    jinja_node **link = &(*out)->a;
    SPEY_TRY(spey_jinja_parser_next(parser));
    while (!spey_jinja_at_operator(parser, "]")) {
        if (*link) {
            link = &(*link)->next;
            SPEY_TRY(spey_jinja_expect_operator(parser, ","));
            if (spey_jinja_at_operator(parser, "]")) break;
        }
        SPEY_TRY(spey_jinja_parse_expression(parser, link));
    }
    return spey_jinja_parser_next(parser);
}

static spey_status parse_dict(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_DICT, &parser->token, false, out));
    jinja_node **link = &(*out)->a;
    SPEY_TRY(spey_jinja_parser_next(parser));
    while (!spey_jinja_at_operator(parser, "}")) {
        if (*link) {
            link = &(*link)->next;
            SPEY_TRY(spey_jinja_expect_operator(parser, ","));
            if (spey_jinja_at_operator(parser, "}")) break;
        }
        SPEY_TRY(two_children(parser, JINJA_NODE_PAIR, &parser->token, NULL, NULL, link));
        SPEY_TRY(spey_jinja_parse_expression(parser, &(*link)->a));
        SPEY_TRY(spey_jinja_expect_operator(parser, ":"));
        SPEY_TRY(spey_jinja_parse_expression(parser, &(*link)->b));
    }
    return spey_jinja_parser_next(parser);
}

static spey_status parse_parentheses(jinja_parser *parser, jinja_node **out)
{
    jinja_token open = parser->token;
    SPEY_TRY(spey_jinja_parser_next(parser));
    if (spey_jinja_at_operator(parser, ")"))
        SPEY_TRY(two_children(parser, JINJA_NODE_TUPLE, &open, NULL, NULL, out));
    else
        SPEY_TRY(spey_jinja_parse_tuple(parser, true, out));
    return spey_jinja_expect_operator(parser, ")");
}

spey_status spey_jinja_parse_primary(jinja_parser *parser, jinja_node **out)
{
    switch (parser->token.kind) {
    case JINJA_TOKEN_NAME: return parse_name(parser, out);
    case JINJA_TOKEN_STRING: return parse_string(parser, out);
    case JINJA_TOKEN_INT: return parse_constant(parser, spey_jinja_int(parser->token.integer), out);
    case JINJA_TOKEN_FLOAT:
        return parse_constant(parser, spey_jinja_float(parser->token.real), out);
    default: break;
    }
    if (spey_jinja_at_operator(parser, "(")) return parse_parentheses(parser, out);
    if (spey_jinja_at_operator(parser, "[")) return parse_list(parser, out);
    if (spey_jinja_at_operator(parser, "{")) return parse_dict(parser, out);
    return spey_jinja_unexpected(parser, "an expression");
}

static bool at_tuple_end(const jinja_parser *parser)
{
    return parser->token.kind == JINJA_TOKEN_VARIABLE_END ||
           parser->token.kind == JINJA_TOKEN_BLOCK_END || spey_jinja_at_operator(parser, ")") ||
           spey_jinja_at_name(parser, "in") || spey_jinja_at_name(parser, "recursive");
}

/* After its first element: the rest of a tuple, if a comma follows. */
static spey_status finish_tuple(jinja_parser *parser,
                                spey_status (*parse)(jinja_parser *parser, jinja_node **out),
                                jinja_node **out)
{
    if (!spey_jinja_at_operator(parser, ",")) return SPEY_OK;
    SPEY_TRY(two_children(parser, JINJA_NODE_TUPLE, &parser->token, *out, NULL, out));
    jinja_node *last = (*out)->a;
    while (spey_jinja_at_operator(parser, ",")) {
        SPEY_TRY(spey_jinja_parser_next(parser));
        if (at_tuple_end(parser)) break;
        SPEY_TRY(parse(parser, &last->next));
        last = last->next;
    }
    return SPEY_OK;
}

spey_status spey_jinja_parse_tuple(jinja_parser *parser, bool condition, jinja_node **out)
{
    spey_status (*parse)(jinja_parser *, jinja_node **) =
        condition ? spey_jinja_parse_expression : parse_or;
    SPEY_TRY(parse(parser, out));
    return finish_tuple(parser, parse, out);
}

/* ---- targets of assignments ---- */

static spey_status parse_attribute_target(jinja_parser *parser, jinja_node **out)
{
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_NAMESPACE_TARGET, &parser->token, true, out));
    SPEY_TRY(spey_jinja_parser_next(parser));
    SPEY_TRY(spey_jinja_parser_next(parser)); /* the dot, seen by look() */
    if (parser->token.kind != JINJA_TOKEN_NAME)
        return spey_jinja_unexpected(parser, "a name after the dot");
    SPEY_TRY(spey_jinja_node_new(parser, JINJA_NODE_NAME, &parser->token, true, &(*out)->a));
    return spey_jinja_parser_next(parser);
}

static spey_status parse_one_target(jinja_parser *parser, bool attribute, jinja_node **out)
{
    bool found;
    if (spey_jinja_at_operator(parser, "(")) {
        SPEY_TRY(spey_jinja_parser_enter(parser));
        SPEY_TRY(spey_jinja_parser_next(parser));
        SPEY_TRY(spey_jinja_parse_target(parser, attribute, out));
        SPEY_TRY(spey_jinja_skip_operator(parser, ")", &found));
        if (!found) return spey_jinja_unexpected(parser, "')'");
        parser->depth--;
        return SPEY_OK;
    }
    if (parser->token.kind != JINJA_TOKEN_NAME)
        return spey_jinja_unexpected(parser, "a name to assign to");
    SPEY_TRY(spey_jinja_parser_look(parser));
    if (attribute && spey_jinja_token_is(&parser->ahead, JINJA_TOKEN_OPERATOR, "."))
        return parse_attribute_target(parser, out);
    jinja_token name = parser->token;
    SPEY_TRY(spey_jinja_parse_primary(parser, out));
    if ((*out)->kind == JINJA_NODE_NAME) return SPEY_OK;
    return spey_jinja_fail_token(&name, "cannot assign to a constant");
}

static spey_status parse_plain_target(jinja_parser *parser, jinja_node **out)
{
    return parse_one_target(parser, false, out);
}

static spey_status parse_any_target(jinja_parser *parser, jinja_node **out)
{
    return parse_one_target(parser, true, out);
}

spey_status spey_jinja_parse_target(jinja_parser *parser, bool attribute, jinja_node **out)
{
    SPEY_TRY(parse_one_target(parser, attribute, out));
    return finish_tuple(parser, attribute ? parse_any_target : parse_plain_target, out);
}
