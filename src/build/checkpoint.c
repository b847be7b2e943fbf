#include "build/checkpoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "build/generation_config.h"
#include "build/quant_config.h"
#include "text/utf8.h"

static const char *const file_names[] = {
    "config.json",           "generation_config.json",
    "tokenizer.json",        "tokenizer.model",
    "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja",   "chat_template.json",
    "hf_quant_config.json",  NULL,
};
_Static_assert(sizeof file_names / sizeof *file_names == SPEY_CHECKPOINT_FILES_MAX + 1, "");

const char *const *spey_checkpoint_file_names(void)
{
    return file_names;
}

spey_status spey_checkpoint_name(const char *path, char *out, size_t out_bytes)
{
    char real[SPEY_PATH_BYTES_MAX];
    if (!realpath(path, real))
        return SPEY_FAIL(errno == ENOENT ? SPEY_NOT_FOUND : SPEY_IO, "%s: cannot open: %s", path,
                         strerror(errno));
    const char *slash = strrchr(real, '/'), *name = slash ? slash + 1 : real;
    size_t len = strlen(name);
    /* A name is for people: one that is too long or no text is replaced, not refused. */
    if (len == 0 || len >= out_bytes || !spey_utf8_is_valid(name, len)) name = "checkpoint";
    snprintf(out, out_bytes, "%s", name);
    return SPEY_OK;
}

/* ---- chat templates ---- */

static spey_status keep_template(const char *where, const char *text, size_t n, char **out)
{
    if (n > SPEY_TEMPLATE_BYTES_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: the chat template has %zu bytes, at most %d expected",
                         where, n, SPEY_TEMPLATE_BYTES_MAX);
    if (*out) return SPEY_OK; /* a duplicate name: the first counts */
    *out = spey_strndup(SPEY_PURPOSE_GENERAL, text, n);
    return *out ? SPEY_OK : SPEY_NOMEM;
}

/* "chat_template" is a template, or a list of {name, template} of which "default" and "tool_use" have a meaning. */
static spey_status read_template(const char *where, const json_t *value,
                                 spey_checkpoint *checkpoint)
{
    if (!value || json_is_null(value)) return SPEY_OK;
    if (json_is_string(value))
        return keep_template(where, json_string_value(value), json_string_length(value),
                             &checkpoint->chat_template);
    if (!json_is_array(value))
        return SPEY_FAIL(SPEY_FORMAT, "%s: \"chat_template\" is neither a string nor a list",
                         where);
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *item = json_array_get(value, i), *text = json_object_get(item, "template");
        const char *name = json_string_value(json_object_get(item, "name"));
        if (!name || !json_is_string(text))
            return SPEY_FAIL(SPEY_FORMAT, "%s: chat template %zu has no name or no text", where, i);
        if (!strcmp(name, "default"))
            SPEY_TRY(keep_template(where, json_string_value(text), json_string_length(text),
                                   &checkpoint->chat_template));
        else if (!strcmp(name, "tool_use"))
            SPEY_TRY(keep_template(where, json_string_value(text), json_string_length(text),
                                   &checkpoint->tool_template));
    }
    return SPEY_OK;
}

static spey_status parse_file(const spey_checkpoint_file *file, json_t **out)
{
    SPEY_TRY(spey_json_parse(file->name, file->bytes.data, file->bytes.len, out));
    if (json_is_object(*out)) return SPEY_OK;
    json_decref(*out);
    *out = NULL;
    return SPEY_FAIL(SPEY_FORMAT, "%s: is not a JSON object", file->name);
}

/* In transformers' order: a file of its own comes before tokenizer_config.json. */
static spey_status read_templates(spey_checkpoint *checkpoint)
{
    const spey_checkpoint_file *jinja = spey_checkpoint_find(checkpoint, "chat_template.jinja");
    if (jinja)
        SPEY_TRY(keep_template(jinja->name, jinja->bytes.data, jinja->bytes.len,
                               &checkpoint->chat_template));
    static const char *const holders[] = { "chat_template.json", "tokenizer_config.json" };
    for (size_t i = 0; i < sizeof holders / sizeof *holders; i++) {
        const spey_checkpoint_file *file = spey_checkpoint_find(checkpoint, holders[i]);
        if (!file) continue;
        json_t *root;
        SPEY_TRY(parse_file(file, &root));
        spey_status status =
            read_template(file->name, json_object_get(root, "chat_template"), checkpoint);
        json_decref(root);
        SPEY_TRY(status);
    }
    return SPEY_OK;
}

/* ---- the folder ---- */

const spey_checkpoint_file *spey_checkpoint_find(const spey_checkpoint *checkpoint,
                                                 const char *name)
{
    for (int i = 0; i < checkpoint->n_files; i++)
        if (!strcmp(checkpoint->files[i].name, name)) return &checkpoint->files[i];
    return NULL;
}

