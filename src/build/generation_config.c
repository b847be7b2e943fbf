#include "build/generation_config.h"

#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "base/log.h"

static spey_status apply_eos(const char *where, const json_t *value, spey_model_info *info)
{
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    if (n > SPEY_EOS_IDS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: \"eos_token_id\" lists %zu ids, at most %d expected",
                         where, n, SPEY_EOS_IDS_MAX);
    int n_eos = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(id) || json_integer_value(id) >= SPEY_VOCAB_MAX)
            return SPEY_FAIL(SPEY_FORMAT, "%s: \"eos_token_id\" is not an id or a list of ids",
                             where);
        if (json_integer_value(id) >= 0) info->eos_ids[n_eos++] = (int32_t)json_integer_value(id);
    }
    info->n_eos = n_eos;
    return SPEY_OK;
}

/* A missing key keeps *id; -1 is how some configurations say "none". */
static spey_status apply_id(const char *where, const json_t *config, const char *key, int32_t *id)
{
    int64_t value;
    SPEY_TRY(spey_json_int(config, where, key, -1, SPEY_VOCAB_MAX - 1, *id, &value));
    *id = (int32_t)value;
    return SPEY_OK;
}

static spey_status apply_sampling(const char *where, const json_t *config, spey_model_info *info)
{
    static const double number_max = 1e6;
    SPEY_TRY(spey_json_bool(config, where, "do_sample", false, &info->do_sample));
    /* Unless told otherwise, transformers' generate() samples from the 50 best. */
    int64_t missing_top_k = info->do_sample ? 50 : 0;
    SPEY_TRY(
        spey_json_int(config, where, "top_k", -1, SPEY_VOCAB_MAX, missing_top_k, &info->top_k));
    if (info->top_k < 0) info->top_k = 0;
    SPEY_TRY(spey_json_number(config, where, "temperature", 0, number_max, 1, &info->temperature));
    SPEY_TRY(spey_json_number(config, where, "top_p", 0, 1, 1, &info->top_p));
    SPEY_TRY(spey_json_number(config, where, "min_p", 0, 1, 0, &info->min_p));
    SPEY_TRY(spey_json_number(config, where, "typical_p", 0, 1, 1, &info->typical_p));
    return spey_json_number(config, where, "repetition_penalty", 0, number_max, 1,
                            &info->repetition_penalty);
}

/* ---- what is forbidden and forced ---- */

/* One id of a list. Ids that the model has not are no choice of its anyway. */
static spey_status add_id(const char *where, const char *key, const json_t *id, int64_t vocab_size,
                          spey_info_ids *out)
{
    if (!json_is_integer(id))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" holds what is not a token id", where, key);
    json_int_t value = json_integer_value(id);
    if (value < 0 || value >= vocab_size) return SPEY_OK;
    if (out->n == SPEY_INFO_IDS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: \"%s\" has more than %d ids", where, key,
                         SPEY_INFO_IDS_MAX);
    out->ids[out->n++] = (int32_t)value;
    return SPEY_OK;
}

static spey_status apply_ids(const char *where, const json_t *config, const char *key,
                             int64_t vocab_size, spey_info_ids *out)
{
    const json_t *list = json_object_get(config, key);
    *out = (spey_info_ids){ 0 };
    if (!list || json_is_null(list)) return SPEY_OK;
    if (!json_is_array(list))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is not a list of ids", where, key);
    for (size_t i = 0; i < json_array_size(list); i++)
        SPEY_TRY(add_id(where, key, json_array_get(list, i), vocab_size, out));
    return SPEY_OK;
}

/* One sequence, with a -1 behind it; one with an id that the model has not cannot come up. */
static spey_status add_word(const char *where, const json_t *word, int64_t vocab_size,
                            spey_info_ids *out)
{
    static const char key[] = "bad_words_ids";
    int32_t before = out->n;
    if (!json_is_array(word) || !json_array_size(word))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"%s\" is not a list of lists of ids", where, key);
    for (size_t i = 0; i < json_array_size(word); i++)
        SPEY_TRY(add_id(where, key, json_array_get(word, i), vocab_size, out));
    if (out->n - before < (int32_t)json_array_size(word)) {
        out->n = before;
        return SPEY_OK;
    }
    if (out->n == SPEY_INFO_IDS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: \"%s\" has more than %d ids", where, key,
                         SPEY_INFO_IDS_MAX);
    out->ids[out->n++] = -1;
    return SPEY_OK;
}

static spey_status apply_bad_words(const char *where, const json_t *config, spey_model_info *info)
{
    const json_t *list = json_object_get(config, "bad_words_ids");
    info->bad_words = (spey_info_ids){ 0 };
    if (!list || json_is_null(list)) return SPEY_OK;
    if (!json_is_array(list))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"bad_words_ids\" is not a list of lists of ids", where);
    for (size_t i = 0; i < json_array_size(list); i++)
        SPEY_TRY(add_word(where, json_array_get(list, i), info->vocab_size, &info->bad_words));
    return SPEY_OK;
}

/* An id; a list of one; what names a token that the model has not forces nothing. */
static spey_status apply_forced_eos(const char *where, const json_t *config, spey_model_info *info)
{
    static const char key[] = "forced_eos_token_id";
    const json_t *value = json_object_get(config, key);
    if (!value) return SPEY_OK; /* as the architecture has it */
    info->forced_eos_id = -1;
    if (json_is_null(value) || (json_is_array(value) && !json_array_size(value))) return SPEY_OK;
    if (json_is_array(value) && json_array_size(value) > 1) {
        spey_log(SPEY_LOG_WARNING, "%s: %s lists %zu ids, none is forced", where, key,
                 json_array_size(value));
        return SPEY_OK;
    }
    spey_info_ids ids = { 0 };
    SPEY_TRY(add_id(where, key, json_is_array(value) ? json_array_get(value, 0) : value,
                    info->vocab_size, &ids));
    if (ids.n) info->forced_eos_id = ids.ids[0];
    return SPEY_OK;
}

