#include "cli/prompt_line.h"

#include <stdlib.h>
#include <string.h>

#include "base/edit_distance.h"
#include "base/limits.h"
#include "cli/prompt.h"
#include "cli/sampling_flags.h"
#include "cli/table_file.h"

/* ---- numbers ---- */

typedef struct line_field {
    const char *name;
    enum { FIELD_INT, FIELD_LONG, FIELD_UNSIGNED, FIELD_NUMBER, FIELD_BOOL } kind;
    size_t offset;
} line_field;

#define SAMPLING(name, kind)                       \
    {                                              \
#name, kind, offsetof(spey_sampling, name) \
    }
#define REQUEST(name, kind, field)                        \
    {                                                     \
        name, kind, offsetof(spey_request_options, field) \
    }

static const line_field sampling_fields[] = {
    SAMPLING(max_tokens, FIELD_INT),
    SAMPLING(min_tokens, FIELD_INT),
    SAMPLING(temperature, FIELD_NUMBER),
    SAMPLING(top_k, FIELD_INT),
    SAMPLING(top_p, FIELD_NUMBER),
    SAMPLING(min_p, FIELD_NUMBER),
    SAMPLING(typical_p, FIELD_NUMBER),
    SAMPLING(repetition_penalty, FIELD_NUMBER),
    SAMPLING(presence_penalty, FIELD_NUMBER),
    SAMPLING(frequency_penalty, FIELD_NUMBER),
    SAMPLING(no_repeat_ngram, FIELD_INT),
    SAMPLING(seed, FIELD_UNSIGNED),
    SAMPLING(ignore_eos, FIELD_BOOL),
    SAMPLING(logprobs, FIELD_INT),
    SAMPLING(prompt_logprobs, FIELD_INT),
    SAMPLING(n, FIELD_INT),
    SAMPLING(best_of, FIELD_INT),
    SAMPLING(beams, FIELD_INT),
    SAMPLING(beam_groups, FIELD_INT),
    SAMPLING(diversity_penalty, FIELD_NUMBER),
    SAMPLING(length_penalty, FIELD_NUMBER),
    { "forced_eos", FIELD_INT, offsetof(spey_sampling, forced_eos_id) },
};

static const line_field request_fields[] = {
    REQUEST("priority", FIELD_INT, priority),
    REQUEST("tenant", FIELD_UNSIGNED, tenant),
    REQUEST("salt", FIELD_UNSIGNED, cache_salt),
    REQUEST("deadline_ms", FIELD_LONG, deadline_ms),
};

static const line_field range_fields[] = {
    { "begin", FIELD_LONG, offsetof(spey_retention_range, begin) },
    { "end", FIELD_LONG, offsetof(spey_retention_range, end) },
    { "priority", FIELD_INT, offsetof(spey_retention_range, priority) },
    { "duration_ms", FIELD_LONG, offsetof(spey_retention_range, duration_ms) },
};

static const char *const other_keys[] = {
    "prompt",      "ids",       "messages", "decoder_ids",  "prompt_table",   "stop",
    "stop_ids",    "bad_words", "bad_ids",  "suppress_ids", "logit_bias",     "begin_suppress_ids",
    "json_schema", "regex",     "grammar",  "retention",    "early_stopping",
};

enum {
    N_SAMPLING = sizeof sampling_fields / sizeof *sampling_fields,
    N_REQUEST = sizeof request_fields / sizeof *request_fields,
    N_RANGE = sizeof range_fields / sizeof *range_fields,
    N_OTHER = sizeof other_keys / sizeof *other_keys,
};

