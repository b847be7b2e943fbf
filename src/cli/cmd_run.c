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
#include "cli/generation.h"
#include "cli/prompt.h"
#include "cli/run_prompts.h"
#include "cli/sampling_flags.h"
#include "cli/table_file.h"

typedef struct run_options {
    spey_runtime_flags runtime;
    spey_sampling_flags sampling;
    const char *ids, *decoder_ids, *system, *prompt, *prompts, *prompt_table;
    int64_t batch;
    bool json, raw, quiet;
} run_options;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static spey_status print_json(const spey_generation *g, const spey_engine *engine,
                              const int32_t *prompt, size_t n)
{
    spey_strbuf out = { 0 };
    spey_generation_write_json(g, engine, prompt, n, &out);
    spey_status status = spey_strbuf_status(&out);
    if (!status) puts(out.data);
    spey_strbuf_deinit(&out);
    return status;
}

static void print_speed(const spey_generation *g, size_t n_prompt)
{
    spey_log(
        SPEY_LOG_INFO,
        "%zu prompt tokens in %.0f ms, %lld new tokens, %.1f tokens/s, first token %.0f ms after the start (%s)",
        n_prompt, spey_ms_between(g->start_ns, g->first_ns), (long long)g->n_output,
        spey_generation_decode_rate(g), spey_ms_between(spey_process_start_ns, g->first_ns),
        spey_finish_text(g->finish));
}

/* ---- one generation ---- */

static spey_status generate(spey_context *context, const spey_request_options *request,
                            spey_generation *g)
{
    spey_request_options options = *request;
    options.on_output = spey_generation_on_output;
    options.user = g;
    g->start_ns = spey_clock_ns();
    g->interrupted = &interrupted;
    SPEY_TRY(spey_context_submit_request(context, &options, NULL));
    SPEY_TRY(spey_context_run(context));
    if (g->write_failed) return SPEY_FAIL(SPEY_IO, "cannot write to standard output");
    if (g->finish == SPEY_FINISH_ERROR) return SPEY_FAIL(SPEY_INVALID, "%s", g->error);
    return SPEY_OK;
}

static spey_status run_once(const run_options *o, const spey_engine *engine, spey_context *context,
                            const spey_request_options *request)
{
    spey_generation g = { .stream = !o->json };
    const int32_t *ids = request->prompt;
    size_t n = request->n_prompt;
    spey_status status = generate(context, request, &g);
    if (!status && o->json) {
        status = print_json(&g, engine, ids, n);
    } else if (!status) {
        if (!spey_engine_has_tokenizer(engine))
            printf("%s", g.output_ids.data ? g.output_ids.data : "");
        putchar('\n');
        fflush(stdout);
        if (!o->quiet) print_speed(&g, n);
    }
    spey_generation_deinit(&g);
    return status;
}

/* Prompt after prompt from the terminal; a conversation when there is a chat template. */
static spey_status run_interactive(const run_options *o, const spey_engine *engine,
                                   spey_context *context, spey_request_options *request,
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
        if (messages) status = spey_prompt_add_message(messages, "user", line, (size_t)len);
        if (!status)
            status = messages ? spey_prompt_encode_chat(engine, messages, &ids, &n)
                              : spey_prompt_encode(engine, line, (size_t)len, true, &ids, &n);
        if (!status && request->prompt_table)
            status = spey_prompt_begin_with_table(engine, request->prompt_table, &ids, &n);
        spey_generation g = { .stream = true };
        interrupted = 0;
        request->prompt = ids;
        request->n_prompt = n;
        if (!status) status = generate(context, request, &g);
        putchar('\n');
        fflush(stdout);
        if (!status && !o->quiet) print_speed(&g, n);
        if (!status && messages)
            status = spey_prompt_add_message(messages, "assistant", g.text.data ? g.text.data : "",
                                             g.text.len);
        /* A prompt that does not fit ends itself, not the session. */
        if (status == SPEY_LIMIT) {
            spey_report(status);
            status = SPEY_OK;
        }
        spey_generation_deinit(&g);
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
    return o->system ? spey_prompt_add_message(*out, "system", o->system, strlen(o->system))
                     : SPEY_OK;
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
    if (!status && messages) status = spey_prompt_add_message(messages, "user", data, text.len);
    if (!status)
        status = messages ? spey_prompt_encode_chat(engine, messages, ids, n)
                          : spey_prompt_encode(engine, data, text.len, true, ids, n);
    spey_strbuf_deinit(&text);
    return status;
}

/* What all requests have in common; *decoder_ids and *file are the caller's to free. */
static spey_status read_request(const run_options *o, spey_request_options *request,
                                int32_t **decoder_ids, spey_table_file **file)
{
    if (o->prompt_table) {
        SPEY_TRY(spey_table_file_open(o->prompt_table, file));
        request->prompt_table = spey_table_file_table(*file);
    }
    if (o->decoder_ids)
        SPEY_TRY(
            spey_args_ids("--decoder-ids", o->decoder_ids, decoder_ids, &request->n_decoder_ids));
    request->decoder_ids = *decoder_ids;
    return SPEY_OK;
}

