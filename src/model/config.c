#include "model/config.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

/* The first of the '|'-separated keys that is there; the first key itself when none is. */
static const char *find_key(const spey_config *config, const char *keys, char key[64])
{
    char first[64] = "";
    for (const char *at = keys; *at;) {
        size_t n = strcspn(at, "|");
        SPEY_ASSERT(n < 64);
        memcpy(key, at, n);
        key[n] = 0;
        const json_t *value = json_object_get(config->json, key);
        if (value && !json_is_null(value)) return key;
        if (!first[0]) memcpy(first, key, n + 1);
        at += n + (at[n] == '|');
    }
    memcpy(key, first, sizeof first);
    return key;
}

bool spey_config_has(const spey_config *config, const char *keys)
{
    char key[64];
    const json_t *value = json_object_get(config->json, find_key(config, keys, key));
    return value && !json_is_null(value);
}

bool spey_config_mentions(const spey_config *config, const char *key)
{
    return json_object_get(config->json, key) != NULL;
}

static void keep(spey_config *config, spey_status status)
{
    if (!config->status) config->status = status;
}

int64_t spey_config_int(spey_config *config, const char *keys, int64_t min, int64_t max,
                        int64_t missing)
{
    if (config->status) return min;
    char key[64];
    int64_t out = min;
    keep(config, spey_json_int(config->json, config->where, find_key(config, keys, key), min, max,
                               missing, &out));
    return config->status ? min : out;
}

double spey_config_number(spey_config *config, const char *keys, double min, double max,
                          double missing)
{
    if (config->status) return min;
    char key[64];
    double out = min;
    keep(config, spey_json_number(config->json, config->where, find_key(config, keys, key), min,
                                  max, missing, &out));
    return config->status ? min : out;
}

bool spey_config_bool(spey_config *config, const char *keys, bool missing)
{
    if (config->status) return false;
    char key[64];
    bool out = false;
    keep(config,
         spey_json_bool(config->json, config->where, find_key(config, keys, key), missing, &out));
    return out;
}

const char *spey_config_text(spey_config *config, const char *keys, const char *missing)
{
    if (config->status) return "";
    char key[64];
    const char *out = "";
    keep(config,
         spey_json_string(config->json, config->where, find_key(config, keys, key), missing, &out));
    return config->status ? "" : out;
}

void spey_config_numbers(spey_config *config, const char *keys, double min, double max, int64_t n,
                         float *out)
{
    if (config->status) return;
    char key[64];
    const json_t *array = json_object_get(config->json, find_key(config, keys, key));
    if (!json_is_array(array) || (int64_t)json_array_size(array) != n) {
        keep(config, SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" has %zu items, expected %lld numbers",
                               config->where, key, json_array_size(array), (long long)n));
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(array, (size_t)i);
        double number = json_is_number(item) ? json_number_value(item) : (double)NAN;
        if (!(number >= min && number <= max)) {
            keep(config, SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\"[%lld] is not a number in %g…%g",
                                   config->where, key, (long long)i, min, max));
            return;
        }
        out[i] = (float)number;
    }
}

spey_config spey_config_enter(spey_config *config, const char *keys,
                              char where[SPEY_PATH_BYTES_MAX])
{
    char key[64];
    find_key(config, keys, key);
    snprintf(where, SPEY_PATH_BYTES_MAX, "%s: %s", config->where, key);
    spey_config inner = { where, json_object_get(config->json, key), config->status };
    if (json_is_null(inner.json)) inner.json = NULL;
    if (inner.json && !json_is_object(inner.json))
        keep(&inner, SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is not an object", config->where, key));
    return inner;
}

void spey_config_leave(spey_config *config, const spey_config *inner)
{
    keep(config, inner->status);
}

/* clang-format off */
static const struct { const char *name, *act; } activations[] = {
    { "silu", "silu" },              { "swish", "silu" },
    { "gelu", "gelu" },              { "gelu_python", "gelu" },
    { "gelu_new", "gelu_tanh" },     { "gelu_pytorch_tanh", "gelu_tanh" },
    { "gelu_fast", "gelu_tanh" },    { "gelu_python_tanh", "gelu_tanh" }, { "gelu_accurate", "gelu_tanh" },
    { "quick_gelu", "quick_gelu" },  { "relu", "relu" },
    { "relu2", "relu2" },            { "relu_squared", "relu2" },
    { "sigmoid", "sigmoid" },        { "tanh", "tanh" },
    { "linear", "none" },
};
/* clang-format on */

const char *spey_config_activation(spey_config *config, const char *keys, const char *missing)
{
    return spey_config_activation_named(config, keys, spey_config_text(config, keys, missing));
}

const char *spey_config_activation_named(spey_config *config, const char *keys, const char *name)
{
    if (config->status) return "none";
    for (size_t i = 0; name && i < sizeof activations / sizeof *activations; i++)
        if (strcmp(name, activations[i].name) == 0) return activations[i].act;
    char key[64], known[256] = "";
    for (size_t i = 0, n = 0; i < sizeof activations / sizeof *activations; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "",
                              activations[i].name);
    keep(config,
         SPEY_FAIL(SPEY_UNSUPPORTED, "%s: \"%s\" is \"%.64s\"; supported are %s", config->where,
                   find_key(config, keys, key), name ? name : "null", known));
    return "none";
}

void spey_config_demand(spey_config *config, bool condition, const char *format, ...)
{
    if (condition || config->status) return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    keep(config, SPEY_FAIL(SPEY_FORMAT, "%s: %s", config->where, text));
}