/* Ranges beyond the types' are the context's to check. */
static spey_status read_field(const json_t *line, const char *at, const line_field *field,
                              void *target)
{
    int64_t i;
    switch (field->kind) {
    case FIELD_INT:
        SPEY_TRY(
            spey_json_int(line, at, field->name, INT32_MIN, INT32_MAX, *(int32_t *)target, &i));
        *(int32_t *)target = (int32_t)i;
        return SPEY_OK;
    case FIELD_LONG:
        return spey_json_int(line, at, field->name, INT64_MIN, INT64_MAX, *(int64_t *)target,
                             target);
    case FIELD_UNSIGNED:
        SPEY_TRY(
            spey_json_int(line, at, field->name, 0, INT64_MAX, (int64_t) * (uint64_t *)target, &i));
        *(uint64_t *)target = (uint64_t)i;
        return SPEY_OK;
    case FIELD_NUMBER:
        return spey_json_number(line, at, field->name, -1e30, 1e30, *(double *)target, target);
    case FIELD_BOOL: break;
    }
    return spey_json_bool(line, at, field->name, *(bool *)target, target);
}

static spey_status read_fields(const json_t *line, const char *at, const line_field *fields,
                               size_t n, void *target)
{
    for (size_t i = 0; i < n; i++)
        SPEY_TRY(read_field(line, at, &fields[i], (char *)target + fields[i].offset));
    return SPEY_OK;
}

/* ---- keys ---- */

static const char *key_at(size_t i)
{
    if (i < N_SAMPLING) return sampling_fields[i].name;
    if (i < N_SAMPLING + N_REQUEST) return request_fields[i - N_SAMPLING].name;
    return other_keys[i - N_SAMPLING - N_REQUEST];
}

static spey_status check_key(const char *at, const char *key)
{
    const char *nearest = key_at(0);
    for (size_t i = 0; i < N_SAMPLING + N_REQUEST + N_OTHER; i++) {
        if (!strcmp(key, key_at(i))) return SPEY_OK;
        if (spey_edit_distance(key, key_at(i)) < spey_edit_distance(key, nearest))
            nearest = key_at(i);
    }
    return SPEY_FAIL(SPEY_INVALID, "%s: unknown key \"%.60s\", the nearest is \"%s\"", at, key,
                     nearest);
}

static spey_status check_keys(const char *at, const json_t *line)
{
    const char *key;
    json_t *value;
    if (!json_is_object(line)) return SPEY_FAIL(SPEY_INVALID, "%s: expected an object", at);
    json_object_foreach((json_t *)(uintptr_t)line, key, value) SPEY_TRY(check_key(at, key));
    return SPEY_OK;
}

/* A key's value; NULL when it is missing or null. */
static const json_t *find(const json_t *line, const char *key)
{
    const json_t *value = json_object_get(line, key);
    return json_is_null(value) ? NULL : value;
}

/* ---- lists ---- */

static spey_status read_ids(const char *at, const char *key, const json_t *array, spey_arena *arena,
                            spey_id_list *out)
{
    size_t n = json_array_size(array);
    int32_t *ids = spey_arena_array(arena, n, sizeof *ids);
    if (!ids) return SPEY_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(array, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > INT32_MAX)
            return SPEY_FAIL(SPEY_INVALID, "%s: %s[%zu] is no token id", at, key, i);
        ids[i] = (int32_t)value;
    }
    if (!json_is_array(array))
        return SPEY_FAIL(SPEY_INVALID, "%s: %s is no array of token ids", at, key);
    *out = (spey_id_list){ ids, n };
    return SPEY_OK;
}

/* Kept as it is when the key is not there. */
static spey_status read_id_list(const json_t *line, const char *at, const char *key,
                                spey_arena *arena, spey_id_list *list)
{
    const json_t *array = find(line, key);
    return array ? read_ids(at, key, array, arena, list) : SPEY_OK;
}

static spey_status read_id_lists(const json_t *line, const char *at, spey_prompt_line *out)
{
    spey_sampling *s = &out->sampling;
    spey_request_options *o = &out->options;
    spey_id_list stop = { s->stop_ids, s->n_stop_ids },
                 suppress = { s->suppress_ids, s->n_suppress_ids },
                 begin = { s->begin_suppress_ids, s->n_begin_suppress_ids },
                 decoder = { o->decoder_ids, o->n_decoder_ids };
    SPEY_TRY(read_id_list(line, at, "stop_ids", &out->arena, &stop));
    SPEY_TRY(read_id_list(line, at, "suppress_ids", &out->arena, &suppress));
    SPEY_TRY(read_id_list(line, at, "begin_suppress_ids", &out->arena, &begin));
    SPEY_TRY(read_id_list(line, at, "decoder_ids", &out->arena, &decoder));
    s->stop_ids = stop.ids, s->n_stop_ids = stop.n;
    s->suppress_ids = suppress.ids, s->n_suppress_ids = suppress.n;
    s->begin_suppress_ids = begin.ids, s->n_begin_suppress_ids = begin.n;
    o->decoder_ids = decoder.ids, o->n_decoder_ids = decoder.n;
    return SPEY_OK;
}

