#include "cli/run_prompts.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/progress.h"
#include "cli/generation.h"
#include "cli/prompt.h"

typedef struct prompt_item {
    int32_t *ids;
    size_t n;
    spey_sampling sampling;
    const char *stop[SPEY_STOP_STRINGS_MAX]; /* borrowed from `line` */
    size_t n_stop;                           /* 0: those of the defaults */
    json_t *line;
    spey_generation generation;
    bool done;
} prompt_item;

typedef struct prompt_batch {
    const spey_engine *engine;
    spey_context *context;
    const spey_sampling *defaults;
    bool raw;
    prompt_item *items;
    int64_t n, room;
    int64_t n_submitted, n_printed, n_failed;
} prompt_batch;

/* ---- lines ---- */

typedef struct sampling_field {
    const char *name;
    enum { FIELD_INT, FIELD_NUMBER, FIELD_BOOL, FIELD_SEED } kind;
    size_t offset;
} sampling_field;

/* clang-format off */
static const sampling_field sampling_fields[] = {
    { "max_tokens",         FIELD_INT,    offsetof(spey_sampling, max_tokens) },
    { "min_tokens",         FIELD_INT,    offsetof(spey_sampling, min_tokens) },
    { "temperature",        FIELD_NUMBER, offsetof(spey_sampling, temperature) },
    { "top_k",              FIELD_INT,    offsetof(spey_sampling, top_k) },
    { "top_p",              FIELD_NUMBER, offsetof(spey_sampling, top_p) },
    { "min_p",              FIELD_NUMBER, offsetof(spey_sampling, min_p) },
    { "typical_p",          FIELD_NUMBER, offsetof(spey_sampling, typical_p) },
    { "repetition_penalty", FIELD_NUMBER, offsetof(spey_sampling, repetition_penalty) },
    { "presence_penalty",   FIELD_NUMBER, offsetof(spey_sampling, presence_penalty) },
    { "frequency_penalty",  FIELD_NUMBER, offsetof(spey_sampling, frequency_penalty) },
    { "no_repeat_ngram",    FIELD_INT,    offsetof(spey_sampling, no_repeat_ngram) },
    { "seed",               FIELD_SEED,   offsetof(spey_sampling, seed) },
    { "ignore_eos",         FIELD_BOOL,   offsetof(spey_sampling, ignore_eos) },
};
/* clang-format on */

/* Ranges are the sampler's to check. */
static spey_status read_field(const json_t *line, const char *at, const sampling_field *field,
                              void *target)
{
    int64_t i;
    switch (field->kind) {
    case FIELD_INT:
        SPEY_TRY(
            spey_json_int(line, at, field->name, INT32_MIN, INT32_MAX, *(int32_t *)target, &i));
        *(int32_t *)target = (int32_t)i;
        return SPEY_OK;
    case FIELD_SEED:
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

static bool is_known_key(const char *key)
{
    static const char *const others[] = { "prompt", "ids", "messages", "stop" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(key, others[i])) return true;
    for (size_t i = 0; i < sizeof sampling_fields / sizeof *sampling_fields; i++)
        if (!strcmp(key, sampling_fields[i].name)) return true;
    return false;
}

static spey_status read_stop(const json_t *line, const char *at, prompt_item *item)
{
    const json_t *stop = json_object_get(line, "stop");
    if (!stop) return SPEY_OK;
    size_t n = json_array_size(stop);
    if (!json_is_array(stop) || n > SPEY_STOP_STRINGS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "%s: stop is no array of at most %d strings", at,
                         SPEY_STOP_STRINGS_MAX);
    for (size_t i = 0; i < n; i++) {
        item->stop[i] = json_string_value(json_array_get(stop, i));
        if (!item->stop[i]) return SPEY_FAIL(SPEY_INVALID, "%s: stop[%zu] is no string", at, i);
    }
    item->n_stop = n;
    return SPEY_OK;
}

static spey_status read_ids(const json_t *array, const char *at, prompt_item *item)
{
    size_t n = json_array_size(array);
    item->ids = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, n ? n : 1);
    if (!item->ids) return SPEY_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(array, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > INT32_MAX)
            return SPEY_FAIL(SPEY_INVALID, "%s: ids[%zu] is no token id", at, i);
        item->ids[i] = (int32_t)value;
    }
    item->n = n;
    return SPEY_OK;
}

