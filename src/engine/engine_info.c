#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "engine/engine_format.h"

static const double number_max = 1e9; /* of the sampling parameters */

/* %.17g always reads back as the same double; JSON has no infinities, and parsing refuses them. */
static void put_number(spey_strbuf *out, const char *key, double value)
{
    spey_strbuf_printf(out, ",\n \"%s\": %.17g", key, value);
}

static void put_text(spey_strbuf *out, const char *key, const char *value)
{
    spey_strbuf_printf(out, "\"%s\": ", key);
    spey_json_quote(out, value, strlen(value));
}

static void put_ids(spey_strbuf *out, const char *key, const int32_t *ids, int32_t n)
{
    spey_strbuf_printf(out, ",\n \"%s\": [", key);
    for (int i = 0; i < n; i++)
        spey_strbuf_printf(out, "%s%" PRId32, i ? ", " : "", ids[i]);
    spey_strbuf_putc(out, ']');
}

spey_status spey_model_info_write(const spey_model_info *info, spey_strbuf *out)
{
    SPEY_ASSERT(info->n_eos >= 0 && info->n_eos <= SPEY_EOS_IDS_MAX);
    spey_strbuf_puts(out, "{");
    put_text(out, "arch", info->arch);
    spey_strbuf_puts(out, ",\n ");
    put_text(out, "name", info->name);
    spey_strbuf_puts(out, ",\n ");
    put_text(out, "dtype", spey_dtype_name(info->dtype));
    spey_strbuf_puts(out, ",\n ");
    put_text(out, "kv_dtype", info->kv_dtype);
    const struct {
        const char *key;
        int64_t value;
    } integers[] = {
        { "vocab_size", info->vocab_size },
        { "hidden_size", info->hidden_size },
        { "n_layers", info->n_layers },
        { "context_length", info->context_length },
        { "n_parameters", (int64_t)info->n_parameters },
        { "bos_id", info->bos_id },
        { "pad_id", info->pad_id },
        { "decoder_start_id", info->decoder_start_id },
        { "forced_bos_id", info->forced_bos_id },
        { "top_k", info->top_k },
        { "forced_eos_id", info->forced_eos_id },
        { "no_repeat_ngram", info->no_repeat_ngram },
        { "min_length", info->min_length },
        { "min_new_tokens", info->min_new_tokens },
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        spey_strbuf_printf(out, ",\n \"%s\": %" PRId64, integers[i].key, integers[i].value);
    put_ids(out, "eos_ids", info->eos_ids, info->n_eos);
    put_ids(out, "suppress_ids", info->suppress.ids, info->suppress.n);
    put_ids(out, "begin_suppress_ids", info->begin_suppress.ids, info->begin_suppress.n);
    put_ids(out, "bad_words", info->bad_words.ids, info->bad_words.n);
    spey_strbuf_printf(out, ",\n \"exact\": %s,\n \"do_sample\": %s",
                       info->exact ? "true" : "false", info->do_sample ? "true" : "false");
    put_number(out, "temperature", info->temperature);
    put_number(out, "top_p", info->top_p);
    put_number(out, "min_p", info->min_p);
    put_number(out, "typical_p", info->typical_p);
    put_number(out, "repetition_penalty", info->repetition_penalty);
    spey_strbuf_puts(out, "}\n");
    return spey_strbuf_status(out);
}

static spey_status parse_text(const char *where, const json_t *root, const char *key, char *out,
                              size_t out_bytes)
{
    const char *text;
    SPEY_TRY(spey_json_string(root, where, key, "", &text));
    size_t len = strlen(text);
    if (len >= out_bytes)
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is %zu bytes long, at most %zu expected", where,
                         key, len, out_bytes - 1);
    memcpy(out, text, len + 1);
    return SPEY_OK;
}

static spey_status parse_id(const char *where, const json_t *root, const char *key, int32_t *out)
{
    int64_t id;
    SPEY_TRY(spey_json_int(root, where, key, -1, INT32_MAX, -1, &id));
    *out = (int32_t)id;
    return SPEY_OK;
}

/* A list of at most n_max ids, each at least `min`. */
static spey_status parse_ids(const char *where, const json_t *ids, const char *key, int32_t min,
                             int32_t n_max, int32_t *out, int32_t *n)
{
    if (!json_is_array(ids) || json_array_size(ids) > (size_t)n_max)
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is not a list of at most %d ids", where, key,
                         n_max);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < min ||
            json_integer_value(id) > INT32_MAX)
            return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" holds what is not a token id", where, key);
        out[(*n)++] = (int32_t)json_integer_value(id);
    }
    return SPEY_OK;
}

