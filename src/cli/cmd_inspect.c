#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "cli/command.h"
#include "engine/engine_file.h"
#include "runtime/runner.h"
#include "tensor/safetensors.h"

typedef struct inspect_options {
    spey_runtime_flags runtime;
    bool graph, plan, tensors, verify, json;
} inspect_options;

static void put_shape(spey_strbuf *out, int n_dims, const int64_t *dims)
{
    spey_strbuf_putc(out, '[');
    for (int i = 0; i < n_dims; i++)
        spey_strbuf_printf(out, "%s%lld", i ? ", " : "", (long long)dims[i]);
    spey_strbuf_putc(out, ']');
}

static void put_tensor(spey_strbuf *out, bool json, bool first, const char *name, const char *dtype,
                       int n_dims, const int64_t *dims, size_t bytes)
{
    if (json) {
        spey_strbuf_puts(out, first ? "{\"name\": " : ", {\"name\": ");
        spey_json_quote(out, name, strlen(name));
        spey_strbuf_printf(out, ", \"dtype\": \"%s\", \"shape\": ", dtype);
        put_shape(out, n_dims, dims);
        spey_strbuf_printf(out, ", \"bytes\": %zu}", bytes);
    } else {
        spey_strbuf_printf(out, "  %-48s %-5s ", name, dtype);
        put_shape(out, n_dims, dims);
        spey_strbuf_putc(out, '\n');
    }
}

/* ---- engines ---- */

static void put_info_text(spey_strbuf *out, const spey_model_info *info)
{
    spey_strbuf_printf(
        out,
        "%s (%s): %.1f M parameters, %lld layers, hidden size %lld, vocabulary %lld, context %lld, %s%s%s\n",
        info->name, info->arch, (double)info->n_parameters / 1e6, (long long)info->n_layers,
        (long long)info->hidden_size, (long long)info->vocab_size, (long long)info->context_length,
        spey_dtype_name(info->dtype), info->kv_dtype[0] ? ", KV cache " : "", info->kv_dtype);
}

static void put_sections(spey_strbuf *out, bool json, const spey_engine_file *file)
{
    spey_strbuf_puts(out, json ? ", \"sections\": [" : "\nsections\n");
    for (int i = 0; i < spey_engine_file_n_sections(file); i++) {
        spey_engine_section s = spey_engine_file_section_at(file, i);
        if (json)
            spey_strbuf_printf(
                out,
                "%s{\"name\": \"%s\", \"offset\": %llu, \"bytes\": %llu, \"xxh3\": \"%016llx\"}",
                i ? ", " : "", s.name, (unsigned long long)s.offset, (unsigned long long)s.bytes,
                (unsigned long long)s.checksum);
        else
            spey_strbuf_printf(out, "  %-32s %12llu bytes at %llu\n", s.name,
                               (unsigned long long)s.bytes, (unsigned long long)s.offset);
    }
    if (json) spey_strbuf_putc(out, ']');
}

static void put_section_text(spey_strbuf *out, const spey_engine_file *file, const char *name)
{
    const void *bytes;
    size_t n;
    if (spey_engine_file_section(file, name, &bytes, &n) == SPEY_OK)
        spey_strbuf_append(out, bytes, n);
}

static void put_json_section(spey_strbuf *out, const spey_engine_file *file, const char *name)
{
    spey_strbuf_printf(out, "\"%s\": ", name);
    size_t before = out->len;
    put_section_text(out, file, name);
    if (out->len == before) spey_strbuf_puts(out, "null");
}

static void put_engine_tensors(spey_strbuf *out, bool json, const spey_engine_file *file)
{
    spey_strbuf_puts(out, json ? ", \"tensors\": [" : "\ntensors\n");
    for (int i = 0; i < spey_engine_file_n_tensors(file); i++) {
        const spey_engine_tensor *t = spey_engine_file_tensor_at(file, i);
        put_tensor(out, json, i == 0, t->name, spey_dtype_name(t->dtype), t->n_dims, t->dims,
                   t->bytes);
    }
    if (json) spey_strbuf_putc(out, ']');
}

static void limits_from(const spey_runtime_flags *f, spey_limits_plan *out)
{
    *out = (spey_limits_plan){ .device = f->device,
                               .threads = (int)f->threads,
                               .sequences_max = (int32_t)f->sequences,
                               .step_tokens_max = f->step_tokens,
                               .sequence_tokens_max = f->context,
                               .kv_bytes = f->kv_bytes,
                               .kv_host_bytes = f->kv_host_bytes,
                               .kv_file_bytes = f->kv_file ? f->kv_file_bytes : 0,
                               .kv_block_tokens = (int32_t)f->block,
                               .kv_dtype = f->kv_dtype,
                               .memory_bytes_max = f->memory };
    if (f->kv_file && !out->kv_file_bytes) out->kv_file_bytes = SPEY_KV_FILE_BYTES;
}

static spey_status put_plan(spey_strbuf *out, const inspect_options *o,
                            const spey_engine_file *file)
{
    spey_limits_plan limits;
    limits_from(&o->runtime, &limits);
    spey_plan plan;
    SPEY_TRY(spey_runner_plan(file, &limits, &plan));
    if (!o->json) {
        spey_plan_write(&plan, out);
        return SPEY_OK;
    }
    spey_strbuf_puts(out, ", \"plan\": {\"lines\": [");
    for (int i = 0; i < plan.n_lines; i++)
        spey_strbuf_printf(out, "%s{\"what\": \"%s\", \"bytes\": %llu, \"counted\": %s}",
                           i ? ", " : "", plan.lines[i].what,
                           (unsigned long long)plan.lines[i].bytes,
                           plan.lines[i].counted ? "true" : "false");
    spey_strbuf_printf(
        out,
        "], \"total_bytes\": %llu, \"available_bytes\": %llu, \"kv_tokens\": %lld, \"sequences\": %d, "
        "\"sequence_tokens\": %lld, \"step_tokens\": %lld}",
        (unsigned long long)plan.total_bytes, (unsigned long long)plan.available_bytes,
        (long long)plan.kv_tokens, plan.limits.sequences_max,
        (long long)plan.limits.sequence_tokens_max, (long long)plan.limits.step_tokens_max);
    return SPEY_OK;
}

