#include "text/chat_template.h"

#include <string.h>

#include "base/alloc.h"
#include "base/arena.h"
#include "base/limits.h"
#include "text/jinja_eval.h"
#include "text/jinja_text.h"

struct spey_chat_template {
    spey_arena arena;
    jinja_node *body;
};

/* `source` with \n for every line end and without the last one, as Jinja reads it. */
static spey_status normalize(spey_arena *arena, const char *source, size_t n, const char **out,
                             size_t *out_n)
{
    char *copy = spey_arena_alloc(arena, n + 1);
    if (!copy) return SPEY_NOMEM;
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
        copy[used++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (used > 0 && copy[used - 1] == '\n') used--;
    copy[used] = 0;
    *out = copy;
    *out_n = used;
    return SPEY_OK;
}

spey_status spey_chat_template_parse(const char *source, size_t n, spey_chat_template **out)
{
    *out = NULL;
    if (n > SPEY_TEMPLATE_BYTES_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "chat template: is %zu bytes long, at most %d expected", n,
                         SPEY_TEMPLATE_BYTES_MAX);
    if (!spey_jinja_utf8_is_valid(source, n))
        return SPEY_FAIL(SPEY_FORMAT, "chat template: is not valid UTF-8");
    spey_chat_template *chat_template = spey_new(SPEY_PURPOSE_TEXT, spey_chat_template);
    if (!chat_template) return SPEY_NOMEM;
    spey_arena_init(&chat_template->arena, SPEY_PURPOSE_TEXT);
    const char *text;
    size_t text_n;
    spey_status status = normalize(&chat_template->arena, source, n, &text, &text_n);
    if (!status)
        status = spey_jinja_parse(&chat_template->arena, text, text_n, &chat_template->body);
    if (status) {
        spey_chat_template_free(chat_template);
        return status;
    }
    *out = chat_template;
    return SPEY_OK;
}

void spey_chat_template_free(spey_chat_template *chat_template)
{
    if (!chat_template) return;
    spey_arena_deinit(&chat_template->arena);
    spey_free(chat_template);
}

/* Variables of the caller, and above them a scope for what the template itself sets. */
static spey_status run(jinja_render *render, const jinja_node *body, const json_t *variables)
{
    jinja_value context;
    if (!json_is_object(variables))
        return SPEY_FAIL(SPEY_INVALID, "the variables of a chat template must be an object");
    SPEY_TRY(spey_jinja_from_json(render, variables, &context));
    SPEY_TRY(spey_jinja_scope_new(render, NULL, &render->scope));
    render->scope->variables = context.dict;
    SPEY_TRY(spey_jinja_scope_new(render, render->scope, &render->scope));
    return spey_jinja_exec(render, body);
}

spey_status spey_chat_template_render(const spey_chat_template *chat_template,
                                      const json_t *variables, spey_strbuf *out)
{
    jinja_render render = { 0 };
    spey_strbuf text = spey_jinja_buffer();
    spey_arena_init(&render.arena, SPEY_PURPOSE_TEXT);
    render.out = &text;
    spey_status status = run(&render, chat_template->body, variables);
    if (!status) {
        spey_strbuf_append(out, text.data, text.len);
        status = spey_strbuf_status(out);
    } else if (!render.message_is_final && render.at) {
        status = spey_error_context(status, "chat template line %u, column %u", render.at->line,
                                    render.at->column);
    }
    spey_strbuf_deinit(&text);
    spey_arena_deinit(&render.arena);
    return status;
}
