/* Inside the reader of JSON schemas: what its files share. */
#ifndef SPEY_TEXT_GUIDE_SCHEMA_H
#define SPEY_TEXT_GUIDE_SCHEMA_H

#include <stdbool.h>

#include "base/json.h"
#include "base/map.h"
#include "base/strbuf.h"
#include "text/guide_expr.h"

/* Bits of a set of types. */
enum {
    SPEY_SCHEMA_NULL = 1,
    SPEY_SCHEMA_BOOLEAN = 2,
    SPEY_SCHEMA_INTEGER = 4,
    SPEY_SCHEMA_REAL = 8, /* numbers that are not integers */
    SPEY_SCHEMA_NUMBER = SPEY_SCHEMA_INTEGER | SPEY_SCHEMA_REAL,
    SPEY_SCHEMA_STRING = 16,
    SPEY_SCHEMA_ARRAY = 32,
    SPEY_SCHEMA_OBJECT = 64,
    SPEY_SCHEMA_ANY = 127,
};

typedef struct spey_schema {
    spey_guide_builder *b;
    const json_t *root;
    json_t *owned;    /* array: schemas made by merging */
    spey_strbuf path; /* JSON pointer of what is being read */
    spey_map rules;   /* pointer → rule */
    struct spey_schema_pending {
        const json_t *schema;
        const char *pointer;
        int32_t rule;
    } * pending; /* schemas that are referred to and not yet read; in the arena */
    size_t n_pending, pending_cap;
    int depth;
    int64_t work;
    /* Rules that all share; -1: not yet made. */
    int32_t value_rule, char_rule, string_rule, comma_rule, colon_rule;
} spey_schema;

/* Fail with "JSON schema: POINTER: what". */
const spey_guide_expr *spey_schema_fail(spey_schema *s, spey_status status, const char *what);
/* Count work that grows faster than the schema; false, after failing, when it is too much. */
bool spey_schema_spend(spey_schema *s, size_t work);
/* Add "/key" to the path; the length before it is what to leave with. */
size_t spey_schema_enter(spey_schema *s, const char *key);
size_t spey_schema_enter_index(spey_schema *s, size_t index);
void spey_schema_leave(spey_schema *s, size_t length);

/* What a schema allows. */
const spey_guide_expr *spey_schema_read(spey_schema *s, const json_t *schema);
const spey_guide_expr *spey_schema_any_value(spey_schema *s);
/* ", " or ": " with a space or without. */
const spey_guide_expr *spey_schema_comma(spey_schema *s);
const spey_guide_expr *spey_schema_colon(spey_schema *s);

const spey_guide_expr *spey_schema_object(spey_schema *s, const json_t *schema);
const spey_guide_expr *spey_schema_array(spey_schema *s, const json_t *schema);
const spey_guide_expr *spey_schema_string(spey_schema *s, const json_t *schema);
const spey_guide_expr *spey_schema_any_string(spey_schema *s);
/* Exactly this value, written compactly. */
const spey_guide_expr *spey_schema_constant(spey_schema *s, const json_t *value);
/* A key that is none of the object's. */
const spey_guide_expr *spey_schema_other_key(spey_schema *s, const json_t *properties);
/* A number; `reals`: not only integers. */
const spey_guide_expr *spey_schema_number(spey_schema *s, const json_t *schema, bool reals);

/* A count such as minItems: `missing` when it is not there; a bad one fails. */
int32_t spey_schema_count(spey_schema *s, const json_t *schema, const char *key, int32_t missing);

/* ---- schemas as sets ---- */

/* The schema that a $ref means, NULL after a failure. */
const json_t *spey_schema_resolve(spey_schema *s, const char *reference);
/* Both at once; owned by `s`, NULL after a failure. */
const json_t *spey_schema_merge(spey_schema *s, const json_t *a, const json_t *c);
/* Types that a schema's values may have. */
unsigned spey_schema_types(spey_schema *s, const json_t *schema);
unsigned spey_schema_type_of(const json_t *value);
/* Is it certain that no value satisfies both? */
bool spey_schema_disjoint(spey_schema *s, const json_t *a, const json_t *c, int depth);

#endif
