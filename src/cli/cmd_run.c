#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/command.h"
#include "cli/sampling_flags.h"

typedef struct run_options {
    spey_runtime_flags runtime;
    spey_sampling_flags sampling;
    const char *ids, *system, *prompt;
    bool json, raw, quiet;
} run_options;

/* One request as it happens: what the callback collects. */
typedef struct generation {
    bool stream; /* text to stdout as it comes */
    spey_strbuf text;
    spey_strbuf output_ids; /* "16, 285" */
    spey_strbuf logprobs;   /* JSON items */
    spey_strbuf prompt_logprobs;
    int64_t n_output;
    uint64_t start_ns, first_ns, last_ns;
    spey_finish finish;
    char error[256];
    bool write_failed;
} generation;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

/* ---- what comes out ---- */

static void put_number(spey_strbuf *out, double x)
{
    if (isfinite(x))
        spey_strbuf_printf(out, "%.9g", x);
    else
        spey_strbuf_puts(out, "null");
}

static void put_top(spey_strbuf *out, const spey_token_logprob *top, int32_t n)
{
    spey_strbuf_puts(out, "[");
    for (int32_t i = 0; i < n; i++) {
        spey_strbuf_printf(out, "%s{\"id\": %d, \"logprob\": ", i ? ", " : "", top[i].id);
        put_number(out, (double)top[i].logprob);
        spey_strbuf_puts(out, "}");
    }
    spey_strbuf_puts(out, "]");
}

static void collect_logprobs(generation *g, const spey_output *event)
{
    for (int32_t i = 0; i < event->n_prompt; i++) {
        spey_strbuf_printf(&g->prompt_logprobs, "%s{\"logprob\": ", i ? ", " : "");
        put_number(&g->prompt_logprobs, (double)event->prompt_logprobs[i]);
        spey_strbuf_puts(&g->prompt_logprobs, ", \"top_next\": ");
        put_top(&g->prompt_logprobs, event->prompt_top + i * event->n_prompt_top,
                event->n_prompt_top);
        spey_strbuf_puts(&g->prompt_logprobs, "}");
    }
    if (event->token < 0 || isnan(event->logprob)) return;
    spey_strbuf_printf(&g->logprobs, "%s{\"id\": %d, \"logprob\": ", g->logprobs.len ? ", " : "",
                       event->token);
    put_number(&g->logprobs, (double)event->logprob);
    spey_strbuf_puts(&g->logprobs, ", \"top\": ");
    put_top(&g->logprobs, event->top, event->n_top);
    spey_strbuf_puts(&g->logprobs, "}");
}

static int on_output(void *user, const spey_output *event)
{
    generation *g = user;
    if (event->token >= 0) {
        g->last_ns = spey_clock_ns();
        if (g->n_output++ == 0) g->first_ns = g->last_ns;
        spey_strbuf_printf(&g->output_ids, "%s%d", g->output_ids.len ? ", " : "", event->token);
    }
    collect_logprobs(g, event);
    if (g->stream && event->text_bytes) {
        if (fwrite(event->text, 1, event->text_bytes, stdout) != event->text_bytes ||
            fflush(stdout))
            g->write_failed = true;
    }
    spey_strbuf_append(&g->text, event->text, event->text_bytes);
    g->finish = event->finish;
    if (event->error) snprintf(g->error, sizeof g->error, "%s", event->error);
    return interrupted || g->write_failed;
}

static void generation_deinit(generation *g)
{
    spey_strbuf_deinit(&g->text);
    spey_strbuf_deinit(&g->output_ids);
    spey_strbuf_deinit(&g->logprobs);
    spey_strbuf_deinit(&g->prompt_logprobs);
}

static double ms_between(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-6 : 0;
}

/* Tokens per second of all but the first output token. */
static double decode_rate(const generation *g)
{
    double seconds = ms_between(g->first_ns, g->last_ns) * 1e-3;
    return g->n_output > 1 && seconds > 0 ? (double)(g->n_output - 1) / seconds : 0;
}

static void print_json(const generation *g, const spey_engine *engine, const int32_t *prompt,
                       size_t n)
{
    spey_strbuf out = { 0 };
    spey_strbuf_puts(&out, "{\"prompt_ids\": [");
    for (size_t i = 0; i < n; i++)
        spey_strbuf_printf(&out, "%s%d", i ? ", " : "", prompt[i]);
    spey_strbuf_printf(
        &out, "], \"output_ids\": [%s], \"text\": ", g->output_ids.data ? g->output_ids.data : "");
    if (spey_engine_has_tokenizer(engine))
        spey_json_quote(&out, g->text.data ? g->text.data : "", g->text.len);
    else
        spey_strbuf_puts(&out, "null");
    spey_strbuf_printf(&out, ", \"finish_reason\": \"%s\"", spey_finish_text(g->finish));
    if (g->logprobs.len) spey_strbuf_printf(&out, ", \"logprobs\": [%s]", g->logprobs.data);
    if (g->prompt_logprobs.len)
        spey_strbuf_printf(&out, ", \"prompt_logprobs\": [%s]", g->prompt_logprobs.data);
    spey_strbuf_printf(
        &out,
        ", \"timings\": {\"prompt_tokens\": %zu, \"output_tokens\": %lld, \"load_ms\": %.3f, "
        "\"prompt_ms\": %.3f, \"first_token_ms\": %.3f, \"decode_tokens_per_second\": %.2f}}",
        n, (long long)g->n_output, ms_between(spey_process_start_ns, g->start_ns),
        ms_between(g->start_ns, g->first_ns), ms_between(spey_process_start_ns, g->first_ns),
        decode_rate(g));
    if (!spey_strbuf_status(&out)) puts(out.data);
    spey_strbuf_deinit(&out);
}