/* A missing list is empty: engines were written before there were these. */
static spey_status parse_info_ids(const char *where, const json_t *root, const char *key,
                                  int32_t min, spey_info_ids *out)
{
    const json_t *ids = json_object_get(root, key);
    return ids ? parse_ids(where, ids, key, min, SPEY_INFO_IDS_MAX, out->ids, &out->n) : SPEY_OK;
}

/* What else generate() would do. */
static spey_status parse_rules(const char *where, const json_t *root, spey_model_info *info)
{
    SPEY_TRY(parse_id(where, root, "forced_eos_id", &info->forced_eos_id));
    SPEY_TRY(spey_json_int(root, where, "no_repeat_ngram", 0, 1024, 0, &info->no_repeat_ngram));
    SPEY_TRY(spey_json_int(root, where, "min_length", 0, SPEY_POSITIONS_MAX, 0, &info->min_length));
    SPEY_TRY(spey_json_int(root, where, "min_new_tokens", 0, SPEY_POSITIONS_MAX, 0,
                           &info->min_new_tokens));
    SPEY_TRY(parse_info_ids(where, root, "suppress_ids", 0, &info->suppress));
    SPEY_TRY(parse_info_ids(where, root, "begin_suppress_ids", 0, &info->begin_suppress));
    return parse_info_ids(where, root, "bad_words", -1, &info->bad_words);
}

static spey_status parse_info(const char *where, const json_t *root, spey_model_info *info)
{
    if (!json_is_object(root)) return SPEY_FAIL(SPEY_FORMAT, "%s: is not a JSON object", where);
    SPEY_TRY(parse_text(where, root, "arch", info->arch, sizeof info->arch));
    SPEY_TRY(parse_text(where, root, "name", info->name, sizeof info->name));
    const char *dtype;
    SPEY_TRY(spey_json_string(root, where, "dtype", "", &dtype));
    if (!spey_dtype_from_name(dtype, strlen(dtype), &info->dtype))
        return SPEY_FAIL(SPEY_FORMAT, "%s: unknown dtype \"%.32s\"", where, dtype);
    SPEY_TRY(parse_text(where, root, "kv_dtype", info->kv_dtype, sizeof info->kv_dtype));
    const struct {
        const char *key;
        int64_t *value;
        int64_t min, max;
    } integers[] = {
        { "vocab_size", &info->vocab_size, 1, SPEY_VOCAB_MAX },
        { "hidden_size", &info->hidden_size, 1, SPEY_HIDDEN_MAX },
        { "n_layers", &info->n_layers, 0, SPEY_LAYERS_MAX },
        { "context_length", &info->context_length, 1, SPEY_POSITIONS_MAX },
        { "top_k", &info->top_k, 0, SPEY_VOCAB_MAX },
    };
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        SPEY_TRY(spey_json_int(root, where, integers[i].key, integers[i].min, integers[i].max,
                               INT64_MIN, integers[i].value));
    int64_t n_parameters;
    SPEY_TRY(spey_json_int(root, where, "n_parameters", 0, INT64_MAX, INT64_MIN, &n_parameters));
    info->n_parameters = (uint64_t)n_parameters;
    SPEY_TRY(parse_id(where, root, "bos_id", &info->bos_id));
    SPEY_TRY(parse_id(where, root, "pad_id", &info->pad_id));
    SPEY_TRY(parse_id(where, root, "decoder_start_id", &info->decoder_start_id));
    SPEY_TRY(parse_id(where, root, "forced_bos_id", &info->forced_bos_id));
    SPEY_TRY(parse_ids(where, json_object_get(root, "eos_ids"), "eos_ids", 0, SPEY_EOS_IDS_MAX,
                       info->eos_ids, &info->n_eos));
    SPEY_TRY(parse_rules(where, root, info));
    SPEY_TRY(spey_json_bool(root, where, "exact", false, &info->exact));
    SPEY_TRY(spey_json_bool(root, where, "do_sample", false, &info->do_sample));
    const struct {
        const char *key;
        double *value;
        double max;
    } numbers[] = {
        { "temperature", &info->temperature, number_max },
        { "top_p", &info->top_p, 1 },
        { "min_p", &info->min_p, 1 },
        { "typical_p", &info->typical_p, 1 },
        { "repetition_penalty", &info->repetition_penalty, number_max },
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        SPEY_TRY(spey_json_number(root, where, numbers[i].key, 0, numbers[i].max, (double)NAN,
                                  numbers[i].value));
    return SPEY_OK;
}

spey_status spey_model_info_parse(const char *where, const char *text, size_t n,
                                  spey_model_info *out)
{
    json_t *root;
    SPEY_TRY(spey_json_parse(where, text, n, &root));
    spey_model_info info = { 0 };
    spey_status status = parse_info(where, root, &info);
    json_decref(root);
    if (!status) *out = info;
    return status;
}
