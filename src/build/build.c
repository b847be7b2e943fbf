#include "build/build.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/progress.h"
#include "build/checkpoint.h"
#include "build/draw.h"
#include "build/import.h"
#include "build/provenance.h"
#include "build/source_digest.h"
#include "engine/engine_writer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

/* One build. Everything is owned here and released by deinit, whatever happened. */
typedef struct build {
    const spey_build_options *options;
    spey_build_report report;
    spey_checkpoint *checkpoint;
    spey_model_info info;
    spey_graph *graph;
    spey_import_weights weights;
    spey_import *import;
    spey_strbuf tokenizer; /* compiled; empty without one */
    spey_source_digest *digest;
    spey_engine_writer *writer;
} build;

static void deinit(build *b)
{
    spey_engine_writer_abort(b->writer);
    spey_source_digest_free(b->digest);
    spey_strbuf_deinit(&b->tokenizer);
    spey_import_free(b->import);
    spey_import_weights_deinit(&b->weights);
    spey_graph_free(b->graph);
    spey_checkpoint_close(b->checkpoint);
}

/* Add a line; what does not fit is cut. */
static void warn(build *b, const char *context, const char *text)
{
    char *warnings = b->report.warnings;
    size_t used = strlen(warnings);
    snprintf(warnings + used, sizeof b->report.warnings - used, "%s%s%s", used ? "\n" : "", context,
             text);
}

/* ---- tokenizer and template ---- */

static spey_status open_tokenizer(const spey_checkpoint *checkpoint, spey_tokenizer **out)
{
    const spey_checkpoint_file *file = spey_checkpoint_find(checkpoint, "tokenizer.json");
    if (file) return spey_tokenizer_from_json(file->name, file->bytes.data, file->bytes.len, out);
    file = spey_checkpoint_find(checkpoint, "tokenizer.model");
    if (file)
        return spey_tokenizer_from_sentencepiece(file->name, file->bytes.data, file->bytes.len,
                                                 out);
    *out = NULL;
    return SPEY_OK;
}

static spey_status compile_tokenizer(build *b)
{
    spey_tokenizer *tokenizer;
    SPEY_TRY_CTX(open_tokenizer(b->checkpoint, &tokenizer), "%s", b->checkpoint->path);
    if (!tokenizer) {
        warn(b, "the checkpoint has no tokenizer: the engine takes ids only", "");
        return SPEY_OK;
    }
    b->report.has_tokenizer = true;
    if (spey_tokenizer_vocab_size(tokenizer) > b->info.vocab_size)
        warn(b, "the tokenizer has more ids than the model has embeddings", "");
    spey_status status = spey_tokenizer_write(tokenizer, &b->tokenizer);
    spey_tokenizer_free(tokenizer);
    return status;
}

/* A template that we cannot read must not keep the model from being used without it. */
static spey_status check_template(build *b)
{
    const char *source = b->checkpoint->chat_template;
    if (!source) return SPEY_OK;
    spey_chat_template *parsed;
    spey_status status = spey_chat_template_parse(source, strlen(source), &parsed);
    if (status == SPEY_NOMEM) return status;
    if (status)
        warn(b, "the chat template cannot be used: ", spey_last_error());
    else
        spey_chat_template_free(parsed);
    b->report.has_chat_template = status == SPEY_OK;
    return SPEY_OK;
}

static bool has_e4m3(const build *b)
{
    for (int i = 0; i < b->weights.n; i++)
        if (b->weights.tensors[i].dtype == SPEY_E4M3) return true;
    return false;
}

/* ---- sections ---- */

static spey_status write_graph(build *b)
{
    spey_strbuf text = { .max = SPEY_GRAPH_TEXT_MAX };
    spey_status status = spey_graph_write(b->graph, &text);
    if (!status) status = spey_engine_writer_section(b->writer, "graph", text.data, text.len);
    spey_strbuf_deinit(&text);
    return status;
}

static spey_status write_text(build *b, const char *name, const char *text)
{
    return text ? spey_engine_writer_section(b->writer, name, text, strlen(text)) : SPEY_OK;
}