static void print_speed(const generation *g, size_t n_prompt)
{
    spey_log(
        SPEY_LOG_INFO,
        "%zu prompt tokens in %.0f ms, %lld new tokens, %.1f tokens/s, first token %.0f ms after the start (%s)",
        n_prompt, ms_between(g->start_ns, g->first_ns), (long long)g->n_output, decode_rate(g),
        ms_between(spey_process_start_ns, g->first_ns), spey_finish_text(g->finish));
}

/* ---- what goes in ---- */

/* Token ids of text; the caller frees *out. */
static spey_status encode(const spey_engine *engine, const char *text, size_t bytes,
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

static spey_status encode_chat(const spey_engine *engine, const json_t *messages, int32_t **out,
                               size_t *n)
{
    spey_strbuf json = { 0 };
    char *text = NULL;
    size_t bytes;
    spey_status status = spey_json_write(messages, JSON_COMPACT, &json);
    if (!status) status = spey_engine_chat_prompt(engine, json.data, true, &text, &bytes);
    spey_strbuf_deinit(&json);
    SPEY_TRY(status);
    status = encode(engine, text, bytes, false, out, n);
    spey_text_free(text);
    return status;
}

static spey_status add_message(json_t *messages, const char *role, const char *text, size_t bytes)
{
    json_t *content = json_stringn(text, bytes);
    if (!content) return SPEY_FAIL(SPEY_INVALID, "the text is not valid UTF-8");
    if (json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content)))
        return SPEY_FAIL(SPEY_NOMEM, "out of memory for the conversation");
    return SPEY_OK;
}

/* ---- one generation ---- */

static spey_status generate(spey_context *context, const int32_t *ids, size_t n,
                            const spey_sampling *sampling, generation *g)
{
    g->start_ns = spey_clock_ns();
    SPEY_TRY(spey_context_submit(context, ids, n, sampling, on_output, g, NULL));
    SPEY_TRY(spey_context_run(context));
    if (g->write_failed) return SPEY_FAIL(SPEY_IO, "cannot write to standard output");
    if (g->finish == SPEY_FINISH_ERROR) return SPEY_FAIL(SPEY_INVALID, "%s", g->error);
    return SPEY_OK;
}

static spey_status run_once(const run_options *o, const spey_engine *engine, spey_context *context,
                            const spey_sampling *sampling, const int32_t *ids, size_t n)
{
    generation g = { .stream = !o->json };
    spey_status status = generate(context, ids, n, sampling, &g);
    if (!status && o->json) {
        print_json(&g, engine, ids, n);
    } else if (!status) {
        if (!spey_engine_has_tokenizer(engine))
            printf("%s", g.output_ids.data ? g.output_ids.data : "");
        putchar('\n');
        fflush(stdout);
        if (!o->quiet) print_speed(&g, n);
    }
    generation_deinit(&g);
    return status;
}

/* Prompt after prompt from the terminal; a conversation when there is a chat template. */
static spey_status run_interactive(const run_options *o, const spey_engine *engine,
                                   spey_context *context, const spey_sampling *sampling,
                                   json_t *messages)
{
    signal(SIGINT, on_interrupt);
    char *line = NULL;
    size_t room = 0;
    spey_status status = SPEY_OK;
    if (!o->quiet)
        spey_log(SPEY_LOG_INFO, "%s; Ctrl-C stops an answer, Ctrl-D ends",
                 messages ? "chat" : "one prompt per line");
    while (!status) {
        if (isatty(STDIN_FILENO)) fputs("> ", stderr);
        ssize_t len = getline(&line, &room, stdin);
        if (len < 0) break;
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            len--;
        if (len == 0) continue;
        int32_t *ids = NULL;
        size_t n = 0;
        if (messages) status = add_message(messages, "user", line, (size_t)len);
        if (!status)
            status = messages ? encode_chat(engine, messages, &ids, &n)
                              : encode(engine, line, (size_t)len, true, &ids, &n);
        generation g = { .stream = true };
        interrupted = 0;
        if (!status) status = generate(context, ids, n, sampling, &g);
        putchar('\n');
        fflush(stdout);
        if (!status && !o->quiet) print_speed(&g, n);
        if (!status && messages)
            status = add_message(messages, "assistant", g.text.data ? g.text.data : "", g.text.len);
        /* A prompt that does not fit ends itself, not the session. */
        if (status == SPEY_LIMIT) {
            spey_report(status);
            status = SPEY_OK;
        }
        generation_deinit(&g);
        spey_free(ids);
    }
    free(line);
    return status;
}

