/* Text for the template language: UTF-8, Python's character classes, str(), repr() and json.dumps.
 * Internal to src/text. */
#ifndef SPEY_TEXT_JINJA_TEXT_H
#define SPEY_TEXT_JINJA_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"
#include "text/jinja_value.h"

/* ---- UTF-8; all text is valid ---- */

bool spey_jinja_utf8_is_valid(const char *text, size_t n);
/* Decode the character at `text`; *size is its bytes. */
uint32_t spey_jinja_utf8_decode(const char *text, size_t *size);
size_t spey_jinja_utf8_count(const char *text, size_t n);
/* Byte offset of character number `index`, at most n. */
size_t spey_jinja_utf8_offset(const char *text, size_t n, size_t index);
/* Byte offset of the character that ends at byte `end` > 0. */
size_t spey_jinja_utf8_before(const char *text, size_t end);

/* Python's str.isspace of one character. */
bool spey_jinja_is_space(uint32_t code);
/* Bytes of white space at the start, and length without white space at the end. */
size_t spey_jinja_skip_space(const char *text, size_t n);
size_t spey_jinja_trim_end(const char *text, size_t n);

typedef enum jinja_case { JINJA_UPPER, JINJA_LOWER, JINJA_TITLE } jinja_case;
/* Append one character in the case wanted. */
void spey_jinja_put_case(spey_strbuf *out, uint32_t code, jinja_case wanted);
void spey_jinja_put_cased(spey_strbuf *out, const char *text, size_t n, jinja_case wanted);
bool spey_jinja_has_case(uint32_t code);

/* ---- values as text ---- */

/* Append str(v) or repr(v). */
spey_status spey_jinja_put_str(jinja_render *render, jinja_value v, spey_strbuf *out);
spey_status spey_jinja_put_repr(jinja_render *render, jinja_value v, spey_strbuf *out);
/* str(v) as a string value; strings stay as they are. */
spey_status spey_jinja_to_str(jinja_render *render, jinja_value v, jinja_value *out);
/* As Python spells a float. */
void spey_jinja_put_float(spey_strbuf *out, double d);

typedef struct jinja_json_style {
    bool ensure_ascii, sort_keys;
    bool multi_line;            /* with an indent */
    jinja_value indent;         /* string to repeat */
    jinja_value item_separator; /* strings */
    jinja_value key_separator;
} jinja_json_style;

/* Append json.dumps(v). */
spey_status spey_jinja_put_json(jinja_render *render, jinja_value v, const jinja_json_style *style,
                                spey_strbuf *out);

#endif