/* An array of strings, borrowed from the line. */
static spey_status read_texts(const json_t *array, const char *at, const char *key, size_t n_max,
                              spey_arena *arena, const char ***out)
{
    size_t n = json_array_size(array);
    if (!json_is_array(array) || n > n_max)
        return SPEY_FAIL(SPEY_INVALID, "%s: %s is no array of at most %zu strings", at, key, n_max);
    *out = spey_arena_array(arena, n, sizeof **out);
    if (!*out) return SPEY_NOMEM;
    for (size_t i = 0; i < n; i++) {
        (*out)[i] = json_string_value(json_array_get(array, i));
        if (!(*out)[i]) return SPEY_FAIL(SPEY_INVALID, "%s: %s[%zu] is no string", at, key, i);
    }
    return SPEY_OK;
}

static spey_status read_stop(const json_t *line, const char *at, spey_prompt_line *out)
{
    const json_t *stop = find(line, "stop");
    const char **texts;
    if (!stop) return SPEY_OK;
    SPEY_TRY(read_texts(stop, at, "stop", SPEY_STOP_STRINGS_MAX, &out->arena, &texts));
    out->sampling.stop = texts;
    out->sampling.n_stop = json_array_size(stop);
    return SPEY_OK;
}

static spey_status read_bad_words(const spey_prompt_lines *lines, const json_t *line,
                                  const char *at, spey_prompt_line *out)
{
    const json_t *words = find(line, "bad_words"), *ids = find(line, "bad_ids");
    if (!words && !ids) return SPEY_OK;
    const char **texts = NULL;
    if (words)
        SPEY_TRY(read_texts(words, at, "bad_words", SPEY_BAD_WORDS_MAX, &out->arena, &texts));
    if (ids && (!json_is_array(ids) || json_array_size(ids) > SPEY_BAD_WORDS_MAX))
        return SPEY_FAIL(SPEY_INVALID, "%s: bad_ids is no array of at most %d arrays", at,
                         SPEY_BAD_WORDS_MAX);
    size_t n_words = json_array_size(words), n_ids = json_array_size(ids), n = 0;
    spey_id_list *lists = spey_arena_array(&out->arena, 2 * n_words + n_ids, sizeof *lists);
    if (!lists) return SPEY_NOMEM;
    for (size_t i = 0; i < n_words; i++)
        SPEY_TRY_CTX(spey_bad_word_add(lines->engine, texts[i], &out->arena, lists, &n),
                     "%s: bad_words[%zu]", at, i);
    for (size_t i = 0; i < n_ids; i++)
        SPEY_TRY(read_ids(at, "bad_ids", json_array_get(ids, i), &out->arena, &lists[n++]));
    out->sampling.bad_words = lists;
    out->sampling.n_bad_words = n;
    return SPEY_OK;
}

static spey_status read_bias(const json_t *line, const char *at, spey_prompt_line *out)
{
    const json_t *object = find(line, "logit_bias");
    const char *key;
    json_t *value;
    if (!object) return SPEY_OK;
    if (!json_is_object(object))
        return SPEY_FAIL(SPEY_INVALID, "%s: logit_bias is no object {\"ID\": number}", at);
    spey_logit_bias *biases =
        spey_arena_array(&out->arena, json_object_size(object), sizeof *biases);
    size_t n = 0;
    if (!biases) return SPEY_NOMEM;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (end == key || *end || id < 0 || id > INT32_MAX || !json_is_number(value))
            return SPEY_FAIL(SPEY_INVALID, "%s: logit_bias has \"%.40s\", expected \"ID\": number",
                             at, key);
        biases[n++] = (spey_logit_bias){ (int32_t)id, (float)json_number_value(value) };
    }
    out->sampling.logit_bias = biases;
    out->sampling.n_logit_bias = n;
    return SPEY_OK;
}