static spey_status new_conversation(const run_options *o, const spey_engine *engine, json_t **out)
{
    *out = NULL;
    if (o->raw || o->ids || !spey_engine_has_chat_template(engine))
        return o->system
                   ? SPEY_FAIL(SPEY_UNSUPPORTED,
                               "--system needs a model with a chat template, and no --raw or --ids")
                   : SPEY_OK;
    *out = json_array();
    if (!*out) return SPEY_FAIL(SPEY_NOMEM, "out of memory for the conversation");
    return o->system ? add_message(*out, "system", o->system, strlen(o->system)) : SPEY_OK;
}

/* The prompt's ids, from --ids, the argument or stdin. */
static spey_status read_prompt(const run_options *o, const spey_engine *engine, json_t *messages,
                               int32_t **ids, size_t *n)
{
    if (o->ids) return spey_args_ids("--ids", o->ids, ids, n);
    spey_strbuf text = { 0 };
    spey_status status = SPEY_OK;
    if (o->prompt)
        spey_strbuf_puts(&text, o->prompt);
    else
        status = spey_read_input(NULL, &text);
    const char *data = text.data ? text.data : "";
    if (!status && messages) status = add_message(messages, "user", data, text.len);
    if (!status)
        status = messages ? encode_chat(engine, messages, ids, n)
                          : encode(engine, data, text.len, true, ids, n);
    spey_strbuf_deinit(&text);
    return status;
}

static spey_status run_engine(const run_options *o, const spey_engine *engine, spey_arena *arena)
{
    spey_context_options options;
    spey_context_options_from(&o->runtime, &options);
    spey_sampling sampling;
    SPEY_TRY(spey_sampling_from_flags(&o->sampling, engine, arena, &sampling));
    spey_context *context = NULL;
    json_t *messages = NULL;
    int32_t *ids = NULL;
    size_t n;
    spey_status status = spey_context_new(engine, &options, &context);
    if (!status) status = new_conversation(o, engine, &messages);
    if (!status && !o->ids && !o->prompt && isatty(STDIN_FILENO)) {
        status = run_interactive(o, engine, context, &sampling, messages);
    } else if (!status) {
        status = read_prompt(o, engine, messages, &ids, &n);
        if (!status) status = run_once(o, engine, context, &sampling, ids, n);
    }
    spey_free(ids);
    json_decref(messages);
    spey_context_free(context);
    return status;
}

static spey_status run_model(const run_options *o, const char *path)
{
    spey_engine *engine;
    SPEY_TRY(spey_open_model(path, o->runtime.dtype, &engine));
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_GENERAL);
    spey_status status = run_engine(o, engine, &arena);
    spey_arena_deinit(&arena);
    spey_engine_close(engine);
    return status;
}

int spey_cmd_run(int argc, char **argv)
{
    run_options o = { 0 };
    spey_sampling_flags_init(&o.sampling);
    const spey_option table[] = {
        SPEY_SAMPLING_OPTIONS(&o.sampling),
        { "ids", SPEY_OPTION_TEXT, &o.ids, "IDS", "the prompt as token ids (1,2,3)", 0, 0 },
        { "system", SPEY_OPTION_TEXT, &o.system, "TEXT", "system message of a chat", 0, 0 },
        { "raw", SPEY_OPTION_FLAG, &o.raw, NULL, "no chat template, even if the model has one", 0,
          0 },
        { "json", SPEY_OPTION_FLAG, &o.json, NULL,
          "print one object: prompt_ids, output_ids, text, finish_reason,\nlogprobs, timings", 0,
          0 },
        { "quiet", SPEY_OPTION_FLAG, &o.quiet, NULL, "no speed on stderr", 0, 0 },
        SPEY_RUNTIME_OPTIONS(&o.runtime),
    };
    const spey_command command = {
        .name = "run",
        .summary = "generate text, or chat, with an engine or a checkpoint",
        .usage = "MODEL [PROMPT] [options]",
        .details =
            "MODEL is an engine file, or a Hugging Face checkpoint folder, which is built into the cache on first use.\n"
            "Text streams to stdout, speed goes to stderr. Without PROMPT: interactive on a terminal, else stdin is the\n"
            "prompt. A model with a chat template chats.",
        .examples =
            "  spey run models/demo \"Once upon a time\"\n"
            "  spey run demo.spey \"It was a dark night\" --temperature 0.8 --top-p 0.95 --seed 7\n"
            "  spey run demo.spey --ids 0,51,1242 --max-tokens 8 --json\n"
            "  spey run demo.spey",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .positional_min = 1,
        .positional_max = 2,
    };
    spey_args args;
    int exit_code;
    if (!spey_command_begin(&command, argc, argv, &args, &exit_code)) return exit_code;
    o.prompt = args.n_positional > 1 ? args.positional[1] : NULL;
    return spey_report(run_model(&o, args.positional[0]));
}