/* One prompt, or as many as are typed. */
static spey_status run_here(const run_options *o, const spey_engine *engine, spey_context *context,
                            spey_request_options *request)
{
    json_t *messages = NULL;
    int32_t *ids = NULL;
    spey_status status = new_conversation(o, engine, &messages);
    if (!status && !o->ids && !o->prompt && isatty(STDIN_FILENO)) {
        status = run_interactive(o, engine, context, request, messages);
    } else if (!status) {
        status = read_prompt(o, engine, messages, &ids, &request->n_prompt);
        if (!status && request->prompt_table && !o->ids)
            status = spey_prompt_begin_with_table(engine, request->prompt_table, &ids,
                                                  &request->n_prompt);
        request->prompt = ids;
        if (!status) status = run_once(o, engine, context, request);
    }
    spey_free(ids);
    json_decref(messages);
    return status;
}

static spey_status run_request(const run_options *o, const spey_engine *engine,
                               spey_request_options *request)
{
    spey_context_options options;
    spey_context *context;
    spey_context_options_from(&o->runtime, &options);
    if (o->prompts) {
        options.sequences_max = (int32_t)o->batch;
        return spey_run_prompts(o->prompts, engine, &options, request, o->raw);
    }
    int32_t width = spey_sampling_width(request->sampling);
    if (options.sequences_max < width) options.sequences_max = width;
    if (request->prompt_table) options.prompt_table_tokens_max = request->prompt_table->n_rows;
    SPEY_TRY(spey_context_new(engine, &options, &context));
    spey_status status = run_here(o, engine, context, request);
    spey_context_free(context);
    return status;
}

static spey_status run_engine(const run_options *o, const spey_engine *engine, spey_arena *arena)
{
    spey_sampling sampling;
    int32_t *decoder_ids = NULL;
    spey_table_file *file = NULL;
    spey_request_options request;
    spey_request_options_init(&request);
    request.sampling = &sampling;
    spey_status status = spey_sampling_from_flags(&o->sampling, engine, arena, &sampling);
    if (!status) status = read_request(o, &request, &decoder_ids, &file);
    if (!status) status = run_request(o, engine, &request);
    spey_free(decoder_ids);
    spey_table_file_close(file);
    return status;
}

static spey_status run_model(const run_options *o, const char *path)
{
    spey_engine *engine;
    SPEY_TRY(spey_open_model(path, &o->runtime, &engine));
    spey_arena arena;
    spey_arena_init(&arena, SPEY_PURPOSE_GENERAL);
    spey_status status = run_engine(o, engine, &arena);
    spey_arena_deinit(&arena);
    spey_engine_close(engine);
    return status;
}

int spey_cmd_run(int argc, char **argv)
{
    run_options o = { .batch = 16 };
    spey_sampling_flags_init(&o.sampling);
    const spey_option table[] = {
        SPEY_SAMPLING_OPTIONS(&o.sampling),
        { "ids", SPEY_OPTION_TEXT, &o.ids, "IDS", "the prompt as token ids (1,2,3)", 0, 0 },
        { "decoder-ids", SPEY_OPTION_TEXT, &o.decoder_ids, "IDS",
          "model with an encoder: what the decoder begins with (default: the model's start);\n"
          "the prompt is the encoder's input",
          0, 0 },
        { "prompt-table", SPEY_OPTION_TEXT, &o.prompt_table, "FILE",
          "embeddings (p-tuning): tensor prompt_embeddings [rows, hidden] of a safetensors\n"
          "file; its rows come before a prompt that is text, --ids name them: vocabulary + row",
          0, 0 },
        { "prompts", SPEY_OPTION_TEXT, &o.prompts, "FILE",
          "many prompts: one object per line with \"prompt\", \"ids\" or \"messages\", and options\n"
          "of its own by these names (max_tokens, …); prints one object per line",
          0, 0 },
        { "batch", SPEY_OPTION_INT, &o.batch, "N",
          "with --prompts: how many run at once (default: 16)", 1, 65536 },
        { "system", SPEY_OPTION_TEXT, &o.system, "TEXT", "system message of a chat", 0, 0 },
        { "raw", SPEY_OPTION_FLAG, &o.raw, NULL, "no chat template, even if the model has one", 0,
          0 },
        { "json", SPEY_OPTION_FLAG, &o.json, NULL,
          "print one object: prompt_ids, output_ids, text, finish_reason,\nlogprobs, timings", 0,
          0 },
        { "quiet", SPEY_OPTION_FLAG, &o.quiet, NULL, "no speed on stderr", 0, 0 },
        SPEY_STEP_OPTIONS(&o.runtime),
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
            "  spey run demo.spey --prompts prompts.jsonl --max-tokens 64 > answers.jsonl\n"
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
    if (o.prompts && (o.prompt || o.ids || o.system)) {
        SPEY_FAIL(SPEY_INVALID,
                  "--prompts is the prompt: give no PROMPT, --ids or --system with it");
        return spey_report_usage();
    }
    return spey_report(run_model(&o, args.positional[0]));
}