static spey_status read_files(spey_checkpoint *checkpoint)
{
    char path[SPEY_PATH_BYTES_MAX];
    for (int i = 0; file_names[i]; i++) {
        SPEY_TRY(spey_path_join(path, checkpoint->path, file_names[i]));
        if (!spey_file_exists(path)) continue;
        spey_checkpoint_file *file = &checkpoint->files[checkpoint->n_files++];
        file->name = file_names[i];
        SPEY_TRY(spey_file_read(path, SPEY_JSON_BYTES_MAX, &file->bytes));
    }
    return SPEY_OK;
}

static spey_status fail_without_config(const char *path)
{
    char other[SPEY_PATH_BYTES_MAX];
    SPEY_TRY(spey_path_join(other, path, "adapter_config.json"));
    if (spey_file_exists(other))
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "%s: holds a LoRA adapter, not a model: build its base model", path);
    return SPEY_FAIL(SPEY_NOT_FOUND,
                     "%s: holds no config.json: is it a Hugging Face checkpoint folder?", path);
}

/* ModelOpt's own file; newer checkpoints repeat it in config.json. */
static spey_status check_modelopt_file(const spey_checkpoint *checkpoint, bool *fp8_cache)
{
    const spey_checkpoint_file *file = spey_checkpoint_find(checkpoint, "hf_quant_config.json");
    json_t *root;
    if (!file) return SPEY_OK;
    SPEY_TRY(parse_file(file, &root));
    spey_status status = spey_quant_config_check(file->name, root, fp8_cache);
    json_decref(root);
    return status;
}

/* Before there was generation_config.json, its keys were in config.json. */
static spey_status read_legacy_rules(const spey_checkpoint_file *config, spey_model_info *info)
{
    json_t *root;
    SPEY_TRY(parse_file(config, &root));
    spey_status status = spey_generation_rules_apply(config->name, root, info);
    json_decref(root);
    return status;
}

static spey_status read_model(spey_checkpoint *checkpoint)
{
    const spey_checkpoint_file *config = spey_checkpoint_find(checkpoint, "config.json");
    json_t *root;
    SPEY_TRY(parse_file(config, &root));
    const json_t *quantization = json_object_get(root, "quantization_config");
    spey_status status = SPEY_OK;
    bool fp8_cache = false;
    if (quantization && !json_is_null(quantization))
        status = spey_quant_config_check(config->name, quantization, &fp8_cache);
    if (!status) status = spey_model_new(config->name, root, &checkpoint->model);
    json_decref(root);
    SPEY_TRY(status);
    SPEY_TRY(check_modelopt_file(checkpoint, &fp8_cache));
    spey_model_get_info(checkpoint->model, &checkpoint->info);
    if (fp8_cache) snprintf(checkpoint->info.kv_dtype, sizeof checkpoint->info.kv_dtype, "fp8");
    SPEY_TRY(spey_checkpoint_name(checkpoint->path, checkpoint->info.name,
                                  sizeof checkpoint->info.name));
    const spey_checkpoint_file *generation =
        spey_checkpoint_find(checkpoint, "generation_config.json");
    if (!generation) return read_legacy_rules(config, &checkpoint->info);
    SPEY_TRY(parse_file(generation, &root));
    status = spey_generation_config_apply(generation->name, root, &checkpoint->info);
    json_decref(root);
    return status;
}

static spey_status read_folder(spey_checkpoint *checkpoint)
{
    SPEY_TRY(read_files(checkpoint));
    if (!spey_checkpoint_find(checkpoint, "config.json"))
        return fail_without_config(checkpoint->path);
    SPEY_TRY_CTX(read_model(checkpoint), "%s", checkpoint->path);
    SPEY_TRY_CTX(read_templates(checkpoint), "%s", checkpoint->path);
    return spey_safetensors_open(checkpoint->path, &checkpoint->tensors);
}

spey_status spey_checkpoint_open(const char *path, spey_checkpoint **out)
{
    *out = NULL;
    if (!spey_file_exists(path)) return SPEY_FAIL(SPEY_NOT_FOUND, "%s: no such folder", path);
    if (!spey_file_is_dir(path))
        return SPEY_FAIL(SPEY_INVALID, "%s: is a file, expected a checkpoint's folder", path);
    spey_checkpoint *checkpoint = spey_new(SPEY_PURPOSE_GENERAL, spey_checkpoint);
    if (!checkpoint) return SPEY_NOMEM;
    spey_status status = SPEY_OK;
    if (strlen(path) >= sizeof checkpoint->path)
        status = SPEY_FAIL(SPEY_LIMIT, "%.100s…: path too long", path);
    snprintf(checkpoint->path, sizeof checkpoint->path, "%s", path);
    if (!status) status = read_folder(checkpoint);
    if (status) {
        spey_checkpoint_close(checkpoint);
        return status;
    }
    *out = checkpoint;
    return SPEY_OK;
}

void spey_checkpoint_close(spey_checkpoint *checkpoint)
{
    if (!checkpoint) return;
    for (int i = 0; i < checkpoint->n_files; i++)
        spey_strbuf_deinit(&checkpoint->files[i].bytes);
    spey_safetensors_close(checkpoint->tensors);
    spey_model_free(checkpoint->model);
    spey_free(checkpoint->chat_template);
    spey_free(checkpoint->tool_template);
    spey_free(checkpoint);
}
