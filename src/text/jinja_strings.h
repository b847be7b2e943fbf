/* Python's string methods, as far as filters use them too. `s` is always a string. Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_STRINGS_H
#define SPEY_TEXT_JINJA_STRINGS_H

#include "text/jinja_text.h"
#include "text/jinja_value.h"

enum { JINJA_STRIP_LEFT = 1, JINJA_STRIP_RIGHT = 2 };

/* Strip white space, or any of the characters of `chars` unless it is MISSING or NONE. */
spey_status spey_jinja_str_strip(jinja_value s, jinja_value chars, int sides, jinja_value *out);
spey_status spey_jinja_str_case(jinja_render *render, jinja_value s, jinja_case wanted,
                                jinja_value *out);
spey_status spey_jinja_str_capitalize(jinja_render *render, jinja_value s, jinja_value *out);
/* At most `count` replacements; negative: all. */
spey_status spey_jinja_str_replace(jinja_render *render, jinja_value s, jinja_value from,
                                   jinja_value to, int64_t count, jinja_value *out);
spey_status spey_jinja_str_split_lines(jinja_render *render, jinja_value s, bool keep_ends,
                                       jinja_list **out);
/* Pad to `width` characters with blanks (or `fill`); the text goes left, right or to the centre. */
spey_status spey_jinja_str_pad(jinja_render *render, jinja_value s, int64_t width, jinja_value fill,
                               char side, jinja_value *out);

#endif
