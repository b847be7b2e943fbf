#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "build/build.h"
#include "cli/command.h"
#include "engine/engine_file.h"
#include "runtime/engine_handle.h"

/* The engine of this checkpoint in the cache: its name is the key of the content, so a changed checkpoint is built anew. */
static spey_status cached_engine(const char *checkpoint, const spey_build_options *options,
                                 char *path)
{
    char key[65], folder[SPEY_PATH_BYTES_MAX], name[128];
    SPEY_TRY(spey_build_key(checkpoint, options, key));
    SPEY_TRY_CTX(spey_cache_dir(folder), "no place for the engine; \"spey build\" takes one");
    snprintf(name, sizeof name, "%.32s.spey", key);
    SPEY_TRY(spey_path_join(path, folder, name));
    if (spey_file_exists(path)) {
        spey_engine_file *file;
        if (!spey_engine_file_open(path, NULL, &file)) {
            spey_engine_file_close(file);
            return SPEY_OK;
        }
        spey_log(SPEY_LOG_WARNING, "the cached engine is unusable and is built again: %s",
                 spey_last_error());
    }
    SPEY_TRY(spey_dir_make(folder));
    if (isatty(STDERR_FILENO))
        spey_log(SPEY_LOG_INFO, "building %s into %s (once)", checkpoint, path);
    return spey_build_engine(checkpoint, path, options, NULL);
}

spey_status spey_open_model(const char *path, const spey_runtime_flags *flags, spey_engine **out)
{
    *out = NULL;
    if (flags->quant_scales)
        return SPEY_FAIL(SPEY_INVALID,
                         "--quant-scales is for --shape: \"spey build\" takes it for a checkpoint");
    if (!spey_file_is_dir(path)) {
        if (flags->dtype || flags->quant)
            return SPEY_FAIL(
                SPEY_INVALID,
                "--dtype and --quant are for checkpoint folders; %s is not one, and an engine's "
                "types are fixed when it is built",
                path);
        return spey_engine_open(path, out);
    }
    char engine[SPEY_PATH_BYTES_MAX];
    spey_build_options options = { .dtype = flags->dtype, .quant = flags->quant };
    SPEY_TRY(cached_engine(path, &options, engine));
    return spey_engine_open(engine, out);
}

spey_status spey_open_shape(const char *name, const spey_runtime_flags *flags, spey_engine **out)
{
    *out = NULL;
    /* One scale for all goes with inputs that are not looked at. */
    static const spey_calibration static_inputs = { .every = 16.0f };
    const bool one_scale = flags->quant_scales && !strcmp(flags->quant_scales, "tensor");
    spey_build_options options = { .dtype = flags->dtype,
                                   .quant = flags->quant,
                                   .quant_scales = flags->quant_scales,
                                   .calibration = one_scale ? &static_inputs : NULL };
    spey_engine_file *file;
    SPEY_TRY(spey_build_shape(name, &options, &file));
    spey_status status = spey_engine_from_file(file, out);
    if (status) spey_engine_file_close(file);
    return status;
}

void spey_context_options_from(const spey_runtime_flags *flags, spey_context_options *out)
{
    spey_context_options_init(out);
    out->threads = (int32_t)flags->threads;
    out->sequences_max = (int32_t)flags->sequences;
    out->sequence_tokens_max = flags->context;
    out->step_tokens_max = flags->step_tokens;
    out->step_prefill_max = flags->step_prefill;
    out->kv_bytes = flags->kv_bytes;
    out->kv_host_bytes = flags->kv_host_bytes;
    out->kv_file = flags->kv_file;
    out->kv_file_bytes = flags->kv_file_bytes;
    out->kv_block_tokens = (int32_t)flags->block;
    out->kv_dtype = flags->kv_dtype;
    out->device = flags->device;
    out->ahead = (spey_ahead)flags->ahead;
    out->batch_invariant = flags->batch_invariant;
    out->tune = flags->tune;
    out->memory_bytes_max = flags->memory;
}

spey_status spey_read_input(const char *path_or_null, spey_strbuf *out)
{
    if (path_or_null && strcmp(path_or_null, "-"))
        return spey_file_read(path_or_null, SPEY_JSON_BYTES_MAX, out);
    char chunk[16384];
    size_t n;
    while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0) {
        spey_strbuf_append(out, chunk, n);
        if (out->len > SPEY_JSON_BYTES_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "standard input is longer than %d bytes",
                             SPEY_JSON_BYTES_MAX);
    }
    if (ferror(stdin)) return SPEY_FAIL(SPEY_IO, "cannot read standard input");
    return spey_strbuf_status(out);
}