static spey_status inspect_engine(const inspect_options *o, const char *path, spey_strbuf *out)
{
    spey_engine_open_options options = { .verify_weights = o->verify };
    spey_engine_file *file;
    SPEY_TRY(spey_engine_file_open(path, &options, &file));
    spey_status status = SPEY_OK;
    bool one = o->graph || o->plan || o->tensors;
    if (o->json) {
        spey_strbuf_putc(out, '{');
        put_json_section(out, file, "info");
        spey_strbuf_puts(out, ", ");
        put_json_section(out, file, "provenance");
        put_sections(out, true, file);
    } else if (!one) {
        put_info_text(out, spey_engine_file_info(file));
        put_sections(out, false, file);
        spey_strbuf_puts(out, "\nprovenance\n");
        put_section_text(out, file, "provenance");
        spey_strbuf_putc(out, '\n');
    }
    if (o->tensors) put_engine_tensors(out, o->json, file);
    if (o->graph && o->json) {
        const void *text;
        size_t n;
        spey_strbuf_puts(out, ", \"graph\": ");
        status = spey_engine_file_section(file, "graph", &text, &n);
        if (!status) spey_json_quote(out, text, n);
    } else if (o->graph) {
        put_section_text(out, file, "graph");
    }
    if (!status && o->plan) status = put_plan(out, o, file);
    if (o->json)
        spey_strbuf_puts(out, "}\n");
    else if (!status && o->verify)
        spey_strbuf_puts(out, "all checksums are right\n");
    spey_engine_file_close(file);
    return status;
}

/* ---- checkpoints ---- */

static spey_status inspect_checkpoint(const inspect_options *o, const char *path, spey_strbuf *out)
{
    if (o->graph || o->plan || o->verify)
        return SPEY_FAIL(
            SPEY_INVALID,
            "%s is a checkpoint: --graph, --plan and --verify need an engine (spey build %s -o "
            "model.spey)",
            path, path);
    char config_path[SPEY_PATH_BYTES_MAX];
    json_t *config;
    SPEY_TRY(spey_path_join(config_path, path, "config.json"));
    SPEY_TRY(spey_json_read(config_path, &config));
    spey_safetensors *tensors;
    spey_status status = spey_safetensors_open(path, &tensors);
    if (!status) {
        spey_strbuf_puts(out, o->json ? "{\"config\": " : "config.json\n");
        status = spey_json_write(config, JSON_INDENT(2), out);
        spey_strbuf_puts(out, o->json ? ", \"tensors\": [" : "\n\ntensors\n");
        for (int i = 0; i < spey_safetensors_count(tensors); i++) {
            const spey_safetensor *t = spey_safetensors_at(tensors, i);
            put_tensor(out, o->json, i == 0, t->name, spey_dtype_name(t->dtype), t->n_dims, t->dims,
                       t->bytes);
        }
        spey_strbuf_puts(out, o->json ? "]}\n" : "");
        spey_safetensors_close(tensors);
    }
    json_decref(config);
    return status;
}

int spey_cmd_inspect(int argc, char **argv)
{
    inspect_options o = { 0 };
    const spey_option table[] = {
        { "graph", SPEY_OPTION_FLAG, &o.graph, NULL, "the graph as text", 0, 0 },
        { "tensors", SPEY_OPTION_FLAG, &o.tensors, NULL, "every tensor with type and shape", 0, 0 },
        { "plan", SPEY_OPTION_FLAG, &o.plan, NULL, "the memory plan for the limits given below", 0,
          0 },
        { "sequences", SPEY_OPTION_INT, &o.runtime.sequences, "N",
          "sequences running at once (default: 1)", 0, 65536 },
        { "verify", SPEY_OPTION_FLAG, &o.verify, NULL, "check every checksum, the weights' too", 0,
          0 },
        { "json", SPEY_OPTION_FLAG, &o.json, NULL, "print one JSON object", 0, 0 },
        SPEY_RUNTIME_OPTIONS(&o.runtime),
    };
    const spey_command command = {
        .name = "inspect",
        .summary = "show everything inside an engine or a checkpoint, and memory plans",
        .usage = "PATH [options]",
        .details = "PATH is an engine file or a checkpoint folder.",
        .examples = "  spey inspect demo.spey\n"
                    "  spey inspect demo.spey --graph\n"
                    "  spey inspect demo.spey --plan --sequences 64 --context 2048\n"
                    "  spey inspect models/demo --tensors",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .positional_min = 1,
        .positional_max = 1,
    };
    spey_args args;
    int exit_code;
    if (!spey_command_begin(&command, argc, argv, &args, &exit_code)) return exit_code;
    const char *path = args.positional[0];
    spey_strbuf out = { 0 };
    spey_status status = spey_file_is_dir(path) ? inspect_checkpoint(&o, path, &out)
                                                : inspect_engine(&o, path, &out);
    if (!status) status = spey_strbuf_status(&out);
    if (!status && (fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout)))
        status = SPEY_FAIL(SPEY_IO, "cannot write to standard output");
    spey_strbuf_deinit(&out);
    return spey_report(status);
}
