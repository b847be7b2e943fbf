/* Syntax tree of a template and its parser. Nodes live in the template's arena and never change after
 * parsing. Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_NODE_H
#define SPEY_TEXT_JINJA_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "text/jinja_value.h"

/* The children each kind has; "list" means linked by `next`. */
typedef enum jinja_node_kind {
    /* expressions */
    JINJA_NODE_CONST,     /* constant */
    JINJA_NODE_NAME,      /* text */
    JINJA_NODE_LIST,      /* a: list of items */
    JINJA_NODE_TUPLE,     /* a: list of items; as a target: of targets */
    JINJA_NODE_DICT,      /* a: list of PAIR */
    JINJA_NODE_PAIR,      /* a: key, b: value */
    JINJA_NODE_ATTRIBUTE, /* a: object, text */
    JINJA_NODE_ITEM,      /* a: object, b: index or SLICE */
    JINJA_NODE_SLICE,     /* a: start, b: stop, c: step, each may be NULL */
    JINJA_NODE_NEGATE,    /* a */
    JINJA_NODE_POSITIVE,  /* a */
    JINJA_NODE_BINARY,    /* op, a, b */
    JINJA_NODE_CONCAT,    /* a: list of operands of ~ */
    JINJA_NODE_NOT,       /* a */
    JINJA_NODE_AND,       /* a, b */
    JINJA_NODE_OR,        /* a, b */
    JINJA_NODE_COMPARE,   /* a: first operand, b: list of COMPARAND */
    JINJA_NODE_COMPARAND, /* op, a */
    JINJA_NODE_CHOICE,    /* a: condition, b: then, c: else or NULL */
    JINJA_NODE_CALL,      /* a: callee, b: list of ARGUMENT */
    JINJA_NODE_FILTER, /* a: input, or NULL for the captured block; b: list of ARGUMENT; text, builtin */
    JINJA_NODE_TEST,     /* a: input, b: list of ARGUMENT; text, builtin */
    JINJA_NODE_ARGUMENT, /* a: value, text: keyword or NULL; op: 0, '*' or 'd' for ** */
    /* statements */
    JINJA_NODE_TEXT,   /* text */
    JINJA_NODE_OUTPUT, /* a */
    JINJA_NODE_IF,     /* a: condition or NULL for else, b: body list, c: next branch */
    JINJA_NODE_FOR, /* a: target, b: iterable, c: body list, d: else list, e: condition; flag: recursive */
    JINJA_NODE_SET,              /* a: target, b: value */
    JINJA_NODE_SET_BLOCK,        /* a: target, b: filters or NULL, c: body list */
    JINJA_NODE_NAMESPACE_TARGET, /* text: namespace, a: NAME of the attribute */
    JINJA_NODE_MACRO,            /* text: name, a: list of PARAMETER, c: body list; uses */
    JINJA_NODE_PARAMETER,        /* text, a: default or NULL */
    JINJA_NODE_CALL_BLOCK,   /* a: list of PARAMETER, b: CALL, c: body list; text: "caller"; uses */
    JINJA_NODE_FILTER_BLOCK, /* b: filters, c: body list */
    JINJA_NODE_WITH,         /* a: list of PAIR (target, value), c: body list */
    JINJA_NODE_SCOPED,       /* c: body list (generation blocks) */
    JINJA_NODE_BREAK,
    JINJA_NODE_CONTINUE,
} jinja_node_kind;

typedef enum jinja_op {
    JINJA_OP_ADD,
    JINJA_OP_SUB,
    JINJA_OP_MUL,
    JINJA_OP_DIV,
    JINJA_OP_FLOOR_DIV,
    JINJA_OP_MOD,
    JINJA_OP_POW,
    JINJA_OP_EQ,
    JINJA_OP_NE,
    JINJA_OP_LT,
    JINJA_OP_LE,
    JINJA_OP_GT,
    JINJA_OP_GE,
    JINJA_OP_IN,
    JINJA_OP_NOT_IN,
} jinja_op;

/* Special variables a macro's body mentions. */
enum { JINJA_USES_CALLER = 1, JINJA_USES_VARARGS = 2, JINJA_USES_KWARGS = 4 };

struct jinja_node {
    jinja_node_kind kind;
    uint32_t line, column; /* from 1 */
    uint8_t op;
    bool flag;
    uint8_t uses;
    jinja_node *next;
    jinja_node *a, *b, *c, *d, *e;
    const char *text; /* with a final 0 */
    size_t len;
    jinja_value constant;
    const jinja_builtin *builtin; /* NULL: unknown name, an error when it runs */
};

/* Parse `source` (n bytes of valid UTF-8) into a list of statements in `arena`. Nesting deeper than
 * SPEY_TEMPLATE_NESTING_MAX is SPEY_LIMIT; syntax errors are SPEY_FORMAT with line and column. */
spey_status spey_jinja_parse(spey_arena *arena, const char *source, size_t n, jinja_node **out);

#endif
