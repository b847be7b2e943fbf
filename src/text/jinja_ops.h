/* Operators on values: arithmetic, attributes, subscripts, slices, formatting. Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_OPS_H
#define SPEY_TEXT_JINJA_OPS_H

#include "text/jinja_builtin.h"
#include "text/jinja_node.h"

/* JINJA_OP_ADD … JINJA_OP_POW. */
spey_status spey_jinja_binary(jinja_render *render, jinja_op op, jinja_value a, jinja_value b,
                              jinja_value *out);
spey_status spey_jinja_negate(jinja_render *render, jinja_value v, bool minus, jinja_value *out);
spey_status spey_jinja_compare(jinja_render *render, jinja_op op, jinja_value a, jinja_value b,
                               bool *out);
/* object.name; what is not there is undefined, not an error. `name` is kept. */
spey_status spey_jinja_attribute(jinja_render *render, jinja_value object, const char *name,
                                 size_t len, jinja_value *out);
/* object[index]; the same. */
spey_status spey_jinja_item(jinja_render *render, jinja_value object, jinja_value index,
                            jinja_value *out);
/* object[start:stop:step], NONE where nothing was written. */
spey_status spey_jinja_slice(jinja_render *render, jinja_value object, const jinja_value parts[3],
                             jinja_value *out);
/* Python's old-style formatting. `values` is a tuple or one value. */
spey_status spey_jinja_percent(jinja_render *render, jinja_value format, jinja_value values,
                               jinja_value *out);
/* str.format with {}, {0} and {name}. */
spey_status spey_jinja_format(jinja_render *render, jinja_value format, const jinja_args *args,
                              jinja_value *out);

#endif
