#include "cli/prompt.h"

#include "base/alloc.h"

spey_status spey_prompt_encode(const spey_engine *engine, const char *text, size_t bytes,
                               bool add_special, int32_t **out, size_t *n)
{
    /* No tokenizer gives more ids than bytes, special ones aside. */
    size_t room = bytes + 64;
    *out = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, room);
    if (!*out) return SPEY_NOMEM;
    spey_status status = spey_engine_tokenize(engine, text, bytes, add_special, *out, room, n);
    if (!status && *n > room)
        status = SPEY_FAIL(SPEY_INTERNAL, "the tokenizer gave %zu ids for %zu bytes", *n, bytes);
    if (status) {
        spey_free(*out);
        *out = NULL;
    }
    return status;
}

spey_status spey_prompt_encode_chat(const spey_engine *engine, const json_t *messages,
                                    int32_t **out, size_t *n)
{
    spey_strbuf json = { 0 };
    char *text = NULL;
    size_t bytes;
    spey_status status = spey_json_write(messages, JSON_COMPACT, &json);
    if (!status) status = spey_engine_chat_prompt(engine, json.data, true, &text, &bytes);
    spey_strbuf_deinit(&json);
    SPEY_TRY(status);
    status = spey_prompt_encode(engine, text, bytes, false, out, n);
    spey_text_free(text);
    return status;
}

spey_status spey_prompt_add_message(json_t *messages, const char *role, const char *text,
                                    size_t bytes)
{
    json_t *content = json_stringn(text, bytes);
    if (!content) return SPEY_FAIL(SPEY_INVALID, "the text is not valid UTF-8");
    if (json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content)))
        return SPEY_FAIL(SPEY_NOMEM, "out of memory for the conversation");
    return SPEY_OK;
}