static spey_status read_text(prompt_batch *batch, const json_t *prompt, prompt_item *item)
{
    const char *text = json_string_value(prompt);
    size_t bytes = json_string_length(prompt);
    if (batch->raw || !spey_engine_has_chat_template(batch->engine))
        return spey_prompt_encode(batch->engine, text, bytes, true, &item->ids, &item->n);
    json_t *messages = json_array();
    if (!messages) return SPEY_FAIL(SPEY_NOMEM, "out of memory for the conversation");
    spey_status status = spey_prompt_add_message(messages, "user", text, bytes);
    if (!status) status = spey_prompt_encode_chat(batch->engine, messages, &item->ids, &item->n);
    json_decref(messages);
    return status;
}

static spey_status read_prompt(prompt_batch *batch, const json_t *line, const char *at,
                               prompt_item *item)
{
    const json_t *prompt = json_object_get(line, "prompt"), *ids = json_object_get(line, "ids");
    const json_t *messages = json_object_get(line, "messages");
    if (json_is_string(prompt) && !ids && !messages) return read_text(batch, prompt, item);
    if (json_is_array(ids) && !prompt && !messages) return read_ids(ids, at, item);
    if (json_is_array(messages) && !prompt && !ids)
        return spey_prompt_encode_chat(batch->engine, messages, &item->ids, &item->n);
    return SPEY_FAIL(
        SPEY_INVALID,
        "%s: expected one of \"prompt\" (text), \"ids\" (array) and \"messages\" (array)", at);
}

static spey_status read_item(prompt_batch *batch, const json_t *line, const char *at,
                             prompt_item *item)
{
    if (!json_is_object(line)) return SPEY_FAIL(SPEY_INVALID, "%s: expected an object", at);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)line, key, value)
    {
        if (!is_known_key(key))
            return SPEY_FAIL(SPEY_INVALID, "%s: unknown key \"%.60s\"", at, key);
    }
    for (size_t i = 0; i < sizeof sampling_fields / sizeof *sampling_fields; i++)
        SPEY_TRY(read_field(line, at, &sampling_fields[i],
                            (char *)&item->sampling + sampling_fields[i].offset));
    SPEY_TRY(read_stop(line, at, item));
    return read_prompt(batch, line, at, item);
}

static void fail_item(prompt_item *item)
{
    snprintf(item->generation.error, sizeof item->generation.error, "%s", spey_last_error());
    item->generation.finish = SPEY_FINISH_ERROR;
    item->done = true;
}

static spey_status take_line(void *user, const char *at, const json_t *value)
{
    prompt_batch *batch = user;
    if (batch->n == batch->room) {
        int64_t room = batch->room ? 2 * batch->room : 64;
        prompt_item *items =
            spey_realloc(SPEY_PURPOSE_GENERAL, batch->items, (size_t)room * sizeof *items);
        if (!items) return SPEY_NOMEM;
        batch->items = items;
        batch->room = room;
    }
    prompt_item *item = &batch->items[batch->n++];
    *item = (prompt_item){ .sampling = *batch->defaults,
                           .line = json_incref((json_t *)(uintptr_t)value) };
    spey_status status = read_item(batch, value, at, item);
    if (status == SPEY_NOMEM) return status;
    if (status) fail_item(item);
    return SPEY_OK;
}

/* ---- running ---- */