static spey_status write_head(build *b)
{
    SPEY_TRY(spey_engine_writer_info(b->writer, &b->info));
    SPEY_TRY(write_graph(b));
    if (b->tokenizer.len)
        SPEY_TRY(spey_engine_writer_section(b->writer, "tokenizer", b->tokenizer.data,
                                            b->tokenizer.len));
    SPEY_TRY(write_text(b, "chat_template", b->checkpoint->chat_template));
    SPEY_TRY(write_text(b, "chat_template:tool_use", b->checkpoint->tool_template));
    for (int i = 0; i < b->checkpoint->n_files; i++) {
        const spey_checkpoint_file *file = &b->checkpoint->files[i];
        char name[SPEY_NAME_BYTES_MAX];
        snprintf(name, sizeof name, "file:%s", file->name);
        SPEY_TRY(spey_engine_writer_section(b->writer, name, file->bytes.data, file->bytes.len));
    }
    return SPEY_OK;
}

static spey_status write_weights(build *b)
{
    SPEY_TRY(spey_engine_writer_tensors(b->writer, b->weights.tensors, b->weights.n));
    bool quiet = b->options && b->options->quiet;
    spey_progress progress;
    if (!quiet) spey_progress_begin(&progress, "building", b->weights.bytes);
    spey_status status = SPEY_OK;
    uint64_t done = 0;
    for (int i = 0; i < b->weights.n && !status; i++) {
        status = spey_import_stream(b->import, b->weights.weights[i], b->writer);
        done += b->weights.tensors[i].bytes;
        if (!quiet) spey_progress_update(&progress, done);
    }
    if (!quiet) spey_progress_end(&progress);
    return status;
}

static spey_status write_provenance(build *b)
{
    spey_strbuf text = { 0 };
    const spey_provenance from = { .checkpoint = b->checkpoint,
                                   .info = &b->info,
                                   .graph = b->graph,
                                   .options = b->options,
                                   .digest = b->digest };
    spey_status status = spey_provenance_write(&from, &text);
    if (!status) status = spey_engine_writer_section(b->writer, "provenance", text.data, text.len);
    spey_strbuf_deinit(&text);
    return status;
}

/* ---- all of it ---- */

/* Everything that can be wrong with the checkpoint is found here, but for values that overflow. */
static spey_status prepare(build *b, const char *checkpoint)
{
    SPEY_TRY(spey_checkpoint_open(checkpoint, &b->checkpoint));
    b->info = b->checkpoint->info;
    SPEY_TRY(
        spey_draw(b->checkpoint->model, b->options, b->checkpoint->tensors, &b->info, &b->graph));
    SPEY_TRY(spey_import_weights_list(b->graph, &b->weights));
    b->info.n_parameters = b->weights.n_parameters;
    if (b->options && b->options->quant && !strcmp(b->options->quant, "fp8") && !has_e4m3(b))
        warn(b,
             "fp8: no matrix of the layers has sides that are multiples of 16; none was quantized",
             "");
    SPEY_TRY_CTX(
        spey_import_plan(b->graph, b->checkpoint->model, b->checkpoint->tensors, &b->import),
        "%s: read as %s, as config.json says", checkpoint, b->info.arch);
    SPEY_TRY(compile_tokenizer(b));
    return check_template(b);
}

static spey_status write_engine(build *b, const char *engine_path)
{
    SPEY_TRY(spey_engine_writer_open(engine_path, &b->writer));
    SPEY_TRY(write_head(b));
    SPEY_TRY(spey_source_digest_start(b->checkpoint->tensors, &b->digest));
    SPEY_TRY_CTX(write_weights(b), "%s", b->checkpoint->path);
    SPEY_TRY(write_provenance(b));
    spey_engine_writer *writer = b->writer;
    b->writer = NULL;
    return spey_engine_writer_commit(writer, &b->report.engine_bytes);
}

spey_status spey_build_engine(const char *checkpoint, const char *engine_path,
                              const spey_build_options *options, spey_build_report *report)
{
    uint64_t start_ns = spey_clock_ns();
    build b = { .options = options };
    spey_status status = prepare(&b, checkpoint);
    if (!status) status = write_engine(&b, engine_path);
    if (!status && report) {
        b.report.weights_bytes = b.weights.bytes;
        b.report.n_parameters = b.weights.n_parameters;
        b.report.n_tensors = b.weights.n;
        b.report.n_nodes = b.graph->n_nodes;
        b.report.seconds = spey_clock_seconds_since(start_ns);
        *report = b.report;
    }
    deinit(&b);
    return status;
}
