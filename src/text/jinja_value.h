/* Values of the template language and the state of one rendering.
 *
 * Values are small and passed by copy; what they point to lives in the rendering's arena, in the template's
 * arena or in the caller's JSON, all of which outlive the rendering. Lists, tuples and dicts never change
 * once a template can see them; only namespaces, loops and generators do. Strings are UTF-8.
 *
 * One thread per rendering. Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_VALUE_H
#define SPEY_TEXT_JINJA_VALUE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/status.h"
#include "base/strbuf.h"

typedef enum jinja_kind {
    JINJA_MISSING, /* no value at all: an argument that was not given */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_DICT,
    JINJA_VIEW,      /* dict.keys(), .values(), .items() */
    JINJA_RANGE,     /* a list that prints as range(…) */
    JINJA_GENERATOR, /* what map, select, … give: can be walked once, has no length */
    JINJA_NAMESPACE,
    JINJA_LOOP,
    JINJA_MACRO,
    JINJA_FUNCTION, /* global function */
    JINJA_METHOD,   /* method of a value, bound to it */
    JINJA_JOINER,
    JINJA_CYCLER,
} jinja_kind;

/* Why a value is undefined; decides the message when it is used. */
typedef enum jinja_why {
    JINJA_WHY_NAME,      /* a variable: text is its name */
    JINJA_WHY_ATTRIBUTE, /* of a value of kind `owner`: text is its name */
    JINJA_WHY_ELEMENT,   /* of a value of kind `owner` */
    JINJA_WHY_UNSAFE,    /* an attribute the sandbox hides */
    JINJA_WHY_TEXT,      /* text says it */
} jinja_why;

/* What a VIEW shows. */
typedef enum jinja_view { JINJA_VIEW_KEYS, JINJA_VIEW_VALUES, JINJA_VIEW_ITEMS } jinja_view;

typedef struct jinja_list jinja_list;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_loop jinja_loop;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_method jinja_method;
typedef struct jinja_builtin jinja_builtin;
typedef struct jinja_scope jinja_scope;
typedef struct jinja_node jinja_node;

typedef struct jinja_value {
    jinja_kind kind;
    uint8_t why;   /* UNDEFINED: jinja_why; VIEW: jinja_view */
    uint8_t owner; /* UNDEFINED: jinja_kind of the value that lacks it */
    union {
        bool boolean;
        int64_t integer;
        double real;
        const char *text;             /* STRING, UNDEFINED; `len` bytes */
        jinja_list *list;             /* LIST TUPLE VIEW RANGE GENERATOR CYCLER JOINER */
        jinja_dict *dict;             /* DICT NAMESPACE */
        jinja_loop *loop;             /* LOOP */
        jinja_macro *macro;           /* MACRO */
        jinja_method *method;         /* METHOD */
        const jinja_builtin *builtin; /* FUNCTION */
    };
    size_t len;
} jinja_value;

struct jinja_list {
    size_t n, cap;
    size_t next; /* GENERATOR, CYCLER: position. JOINER: calls so far */
    jinja_value *items;
    int64_t range[3]; /* RANGE: start, stop, step */
};

struct jinja_dict {
    size_t n, cap;
    jinja_value *keys, *values; /* in order of insertion */
};

/* One `for` statement that is running. */
struct jinja_loop {
    const jinja_node *node;
    jinja_scope *outside;
    jinja_list *items;
    size_t index0;
    int depth0;
    jinja_value seen; /* loop.changed: what it was called with */
};

struct jinja_macro {
    const jinja_node *node; /* MACRO or CALL_BLOCK */
    jinja_scope *closure;
};

struct jinja_method {
    jinja_value self;
    const jinja_builtin *builtin;
};

typedef enum jinja_flow { JINJA_FLOW_NEXT, JINJA_FLOW_BREAK, JINJA_FLOW_CONTINUE } jinja_flow;

typedef struct jinja_render {
    spey_arena arena;
    size_t arena_bytes;
    spey_status alloc_status; /* why the last spey_jinja_alloc gave NULL */
    uint64_t work;            /* units used; see spey_jinja_work */
    int depth;                /* of nested evaluation */
    const jinja_node *at;     /* position for error messages */
    jinja_scope *scope;
    spey_strbuf *out;
    jinja_flow flow;
    jinja_value captured;  /* what the filter of a block is applied to */
    bool message_is_final; /* the error text is the template's own (raise_exception) */
} jinja_render;

