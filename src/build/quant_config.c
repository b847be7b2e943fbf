#include "build/quant_config.h"

#include <string.h>

static spey_status fail_format(const char *where, const char *key, const char *found,
                               const char *expected)
{
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: %s is \"%.64s\", expected %s", where, key, found,
                     expected);
}

/* Of every group: {"weights": {"num_bits": 8, "type": "float"}}. */
static spey_status check_compressed_tensors(const char *where, const json_t *config)
{
    const json_t *group;
    const char *name, *format, *type;
    SPEY_TRY(spey_json_string(config, where, "format", "float-quantized", &format));
    if (strcmp(format, "float-quantized") != 0 && strcmp(format, "naive-quantized") != 0)
        return fail_format(where, "the format of compressed-tensors", format, "float-quantized");
    json_object_foreach((json_t *)(uintptr_t)json_object_get(config, "config_groups"), name, group)
    {
        const json_t *weights = json_object_get(group, "weights");
        int64_t bits;
        SPEY_TRY(spey_json_int(weights, where, "num_bits", 1, 64, 8, &bits));
        SPEY_TRY(spey_json_string(weights, where, "type", "float", &type));
        if (bits != 8 || strcmp(type, "float") != 0)
            return SPEY_FAIL(SPEY_UNSUPPORTED,
                             "%s: %.64s has weights of %lld bits (%.32s), expected 8 (float)",
                             where, name, (long long)bits, type);
    }
    return SPEY_OK;
}

/* "quant_algo" beside the method, or one level down as in hf_quant_config.json. */
static spey_status check_modelopt(const char *where, const json_t *config)
{
    const char *algorithm;
    const json_t *inner = json_object_get(config, "quantization");
    SPEY_TRY(spey_json_string(inner ? inner : config, where, "quant_algo", "", &algorithm));
    if (!strcmp(algorithm, "FP8") || !strcmp(algorithm, "FP8_PER_CHANNEL_PER_TOKEN"))
        return SPEY_OK;
    return fail_format(where, "quant_algo of modelopt", algorithm,
                       "FP8 or FP8_PER_CHANNEL_PER_TOKEN");
}

static spey_status check_fp8(const char *where, const json_t *config)
{
    const char *format;
    SPEY_TRY(spey_json_string(config, where, "fmt", "e4m3", &format));
    if (strcmp(format, "e4m3") != 0) return fail_format(where, "fmt of fp8", format, "e4m3");
    return SPEY_OK;
}

static spey_status check_nothing(const char *where, const json_t *config)
{
    (void)where;
    (void)config;
    return SPEY_OK;
}

/* "kv_cache_scheme" of compressed-tensors, "kv_cache_quant_algo" of ModelOpt, or newer ModelOpt's own scheme. Others than 8-bit
 * floats are left alone: then the cache is as everybody's. */
static spey_status read_cache(const char *where, const json_t *config, bool *fp8)
{
    const char *algorithm, *type;
    int64_t bits;
    const json_t *inner = json_object_get(config, "quantization");
    const json_t *scheme = json_object_get(config, "kv_cache_scheme");
    SPEY_TRY(
        spey_json_string(inner ? inner : config, where, "kv_cache_quant_algo", "", &algorithm));
    if (!strcmp(algorithm, "FP8")) *fp8 = true;
    if (!scheme || json_is_null(scheme)) return SPEY_OK;
    SPEY_TRY(spey_json_int(scheme, where, "num_bits", 1, 64, 8, &bits));
    SPEY_TRY(spey_json_string(scheme, where, "type", "float", &type));
    if (bits == 8 && !strcmp(type, "float")) *fp8 = true;
    return SPEY_OK;
}

spey_status spey_quant_config_check(const char *where, const json_t *config, bool *fp8_cache)
{
    static const struct {
        const char *name;
        spey_status (*check)(const char *where, const json_t *config);
    } methods[] = { { "compressed-tensors", check_compressed_tensors },
                    { "modelopt", check_modelopt },
                    { "fp8", check_fp8 },
                    { "fbgemm_fp8", check_nothing } };
    const json_t *producer = json_object_get(config, "producer");
    const char *method, *made_by;
    if (!json_is_object(config))
        return SPEY_FAIL(SPEY_FORMAT, "%s: what says how it is quantized is not an object", where);
    SPEY_TRY(spey_json_string(producer, where, "name", "", &made_by));
    SPEY_TRY(spey_json_string(config, where, "quant_method", made_by, &method));
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(method, methods[i].name)) {
            SPEY_TRY(methods[i].check(where, config));
            return read_cache(where, config, fp8_cache);
        }
    return SPEY_FAIL(SPEY_UNSUPPORTED,
                     "%s: the checkpoint is quantized by \"%.64s\"; expected compressed-tensors, "
                     "modelopt, fp8 or fbgemm_fp8 with 8-bit floats, or no quantization",
                     where, method);
}