static int on_output(void *user, const spey_output *event)
{
    prompt_item *item = user;
    item->done = event->finish != SPEY_FINISH_NONE;
    return spey_generation_on_output(&item->generation, event);
}

static void item_deinit(prompt_item *item)
{
    spey_free(item->ids);
    json_decref(item->line);
    spey_generation_deinit(&item->generation);
    *item = (prompt_item){ .done = true };
}

static spey_status print_item(prompt_batch *batch, prompt_item *item, int64_t index)
{
    spey_strbuf out = { 0 };
    if (item->generation.finish == SPEY_FINISH_ERROR) {
        batch->n_failed++;
        spey_strbuf_printf(&out, "{\"index\": %lld, \"error\": ", (long long)index);
        spey_json_quote(&out, item->generation.error, strlen(item->generation.error));
        spey_strbuf_putc(&out, '}');
    } else {
        spey_generation_write_json(&item->generation, batch->engine, item->ids, item->n, &out);
    }
    spey_status status = spey_strbuf_status(&out);
    if (!status && (puts(out.data) < 0 || fflush(stdout)))
        status = SPEY_FAIL(SPEY_IO, "cannot write to standard output");
    spey_strbuf_deinit(&out);
    return status;
}

/* Print what has ended, in order. */
static spey_status print_done(prompt_batch *batch)
{
    while (batch->n_printed < batch->n && batch->items[batch->n_printed].done) {
        prompt_item *item = &batch->items[batch->n_printed];
        SPEY_TRY(print_item(batch, item, batch->n_printed));
        item_deinit(item);
        batch->n_printed++;
    }
    return SPEY_OK;
}

/* Enough in the queue that a slot never waits for us, and no more: each request has its buffers. */
enum { OPEN_MAX = 1024 };

static void submit_some(prompt_batch *batch)
{
    while (batch->n_submitted < batch->n && batch->n_submitted - batch->n_printed < OPEN_MAX) {
        prompt_item *item = &batch->items[batch->n_submitted++];
        if (item->done) continue;
        item->generation.start_ns = spey_clock_ns();
        if (item->n_stop) {
            item->sampling.stop = item->stop;
            item->sampling.n_stop = item->n_stop;
        }
        if (spey_context_submit(batch->context, item->ids, item->n, &item->sampling, on_output,
                                item, NULL))
            fail_item(item);
    }
}

static spey_status run_all(prompt_batch *batch, spey_progress *progress)
{
    while (batch->n_printed < batch->n) {
        submit_some(batch);
        SPEY_TRY(spey_context_step(batch->context, NULL));
        SPEY_TRY(print_done(batch));
        spey_progress_update(progress, (uint64_t)batch->n_printed);
    }
    return SPEY_OK;
}

static spey_status read_lines(prompt_batch *batch, const char *path)
{
    spey_strbuf text = { 0 };
    spey_status status = spey_file_read(path, SPEY_JSON_BYTES_MAX, &text);
    if (!status && text.len) status = spey_jsonl_each(path, text.data, text.len, take_line, batch);
    spey_strbuf_deinit(&text);
    return status;
}

spey_status spey_run_prompts(const char *path, const spey_engine *engine, spey_context *context,
                             const spey_sampling *sampling, bool raw)
{
    prompt_batch batch = { .engine = engine, .context = context, .defaults = sampling, .raw = raw };
    spey_status status = read_lines(&batch, path);
    if (!status) {
        spey_progress progress;
        spey_progress_begin(&progress, "prompts", (uint64_t)batch.n);
        status = run_all(&batch, &progress);
        spey_progress_end(&progress);
    }
    for (int64_t i = batch.n_printed; i < batch.n; i++)
        item_deinit(&batch.items[i]);
    spey_free(batch.items);
    if (!status && batch.n_failed)
        status = SPEY_FAIL(SPEY_INVALID, "%lld of %lld prompts failed, their lines say why",
                           (long long)batch.n_failed, (long long)batch.n);
    return status;
}
