#include "cli/run_prompts.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/progress.h"
#include "cli/generation.h"
#include "cli/prompt_line.h"
#include "cli/sampling_flags.h"
#include "cli/table_file.h"
#include "runtime/plan.h"

typedef struct prompt_item {
    spey_prompt_line request;
    spey_generation generation;
    bool done;
} prompt_item;

/* A file of a prompt table, opened once. */
typedef struct table_entry {
    struct table_entry *next;
    char *path;
    spey_table_file *file;
} table_entry;

typedef struct prompt_batch {
    spey_prompt_lines lines;
    spey_context *context;
    table_entry *tables;
    prompt_item *items;
    int64_t n, room;
    int64_t n_submitted, n_printed, n_failed;
} prompt_batch;

/* ---- lines ---- */

static spey_status add_table(prompt_batch *batch, const char *path, table_entry **out)
{
    table_entry *entry = spey_new(SPEY_PURPOSE_GENERAL, table_entry);
    if (!entry) return SPEY_NOMEM;
    entry->path = spey_strdup(SPEY_PURPOSE_GENERAL, path);
    spey_status status = entry->path ? spey_table_file_open(path, &entry->file) : SPEY_NOMEM;
    if (status) {
        spey_free(entry->path);
        spey_free(entry);
        return status;
    }
    entry->next = batch->tables;
    *out = batch->tables = entry;
    return SPEY_OK;
}

static spey_status open_table(void *user, const char *path, const spey_prompt_table **out)
{
    prompt_batch *batch = user;
    table_entry *entry = batch->tables;
    while (entry && strcmp(entry->path, path) != 0)
        entry = entry->next;
    if (!entry) SPEY_TRY(add_table(batch, path, &entry));
    *out = spey_table_file_table(entry->file);
    return SPEY_OK;
}

static void fail_item(prompt_item *item)
{
    snprintf(item->generation.error, sizeof item->generation.error, "%s", spey_last_error());
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
    *item = (prompt_item){ 0 };
    spey_status status = spey_prompt_line_read(&batch->lines, at, value, &item->request);
    if (status == SPEY_NOMEM) return status;
    if (status) fail_item(item);
    return SPEY_OK;
}

/* ---- running ---- */

static int on_output(void *user, const spey_output *event)
{
    prompt_item *item = user;
    item->done = event->last;
    return spey_generation_on_output(&item->generation, event);
}

static void item_deinit(prompt_item *item)
{
    spey_prompt_line_deinit(&item->request);
    spey_generation_deinit(&item->generation);
    *item = (prompt_item){ .done = true };
}

static spey_status print_item(prompt_batch *batch, prompt_item *item, int64_t index)
{
    spey_strbuf out = { 0 };
    if (item->generation.error[0]) {
        batch->n_failed++;
        spey_strbuf_printf(&out, "{\"index\": %lld, \"error\": ", (long long)index);
        spey_json_quote(&out, item->generation.error, strlen(item->generation.error));
        spey_strbuf_putc(&out, '}');
    } else {
        const spey_request_options *o = &item->request.options;
        spey_generation_write_json(&item->generation, batch->lines.engine, o->prompt, o->n_prompt,
                                   &out);
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
        spey_request_options *o = &item->request.options;
        item->generation.start_ns = spey_clock_ns();
        o->sampling = &item->request.sampling;
        o->on_output = on_output;
        o->user = item;
        if (spey_context_submit_request(batch->context, o, NULL)) fail_item(item);
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

/* Sequences of the widest line, rows of the largest table. What is out of bounds its own request is refused for. */
static void widen(const prompt_batch *batch, spey_context_options *options)
{
    for (int64_t i = 0; i < batch->n; i++) {
        const spey_sampling *s = &batch->items[i].request.sampling;
        const spey_prompt_table *table = batch->items[i].request.options.prompt_table;
        int32_t width = spey_sampling_width(s);
        if (width <= SPEY_CHOICES_MAX && width > options->sequences_max)
            options->sequences_max = width;
        if (table && !spey_engine_has_encoder(batch->lines.engine) &&
            table->n_rows <= SPEY_PROMPT_TABLE_TOKENS_MAX &&
            table->n_rows > options->prompt_table_tokens_max)
            options->prompt_table_tokens_max = table->n_rows;
    }
}

static spey_status run_batch(prompt_batch *batch, const spey_context_options *limits)
{
    spey_context_options options = *limits;
    spey_progress progress;
    widen(batch, &options);
    SPEY_TRY(spey_context_new(batch->lines.engine, &options, &batch->context));
    spey_progress_begin(&progress, "prompts", (uint64_t)batch->n);
    spey_status status = run_all(batch, &progress);
    spey_progress_end(&progress);
    spey_context_free(batch->context);
    return status;
}

static void batch_deinit(prompt_batch *batch)
{
    for (int64_t i = batch->n_printed; i < batch->n; i++)
        item_deinit(&batch->items[i]);
    spey_free(batch->items);
    for (table_entry *next; batch->tables; batch->tables = next) {
        next = batch->tables->next;
        spey_table_file_close(batch->tables->file);
        spey_free(batch->tables->path);
        spey_free(batch->tables);
    }
}

spey_status spey_run_prompts(const char *path, const spey_engine *engine,
                             const spey_context_options *options,
                             const spey_request_options *defaults, bool raw)
{
    prompt_batch batch = {
        .lines = { .engine = engine, .defaults = defaults, .raw = raw, .open_table = open_table }
    };
    batch.lines.user = &batch;
    spey_status status = read_lines(&batch, path);
    if (!status) status = run_batch(&batch, options);
    if (!status && batch.n_failed)
        status = SPEY_FAIL(SPEY_INVALID, "%lld of %lld prompts failed, their lines say why",
                           (long long)batch.n_failed, (long long)batch.n);
    batch_deinit(&batch);
    return status;
}