static spey_status read_retention(const json_t *line, const char *at, spey_prompt_line *out)
{
    const json_t *array = find(line, "retention");
    size_t n = json_array_size(array);
    if (!array) return SPEY_OK;
    if (!json_is_array(array) || n > SPEY_RETENTION_RANGES_MAX)
        return SPEY_FAIL(SPEY_INVALID, "%s: retention is no array of at most %d ranges", at,
                         SPEY_RETENTION_RANGES_MAX);
    spey_retention_range *ranges = spey_arena_array(&out->arena, n, sizeof *ranges);
    if (!ranges) return SPEY_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const json_t *range = json_array_get(array, i);
        size_t known = 0;
        for (size_t k = 0; k < N_RANGE; k++)
            known += json_object_get(range, range_fields[k].name) != NULL;
        if (!json_is_object(range) || known != json_object_size(range) || !find(range, "priority"))
            return SPEY_FAIL(SPEY_INVALID,
                             "%s: retention[%zu] is no object of priority, and begin, end, "
                             "duration_ms",
                             at, i);
        SPEY_TRY(read_fields(range, at, range_fields, N_RANGE, &ranges[i]));
    }
    out->options.retention = ranges;
    out->options.n_retention = n;
    return SPEY_OK;
}

/* ---- what the output must be ---- */

static spey_status read_schema(const json_t *schema, spey_arena *arena, const char **out)
{
    *out = json_string_value(schema);
    if (*out) return SPEY_OK;
    spey_strbuf text = { 0 };
    spey_status status = spey_json_write(schema, JSON_COMPACT | JSON_ENCODE_ANY, &text);
    if (!status) *out = spey_arena_strndup(arena, text.data, text.len);
    if (!status && !*out) status = SPEY_NOMEM;
    spey_strbuf_deinit(&text);
    return status;
}

static spey_status read_guide(const json_t *line, const char *at, spey_prompt_line *out)
{
    const json_t *schema = find(line, "json_schema"), *regex = find(line, "regex"),
                 *grammar = find(line, "grammar");
    spey_sampling *s = &out->sampling;
    if ((schema != NULL) + (regex != NULL) + (grammar != NULL) > 1)
        return SPEY_FAIL(SPEY_INVALID, "%s: only one of json_schema, regex and grammar", at);
    if (schema) {
        s->guide = SPEY_GUIDE_JSON_SCHEMA;
        return read_schema(schema, &out->arena, &s->guide_text);
    }
    const json_t *text = regex ? regex : grammar;
    if (!text) return SPEY_OK;
    s->guide = regex ? SPEY_GUIDE_REGEX : SPEY_GUIDE_GRAMMAR;
    s->guide_text = json_string_value(text);
    return s->guide_text
               ? SPEY_OK
               : SPEY_FAIL(SPEY_INVALID, "%s: %s is no string", at, regex ? "regex" : "grammar");
}

/* A model that suggests a temperature does not keep a line from searching. */
static spey_status read_beams(const json_t *line, const char *at, spey_sampling *s)
{
    const json_t *when = find(line, "early_stopping");
    if (find(line, "beams") && s->beams > 1 && !find(line, "temperature")) s->temperature = 0;
    if (!when) return SPEY_OK;
    if (json_is_true(when))
        s->early_stopping = SPEY_EARLY_STOPPING_ON;
    else if (json_is_false(when))
        s->early_stopping = SPEY_EARLY_STOPPING_OFF;
    else if (json_is_string(when) && !strcmp(json_string_value(when), "never"))
        s->early_stopping = SPEY_EARLY_STOPPING_NEVER;
    else
        return SPEY_FAIL(SPEY_INVALID, "%s: early_stopping is neither true, false nor \"never\"",
                         at);
    return SPEY_OK;
}

/* ---- the prompt ---- */

