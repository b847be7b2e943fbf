/* Everything that a template can call by name: filters, tests, methods of values, global functions.
 * Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_BUILTIN_H
#define SPEY_TEXT_JINJA_BUILTIN_H

#include <stddef.h>

#include "base/status.h"
#include "text/jinja_value.h"

typedef struct jinja_named {
    const char *name; /* with a final 0 */
    size_t len;
    jinja_value value;
} jinja_named;

typedef struct jinja_args {
    size_t n;
    const jinja_value *items;
    size_t n_named;
    const jinja_named *named;
} jinja_args;

enum { JINJA_PARAMETERS_MAX = 6 };

/* With `parameters` (names, one blank between them), `call` sees each parameter in args->items by position,
 * JINJA_MISSING where none was given; the first `required` are there. Without, it sees what was passed. */
struct jinja_builtin {
    const char *name;
    spey_status (*call)(jinja_render *render, jinja_value self, const jinja_args *args,
                        jinja_value *out); /* NULL: exists in Jinja, not here */
    const char *parameters;
    size_t required;
};

const jinja_builtin *spey_jinja_find_builtin(const jinja_builtin *table, size_t n, const char *name,
                                             size_t len);
spey_status spey_jinja_call_builtin(jinja_render *render, const jinja_builtin *builtin,
                                    jinja_value self, const jinja_args *args, jinja_value *out);
/* An optional argument: integer or true/false, or `missing`. */
spey_status spey_jinja_arg_int(const jinja_builtin *builtin, jinja_value v, int64_t missing,
                               int64_t *out);

/* ---- tables; NULL when there is none of that name ---- */

const jinja_builtin *spey_jinja_find_filter(const char *name, size_t len);
const jinja_builtin *spey_jinja_find_text_filter(const char *name, size_t len);
const jinja_builtin *spey_jinja_find_list_filter(const char *name, size_t len);
const jinja_builtin *spey_jinja_find_test(const char *name, size_t len);
const jinja_builtin *spey_jinja_find_function(const char *name, size_t len);
/* *is_unsafe: the method exists but changes its object, which the sandbox forbids. */
const jinja_builtin *spey_jinja_find_method(jinja_kind kind, const char *name, size_t len,
                                            bool *is_unsafe);
const jinja_builtin *spey_jinja_find_str_method(const char *name, size_t len);

#endif
