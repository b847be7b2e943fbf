/* What a guide may match, as expressions over bytes: what the readers of regexes, grammars and JSON schemas build, and what
 * guide_automaton.h compiles. Characters are UTF-8.
 *
 * The builder's failure is sticky: after one, functions return an expression that matches nothing and do nothing, so that a
 * reader checks `status` at its end. Expressions live in the builder's arena; one may be used in several places. */
#ifndef SPEY_TEXT_GUIDE_EXPR_H
#define SPEY_TEXT_GUIDE_EXPR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"

typedef enum spey_guide_expr_kind {
    SPEY_GUIDE_BYTES,   /* one byte of a set */
    SPEY_GUIDE_LITERAL, /* these bytes in order; none: the empty text */
    SPEY_GUIDE_SEQ,     /* children in order */
    SPEY_GUIDE_ALT,     /* one of the children; none: nothing matches */
    SPEY_GUIDE_REPEAT,  /* child[0] `min` to `max` times */
    SPEY_GUIDE_RULE,    /* what the rule `rule` matches */
} spey_guide_expr_kind;

enum { SPEY_GUIDE_UNBOUNDED = -1 };

struct spey_guide_class;

typedef struct spey_guide_expr {
    spey_guide_expr_kind kind;
    const struct spey_guide_class *chars; /* NULL, or: one character of these */
    uint64_t set[4];
    const char *text;
    size_t n; /* bytes of text, or children */
    const struct spey_guide_expr **children;
    int32_t min, max; /* max SPEY_GUIDE_UNBOUNDED: as often as it likes */
    int32_t rule;
} spey_guide_expr;

typedef struct spey_guide_rule {
    const char *name;            /* for messages */
    const spey_guide_expr *body; /* NULL: declared, not defined */
} spey_guide_rule;

typedef struct spey_guide_range {
    uint32_t first, last;
} spey_guide_range;

/* A set of characters. Zero-initialise; ranges are sorted and apart after normalize. */
typedef struct spey_guide_class {
    spey_guide_range *ranges;
    size_t n, cap;
} spey_guide_class;

/* Large sets of characters, each once: those that repeat, then others. */
enum { SPEY_GUIDE_LARGE_MAX = 4 };
typedef struct spey_guide_classes {
    const spey_guide_class *sets[SPEY_GUIDE_LARGE_MAX];
    int32_t n;
} spey_guide_classes;

/* Initialise with spey_guide_builder_init. Rule 0 is what the whole output must match. */
typedef struct spey_guide_builder {
    spey_arena arena;
    spey_guide_rule *rules;
    int32_t n_rules, rules_cap;
    int32_t n_exprs;
    spey_guide_classes repeated, large; /* the first of each */
    spey_status status;
} spey_guide_builder;

void spey_guide_builder_init(spey_guide_builder *b);
void spey_guide_builder_deinit(spey_guide_builder *b);
/* Make `status` (whose text is set) the builder's failure, if it is the first; returns the expression of nothing. */
const spey_guide_expr *spey_guide_fail(spey_guide_builder *b, spey_status status);

/* A growing list of children. */
typedef struct spey_guide_list {
    const spey_guide_expr **items;
    size_t n, cap;
} spey_guide_list;
void spey_guide_list_push(spey_guide_builder *b, spey_guide_list *list,
                          const spey_guide_expr *expr);

const spey_guide_expr *spey_guide_empty(void);
const spey_guide_expr *spey_guide_literal(spey_guide_builder *b, const char *text, size_t n);
const spey_guide_expr *spey_guide_text(spey_guide_builder *b, const char *text);
const spey_guide_expr *spey_guide_seq(spey_guide_builder *b, spey_guide_list list);
const spey_guide_expr *spey_guide_alt(spey_guide_builder *b, spey_guide_list list);
const spey_guide_expr *spey_guide_seq2(spey_guide_builder *b, const spey_guide_expr *first,
                                       const spey_guide_expr *second);
const spey_guide_expr *spey_guide_alt2(spey_guide_builder *b, const spey_guide_expr *first,
                                       const spey_guide_expr *second);
const spey_guide_expr *spey_guide_repeat(spey_guide_builder *b, const spey_guide_expr *child,
                                         int32_t min, int32_t max);
const spey_guide_expr *spey_guide_optional(spey_guide_builder *b, const spey_guide_expr *child);

/* A new rule without a body; -1 after a failure. `name` is copied. */
int32_t spey_guide_rule_declare(spey_guide_builder *b, const char *name, size_t n);
void spey_guide_rule_define(spey_guide_builder *b, int32_t rule, const spey_guide_expr *body);
const spey_guide_expr *spey_guide_rule_ref(spey_guide_builder *b, int32_t rule);

/* ---- characters ---- */

void spey_guide_class_add(spey_guide_builder *b, spey_guide_class *set, uint32_t first,
                          uint32_t last);
void spey_guide_class_normalize(spey_guide_class *set);
/* All characters but these. Surrogates are no characters and in no set. */
spey_guide_class spey_guide_class_invert(spey_guide_builder *b, spey_guide_class *set);
spey_guide_class spey_guide_class_intersect(spey_guide_builder *b, spey_guide_class *a,
                                            spey_guide_class *c);
bool spey_guide_class_has(const spey_guide_class *set, uint32_t c);

/* Characters whose n bytes lie each between those of `from` and `to`, whatever the others are. */
typedef struct spey_guide_bytes {
    unsigned char from[4], to[4];
    int n;
} spey_guide_bytes;
typedef void (*spey_guide_bytes_fn)(void *user, const spey_guide_bytes *bytes);
/* Cut a normalized set into such parts. */
void spey_guide_class_split(const spey_guide_class *set, spey_guide_bytes_fn each, void *user);

/* One character of the set, as UTF-8. */
const spey_guide_expr *spey_guide_class_expr(spey_guide_builder *b, spey_guide_class *set);

#endif