static spey_status read_text(const spey_prompt_lines *lines, const json_t *prompt,
                             spey_prompt_line *out)
{
    const char *text = json_string_value(prompt);
    size_t bytes = json_string_length(prompt), *n = &out->options.n_prompt;
    if (lines->raw || !spey_engine_has_chat_template(lines->engine))
        return spey_prompt_encode(lines->engine, text, bytes, true, &out->ids, n);
    json_t *messages = json_array();
    if (!messages) return SPEY_FAIL(SPEY_NOMEM, "out of memory for the conversation");
    spey_status status = spey_prompt_add_message(messages, "user", text, bytes);
    if (!status) status = spey_prompt_encode_chat(lines->engine, messages, &out->ids, n);
    json_decref(messages);
    return status;
}

/* A table's rows come before a prompt that is text; ids say where they are. */
static spey_status read_prompt(const spey_prompt_lines *lines, const json_t *line, const char *at,
                               spey_prompt_line *out)
{
    const json_t *prompt = find(line, "prompt"), *ids = find(line, "ids");
    const json_t *messages = find(line, "messages");
    spey_request_options *o = &out->options;
    if ((prompt != NULL) + (ids != NULL) + (messages != NULL) != 1 ||
        (prompt && !json_is_string(prompt)) || (ids && !json_is_array(ids)) ||
        (messages && !json_is_array(messages)))
        return SPEY_FAIL(
            SPEY_INVALID,
            "%s: expected one of \"prompt\" (text), \"ids\" (array) and \"messages\" (array)", at);
    if (ids) {
        spey_id_list list;
        SPEY_TRY(read_ids(at, "ids", ids, &out->arena, &list));
        o->prompt = list.ids;
        o->n_prompt = list.n;
        return SPEY_OK;
    }
    if (prompt)
        SPEY_TRY(read_text(lines, prompt, out));
    else
        SPEY_TRY(spey_prompt_encode_chat(lines->engine, messages, &out->ids, &o->n_prompt));
    if (o->prompt_table)
        SPEY_TRY(
            spey_prompt_begin_with_table(lines->engine, o->prompt_table, &out->ids, &o->n_prompt));
    o->prompt = out->ids;
    return SPEY_OK;
}

static spey_status read_table(const spey_prompt_lines *lines, const json_t *line, const char *at,
                              spey_prompt_line *out)
{
    const json_t *path = find(line, "prompt_table");
    if (!path) return SPEY_OK;
    if (!json_is_string(path))
        return SPEY_FAIL(SPEY_INVALID, "%s: prompt_table is no path of a file", at);
    return lines->open_table(lines->user, json_string_value(path), &out->options.prompt_table);
}

spey_status spey_prompt_line_read(const spey_prompt_lines *lines, const char *at,
                                  const json_t *value, spey_prompt_line *out)
{
    *out = (spey_prompt_line){ .options = *lines->defaults,
                               .sampling = *lines->defaults->sampling,
                               .line = json_incref((json_t *)(uintptr_t)value) };
    spey_arena_init(&out->arena, SPEY_PURPOSE_GENERAL);
    SPEY_TRY(check_keys(at, value));
    SPEY_TRY(read_fields(value, at, sampling_fields, N_SAMPLING, &out->sampling));
    SPEY_TRY(read_fields(value, at, request_fields, N_REQUEST, &out->options));
    SPEY_TRY(read_stop(value, at, out));
    SPEY_TRY(read_id_lists(value, at, out));
    SPEY_TRY(read_bad_words(lines, value, at, out));
    SPEY_TRY(read_bias(value, at, out));
    SPEY_TRY(read_guide(value, at, out));
    SPEY_TRY(read_beams(value, at, &out->sampling));
    SPEY_TRY(read_retention(value, at, out));
    SPEY_TRY(read_table(lines, value, at, out));
    return read_prompt(lines, value, at, out);
}

void spey_prompt_line_deinit(spey_prompt_line *line)
{
    spey_free(line->ids);
    json_decref(line->line);
    spey_arena_deinit(&line->arena);
    *line = (spey_prompt_line){ 0 };
}