/* ---- what is no default here ---- */

typedef struct other_key {
    const char *key;
    const char *neutral; /* besides null, false and []: the number that changes nothing */
    const char *advice;
} other_key;

static const other_key other_keys[] = {
    { "num_beams", "1", "give --beams for beam search" },
    { "num_beam_groups", "1", "give --beam-groups" },
    { "diversity_penalty", "0", "give --diversity-penalty" },
    { "penalty_alpha", "0", "there is no contrastive search" },
    { "encoder_repetition_penalty", "1", "it is not supported" },
    { "encoder_no_repeat_ngram_size", "0", "it is not supported" },
    { "exponential_decay_length_penalty", "", "it is not supported" },
    { "sequence_bias", "", "give --logit-bias for single tokens" },
    { "force_words_ids", "", "give a guide: --regex, --grammar" },
    { "constraints", "", "give a guide: --regex, --grammar" },
    { "guidance_scale", "1", "it is not supported" },
    { "epsilon_cutoff", "0", "it is not supported" },
    { "eta_cutoff", "0", "it is not supported" },
    { "top_h", "1", "it is not supported" },
    { "renormalize_logits", "", "it changes the scores of beams alone, which stay as they are" },
    { "watermarking_config", "", "it is not supported" },
    { "dola_layers", "", "it is not supported" },
    { "token_healing", "", "it is not supported" },
    { "remove_invalid_values", "", "a logit that is not a number ends its request" },
    { "stop_strings", "", "give --stop" },
};

static bool is_neutral(const json_t *value, const char *neutral)
{
    if (!value || json_is_null(value) || json_is_false(value)) return true;
    if (json_is_array(value)) return json_array_size(value) == 0;
    return json_is_number(value) && *neutral && json_number_value(value) == strtod(neutral, NULL);
}

static void warn(const char *where, const json_t *config, const char *key, const char *advice)
{
    spey_strbuf text = { 0 };
    if (!spey_json_write(json_object_get(config, key), JSON_COMPACT | JSON_ENCODE_ANY, &text))
        spey_log(SPEY_LOG_WARNING, "%s: %s is %.60s, which is no default here: %s", where, key,
                 text.data, advice);
    spey_strbuf_deinit(&text);
}

static void warn_of_others(const char *where, const json_t *config, const spey_model_info *info)
{
    for (size_t i = 0; i < sizeof other_keys / sizeof *other_keys; i++) {
        const other_key *other = &other_keys[i];
        if (!is_neutral(json_object_get(config, other->key), other->neutral))
            warn(where, config, other->key, other->advice);
    }
    if (info->decoder_start_id >= 0) return;
    /* Without an encoder these count and place what is in the prompt. */
    if (!is_neutral(json_object_get(config, "min_length"), "0"))
        warn(where, config, "min_length", "give --min-tokens, which counts the output alone");
    if (!is_neutral(json_object_get(config, "forced_bos_token_id"), "-1"))
        warn(where, config, "forced_bos_token_id", "begin the prompt with it");
}

spey_status spey_generation_rules_apply(const char *where, const json_t *config,
                                        spey_model_info *info)
{
    int64_t vocab = info->vocab_size;
    SPEY_TRY(apply_forced_eos(where, config, info));
    SPEY_TRY(apply_ids(where, config, "suppress_tokens", vocab, &info->suppress));
    SPEY_TRY(apply_ids(where, config, "begin_suppress_tokens", vocab, &info->begin_suppress));
    SPEY_TRY(apply_bad_words(where, config, info));
    SPEY_TRY(
        spey_json_int(config, where, "no_repeat_ngram_size", 0, 1024, 0, &info->no_repeat_ngram));
    SPEY_TRY(spey_json_int(config, where, "min_new_tokens", 0, SPEY_POSITIONS_MAX, 0,
                           &info->min_new_tokens));
    info->min_length = 0;
    if (info->decoder_start_id >= 0)
        SPEY_TRY(spey_json_int(config, where, "min_length", 0, SPEY_POSITIONS_MAX, 0,
                               &info->min_length));
    warn_of_others(where, config, info);
    return SPEY_OK;
}

spey_status spey_generation_config_apply(const char *where, const json_t *config,
                                         spey_model_info *info)
{
    if (!json_is_object(config)) return SPEY_FAIL(SPEY_FORMAT, "%s: is not a JSON object", where);
    const json_t *eos = json_object_get(config, "eos_token_id");
    if (eos && !json_is_null(eos)) SPEY_TRY(apply_eos(where, eos, info));
    SPEY_TRY(apply_id(where, config, "bos_token_id", &info->bos_id));
    SPEY_TRY(apply_id(where, config, "pad_token_id", &info->pad_id));
    if (info->decoder_start_id >= 0) { /* there is an encoder */
        SPEY_TRY(apply_id(where, config, "decoder_start_token_id", &info->decoder_start_id));
        SPEY_TRY(apply_id(where, config, "forced_bos_token_id", &info->forced_bos_id));
    }
    SPEY_TRY(apply_sampling(where, config, info));
    /* The file replaces what an architecture's configuration says unless told. */
    info->forced_eos_id = -1;
    return spey_generation_rules_apply(where, config, info);
}
