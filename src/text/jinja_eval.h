/* Runs a syntax tree. Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_EVAL_H
#define SPEY_TEXT_JINJA_EVAL_H

#include "text/jinja_builtin.h"
#include "text/jinja_node.h"

/* Variables of one region of a template; a name is looked up here, then in the parent. */
struct jinja_scope {
    jinja_scope *parent;
    jinja_dict *variables;
    bool is_captured; /* by a macro, which may outlive the region */
};

/* ---- scopes ---- */

spey_status spey_jinja_scope_new(jinja_render *render, jinja_scope *parent, jinja_scope **out);
/* Assign in the innermost scope; `name` is kept. */
spey_status spey_jinja_scope_set(jinja_render *render, const char *name, size_t len,
                                 jinja_value value);
/* Value of a variable or global function, or undefined. */
spey_status spey_jinja_scope_get(jinja_render *render, const char *name, size_t len,
                                 jinja_value *out);

/* ---- expressions ---- */

spey_status spey_jinja_eval(jinja_render *render, const jinja_node *node, jinja_value *out);
spey_status spey_jinja_call(jinja_render *render, jinja_value callee, const jinja_args *args,
                            jinja_value *out);
/* Arguments of a call as written; `extra` is one more named argument or NULL. */
spey_status spey_jinja_eval_args(jinja_render *render, const jinja_node *arguments,
                                 const jinja_named *extra, jinja_args *out);

/* ---- statements ---- */

spey_status spey_jinja_exec(jinja_render *render, const jinja_node *list);
spey_status spey_jinja_call_macro(jinja_render *render, const jinja_macro *macro,
                                  const jinja_args *args, jinja_value *out);
/* loop(items): the body of the recursive loop, run for `items`. */
spey_status spey_jinja_call_loop(jinja_render *render, const jinja_loop *loop, jinja_value items,
                                 jinja_value *out);

#endif
