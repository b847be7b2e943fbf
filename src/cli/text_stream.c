#include "cli/text_stream.h"

#include "base/file.h"
#include "base/limits.h"

spey_status spey_text_stream(const char *path, const spey_engine *engine, spey_ids *out)
{
    const spey_model_info *info = spey_engine_file_info(engine->file);
    spey_strbuf text = { 0 };
    if (!engine->tokenizer)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "the model has no tokenizer: %s cannot be read", path);
    spey_status status = spey_file_read(path, SPEY_JSON_BYTES_MAX, &text);
    if (!status && info->bos_id >= 0) status = spey_ids_push(out, info->bos_id);
    if (!status)
        status = spey_tokenizer_encode(engine->tokenizer, text.data ? text.data : "", text.len,
                                       false, out);
    if (!status && info->n_eos > 0) status = spey_ids_push(out, info->eos_ids[0]);
    spey_strbuf_deinit(&text);
    SPEY_TRY(status);
    if (out->len < 2)
        return SPEY_FAIL(SPEY_INVALID, "%s: has %zu tokens, at least 2 are needed", path, out->len);
    return SPEY_OK;
}

spey_windows spey_windows_cut(int64_t n_tokens, int64_t window, int64_t windows_max)
{
    spey_windows windows = { n_tokens, window, (n_tokens - 2) / window + 1 };
    if (windows_max > 0 && windows_max < windows.n) windows.n = windows_max;
    return windows;
}

void spey_windows_at(const spey_windows *windows, int64_t w, int64_t *begin, int64_t *len)
{
    *begin = w * windows->window;
    int64_t left = windows->n_tokens - 1 - *begin;
    *len = left < windows->window ? left : windows->window;
}
