#include "runtime/engine_handle.h"

#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "text/chat_template.h"

spey_status spey_engine_from_file(spey_engine_file *file, spey_engine **out)
{
    *out = NULL;
    spey_engine *engine = spey_new(SPEY_PURPOSE_ENGINE, spey_engine);
    if (!engine) return SPEY_NOMEM;
    const void *blob;
    size_t n;
    if (spey_engine_file_section(file, "tokenizer", &blob, &n) == SPEY_OK) {
        spey_status status =
            spey_tokenizer_read(spey_engine_file_path(file), blob, n, &engine->tokenizer);
        if (status) {
            spey_free(engine);
            return status;
        }
    }
    engine->file = file;
    *out = engine;
    return SPEY_OK;
}

spey_status spey_engine_open(const char *path, spey_engine **out)
{
    *out = NULL;
    spey_engine_file *file;
    SPEY_TRY(spey_engine_file_open(path, NULL, &file));
    spey_status status = spey_engine_from_file(file, out);
    if (status) spey_engine_file_close(file);
    return status;
}

void spey_engine_close(spey_engine *engine)
{
    if (!engine) return;
    spey_guide_vocab_free(atomic_load(&engine->guide_vocab));
    spey_tokenizer_free(engine->tokenizer);
    spey_engine_file_close(engine->file);
    spey_free(engine);
}

static spey_status need_tokenizer(const spey_engine *engine)
{
    if (engine->tokenizer) return SPEY_OK;
    return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: has no tokenizer: give token ids",
                     spey_engine_file_path(engine->file));
}

spey_status spey_engine_guide_vocab(const spey_engine *engine, const spey_guide_vocab **out)
{
    SPEY_TRY(need_tokenizer(engine));
    /* The engine is immutable but for this, which all threads would make alike: the first one's stays. */
    spey_engine *shared = (spey_engine *)(uintptr_t)engine;
    spey_guide_vocab *vocab = atomic_load(&shared->guide_vocab), *found = NULL;
    if (!vocab) {
        int32_t size = (int32_t)spey_engine_vocab_size(engine);
        SPEY_TRY(spey_guide_vocab_new(engine->tokenizer, size, &vocab));
        if (!atomic_compare_exchange_strong(&shared->guide_vocab, &found, vocab)) {
            spey_guide_vocab_free(vocab);
            vocab = found;
        }
    }
    *out = vocab;
    return SPEY_OK;
}

spey_status spey_engine_tokenize(const spey_engine *engine, const char *text, size_t text_bytes,
                                 bool add_special, int32_t *ids, size_t ids_max, size_t *n)
{
    SPEY_TRY(need_tokenizer(engine));
    spey_ids found = { 0 };
    spey_status status =
        spey_tokenizer_encode(engine->tokenizer, text, text_bytes, add_special, &found);
    if (!status) {
        size_t fits = found.len < ids_max ? found.len : ids_max;
        if (fits) memcpy(ids, found.data, fits * sizeof *ids);
        *n = found.len;
    }
    spey_ids_deinit(&found);
    return status;
}

spey_status spey_engine_detokenize(const spey_engine *engine, const int32_t *ids, size_t n,
                                   bool skip_special, char **out_text, size_t *out_bytes)
{
    *out_text = NULL;
    SPEY_TRY(need_tokenizer(engine));
    spey_strbuf text = { 0 };
    spey_status status = spey_tokenizer_decode(engine->tokenizer, ids, n, skip_special, &text);
    if (!status) status = spey_strbuf_take(&text, out_text, out_bytes);
    spey_strbuf_deinit(&text);
    return status;
}

bool spey_engine_has_tokenizer(const spey_engine *engine)
{
    return engine->tokenizer != NULL;
}

bool spey_engine_has_chat_template(const spey_engine *engine)
{
    const void *source;
    size_t n;
    return engine->tokenizer &&
           spey_engine_file_section(engine->file, "chat_template", &source, &n) == SPEY_OK;
}

bool spey_engine_has_encoder(const spey_engine *engine)
{
    return spey_engine_file_info(engine->file)->decoder_start_id >= 0;
}

/* tokenizer_config.json spells a special token as a string or as {"content": …}. */
static json_t *special_token(const json_t *config, const char *key)
{
    json_t *token = json_object_get(config, key);
    if (json_is_object(token)) token = json_object_get(token, "content");
    return json_is_string(token) ? json_incref(token) : json_string("");
}

static spey_status chat_variables(const spey_engine *engine, const char *messages_json,
                                  bool add_generation_prompt, json_t **out)
{
    static const char *const tokens[] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    json_t *messages, *config = NULL;
    SPEY_TRY(spey_json_parse("messages", messages_json, strlen(messages_json), &messages));
    const void *bytes;
    size_t n;
    spey_status status = SPEY_OK;
    if (!spey_engine_file_section(engine->file, "file:tokenizer_config.json", &bytes, &n))
        status = spey_json_parse("tokenizer_config.json", bytes, n, &config);
    *out = status ? NULL : json_object();
    if (!status && !*out) status = SPEY_FAIL(SPEY_NOMEM, "out of memory for chat variables");
    if (!status) {
        int failed = json_object_set_new(*out, "messages", json_incref(messages));
        failed |=
            json_object_set_new(*out, "add_generation_prompt", json_boolean(add_generation_prompt));
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
            failed |= json_object_set_new(*out, tokens[i], special_token(config, tokens[i]));
        if (failed) {
            json_decref(*out);
            *out = NULL;
            status = SPEY_FAIL(SPEY_NOMEM, "out of memory for chat variables");
        }
    }
    json_decref(messages);
    json_decref(config);
    return status;
}

spey_status spey_engine_chat_prompt(const spey_engine *engine, const char *messages_json,
                                    bool add_generation_prompt, char **out_text, size_t *out_bytes)
{
    *out_text = NULL;
    const void *source;
    size_t n;
    if (spey_engine_file_section(engine->file, "chat_template", &source, &n))
        return SPEY_FAIL(SPEY_UNSUPPORTED, "%s: has no chat template: give a plain prompt",
                         spey_engine_file_path(engine->file));
    json_t *variables = NULL;
    spey_chat_template *chat_template = NULL;
    spey_strbuf text = { 0 };
    spey_status status = chat_variables(engine, messages_json, add_generation_prompt, &variables);
    if (!status) status = spey_chat_template_parse(source, n, &chat_template);
    if (!status) status = spey_chat_template_render(chat_template, variables, &text);
    if (!status) status = spey_strbuf_take(&text, out_text, out_bytes);
    spey_strbuf_deinit(&text);
    spey_chat_template_free(chat_template);
    json_decref(variables);
    return status;
}

void spey_text_free(char *text)
{
    spey_free(text);
}

int64_t spey_engine_vocab_size(const spey_engine *engine)
{
    return spey_engine_file_info(engine->file)->vocab_size;
}

int64_t spey_engine_hidden_size(const spey_engine *engine)
{
    return spey_engine_file_info(engine->file)->hidden_size;
}

int64_t spey_engine_context_length(const spey_engine *engine)
{
    return spey_engine_file_info(engine->file)->context_length;
}
