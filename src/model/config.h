/* Reading config.json: every value has a range and a fallback, and the first bad one is the one error.
 *
 * A reader keeps its first failure; after it, calls return the lower end of their range, so that an architecture reads
 * all its keys in a row and asks once. Keys may list older spellings: "num_hidden_layers|n_layer"; the first that is
 * there (and not null) counts. */
#ifndef SPEY_MODEL_CONFIG_H
#define SPEY_MODEL_CONFIG_H

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"

typedef struct spey_config {
    const char *where; /* names the source in errors */
    const json_t *json;
    spey_status status; /* the first failure */
} spey_config;

/* Does the key exist with a value other than null? */
bool spey_config_has(const spey_config *config, const char *keys);
/* Is the key there at all, be it null? For keys whose absence and null mean different things. */
bool spey_config_mentions(const spey_config *config, const char *key);
/* A value `missing` outside [min, max] makes the key required. */
int64_t spey_config_int(spey_config *config, const char *keys, int64_t min, int64_t max,
                        int64_t missing);
/* `missing` of a number without which there is no model. */
#define SPEY_REQUIRED ((double)NAN)
double spey_config_number(spey_config *config, const char *keys, double min, double max,
                          double missing);
bool spey_config_bool(spey_config *config, const char *keys, bool missing);
/* Borrowed; `missing` may be NULL. After a failure "". */
const char *spey_config_text(spey_config *config, const char *keys, const char *missing);
/* An array of exactly n finite numbers in [min, max]. */
void spey_config_numbers(spey_config *config, const char *keys, double min, double max, int64_t n,
                         float *out);
/* An object inside: its reader shares nothing but the failure, which spey_config_leave brings back. `where` must have
 * room for both names. A missing key gives a reader whose json is NULL: every key is missing. */
spey_config spey_config_enter(spey_config *config, const char *keys,
                              char where[SPEY_PATH_BYTES_MAX]);
void spey_config_leave(spey_config *config, const spey_config *inner);
/* "silu", "gelu_new", … as the graph spells it. */
const char *spey_config_activation(spey_config *config, const char *keys, const char *missing);
/* The same for a name that was found inside the value of `keys`. */
const char *spey_config_activation_named(spey_config *config, const char *keys, const char *name);
/* Fail unless the condition holds: for what spans keys. */
void spey_config_demand(spey_config *config, bool condition, const char *format, ...)
    SPEY_PRINTF(3, 4);

#endif