enum {
    JINJA_STEP = 8, /* work of one statement; an expression node counts 1 */
    JINJA_BYTES_PER_WORK = 64,
    JINJA_ITEMS_PER_WORK = 8,
};

/* ---- resources ---- */

/* Zeroed memory for the rest of the rendering, or NULL: then return spey_jinja_no_memory(). */
void *spey_jinja_alloc(jinja_render *render, size_t n, size_t item_bytes);
static inline spey_status spey_jinja_no_memory(const jinja_render *render)
{
    return render->alloc_status == SPEY_LIMIT ? SPEY_LIMIT : SPEY_NOMEM;
}
/* Count work done; SPEY_LIMIT when there was too much. */
spey_status spey_jinja_work(jinja_render *render, size_t units);
/* Around recursion on values or nodes. */
spey_status spey_jinja_enter(jinja_render *render);
void spey_jinja_leave(jinja_render *render);
/* The text of `buf` becomes a string value when `status` is OK; `buf` is released in any case. */
spey_status spey_jinja_take_text(jinja_render *render, spey_status status, spey_strbuf *buf,
                                 jinja_value *out);
/* A buffer that cannot outgrow the output limit. */
spey_strbuf spey_jinja_buffer(void);

/* ---- making values ---- */

jinja_value spey_jinja_none(void);
jinja_value spey_jinja_bool(bool b);
jinja_value spey_jinja_int(int64_t i);
jinja_value spey_jinja_float(double d);
/* Keeps `text`. */
jinja_value spey_jinja_text(const char *text, size_t len);
jinja_value spey_jinja_literal(const char *text);
jinja_value spey_jinja_undefined(jinja_why why, jinja_kind owner, const char *text, size_t len);
jinja_value spey_jinja_of_list(jinja_kind kind, jinja_list *list);
spey_status spey_jinja_copy_text(jinja_render *render, const char *text, size_t len,
                                 jinja_value *out);
/* Keeps the strings of `json`. */
spey_status spey_jinja_from_json(jinja_render *render, const json_t *json, jinja_value *out);

spey_status spey_jinja_list_new(jinja_render *render, size_t cap, jinja_list **out);
spey_status spey_jinja_list_push(jinja_render *render, jinja_list *list, jinja_value value);
spey_status spey_jinja_dict_new(jinja_render *render, size_t cap, jinja_dict **out);
/* Insert or replace. */
spey_status spey_jinja_dict_put(jinja_render *render, jinja_dict *dict, jinja_value key,
                                jinja_value value);
/* Insert without looking: the key is known to be new. */
spey_status spey_jinja_dict_add(jinja_render *render, jinja_dict *dict, jinja_value key,
                                jinja_value value);
/* *out is the value or NULL. */
spey_status spey_jinja_dict_find(jinja_render *render, const jinja_dict *dict, jinja_value key,
                                 jinja_value **out);
jinja_value *spey_jinja_dict_find_text(const jinja_dict *dict, const char *key, size_t len);

/* ---- asking values ---- */

bool spey_jinja_is_text(jinja_value v, const char *text);
bool spey_jinja_truth(jinja_value v);
/* Python's name of the type, e.g. "str". */
const char *spey_jinja_type(jinja_value v);
/* BOOL, INT or FLOAT as a double. */
bool spey_jinja_number(jinja_value v, double *out);
/* BOOL or INT. */
bool spey_jinja_whole(jinja_value v, int64_t *out);
/* Python's ==. */
spey_status spey_jinja_equal(jinja_render *render, jinja_value a, jinja_value b, bool *out);
/* Python's <, as -1, 0, 1; values that have no order are an error that names `op`. */
spey_status spey_jinja_order(jinja_render *render, const char *op, jinja_value a, jinja_value b,
                             int *out);
/* a in b. */
spey_status spey_jinja_contains(jinja_render *render, jinja_value a, jinja_value b, bool *out);
/* Number of items or characters; *has is false for what has no len(). */
spey_status spey_jinja_length(jinja_render *render, jinja_value v, bool *has, size_t *out);
bool spey_jinja_is_iterable(jinja_value v);
/* The items of any iterable, in a list that must not be changed; a generator is used up. */
spey_status spey_jinja_iterate(jinja_render *render, jinja_value v, jinja_list **out);

/* Fail with SPEY_INVALID because an undefined value was used. */
spey_status spey_jinja_fail_undefined(jinja_value v);

#endif
