/* JSON over jansson, with checked getters whose errors name the file and the key.
 *
 * Objects are jansson's (json_t), in malloc's memory: jansson 2.14 reads past its token buffer when an allocator of ours
 * refuses to grow it, and ours would cost 64 bytes a node. Free the root with json_decref. Numbers keep int/real apart. */
#ifndef SPEY_BASE_JSON_H
#define SPEY_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

/* Parse n bytes; `where` names the source in errors. Duplicate keys, depth beyond SPEY_JSON_DEPTH_MAX and
 * trailing text are errors.. */
spey_status spey_json_parse(const char *where, const char *text, size_t n, json_t **out);
/* Read and parse a file of at most SPEY_JSON_BYTES_MAX. */
spey_status spey_json_read(const char *path, json_t **out);

/* Integer in [min, max]. A missing or null key gives `missing` if that lies in the range, else an error. */
spey_status spey_json_int(const json_t *object, const char *where, const char *key, int64_t min,
                          int64_t max, int64_t missing, int64_t *out);
/* Finite number in [min, max]; integers are accepted. Missing as above (NAN: required). */
spey_status spey_json_number(const json_t *object, const char *where, const char *key, double min,
                             double max, double missing, double *out);
spey_status spey_json_bool(const json_t *object, const char *where, const char *key, bool missing,
                           bool *out);
/* Borrowed text; a missing key gives `missing` (NULL: missing is allowed and gives NULL). */
spey_status spey_json_string(const json_t *object, const char *where, const char *key,
                             const char *missing, const char **out);

/* Append `value` as text; `flags` are jansson's (JSON_COMPACT, JSON_INDENT(n)). */
spey_status spey_json_write(const json_t *value, size_t flags, spey_strbuf *out);

/* JSON Lines: call on_object for the value of each line that is not empty, until it fails. `at` is "WHERE:LINE". The
 * value is borrowed during the call. */
typedef spey_status (*spey_jsonl_fn)(void *user, const char *at, const json_t *value);
spey_status spey_jsonl_each(const char *where, const char *text, size_t n, spey_jsonl_fn on_value,
                            void *user);

/* Append `text` as a JSON string with quotes and escapes; invalid UTF-8 becomes U+FFFD. */
void spey_json_quote(spey_strbuf *out, const char *text, size_t n);

#endif
