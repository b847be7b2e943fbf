#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "cli/command.h"
#include "engine/engine_file.h"
#include "text/tokenizer.h"

typedef struct tokenize_options {
    bool jsonl, no_special, decode;
    const char *text;
} tokenize_options;

/* A tokenizer of any kind of path; `engine`, when not NULL afterwards, must outlive it. */
static spey_status open_tokenizer(const char *path, spey_engine_file **engine, spey_tokenizer **out)
{
    *engine = NULL;
    if (spey_file_is_dir(path) || !spey_engine_file_probe(path))
        return spey_tokenizer_open(path, out);
    SPEY_TRY(spey_engine_file_open(path, NULL, engine));
    const void *blob;
    size_t n;
    if (spey_engine_file_section(*engine, "tokenizer", &blob, &n))
        return SPEY_FAIL(SPEY_NOT_FOUND, "%s: has no tokenizer", path);
    return spey_tokenizer_read(path, blob, n, out);
}

static void print_ids(const spey_ids *ids, spey_strbuf *out)
{
    spey_strbuf_putc(out, '[');
    for (size_t i = 0; i < ids->len; i++)
        spey_strbuf_printf(out, "%s%d", i ? ", " : "", ids->data[i]);
    spey_strbuf_putc(out, ']');
}

/* Encode one text; append {"ids": …, "decoded": …} and a newline. */
static spey_status print_json(const spey_tokenizer *t, const tokenize_options *o, const char *text,
                              size_t n, spey_strbuf *out)
{
    spey_ids ids = { 0 };
    spey_strbuf decoded = { 0 };
    spey_status status = spey_tokenizer_encode(t, text, n, !o->no_special, &ids);
    if (!status) status = spey_tokenizer_decode(t, ids.data, ids.len, true, &decoded);
    if (!status) {
        spey_strbuf_puts(out, "{\"ids\": ");
        print_ids(&ids, out);
        spey_strbuf_puts(out, ", \"decoded\": ");
        spey_json_quote(out, decoded.len ? decoded.data : "", decoded.len);
        spey_strbuf_puts(out, "}\n");
    }
    spey_strbuf_deinit(&decoded);
    spey_ids_deinit(&ids);
    return status;
}

/* One piece a line, for people. */
static spey_status print_pieces(const spey_tokenizer *t, const tokenize_options *o,
                                const char *text, size_t n, spey_strbuf *out)
{
    spey_ids ids = { 0 };
    spey_status status = spey_tokenizer_encode(t, text, n, !o->no_special, &ids);
    for (size_t i = 0; !status && i < ids.len; i++) {
        size_t len = 0;
        const char *piece = spey_tokenizer_piece(t, ids.data[i], &len);
        spey_strbuf_printf(out, "%8d  %.*s\n", ids.data[i], (int)len, piece ? piece : "");
    }
    spey_ids_deinit(&ids);
    return status;
}

static spey_status print_decoded(const spey_tokenizer *t, const tokenize_options *o,
                                 const char *text, spey_strbuf *out)
{
    int32_t *ids;
    size_t n;
    SPEY_TRY(spey_args_ids("--decode", text, &ids, &n));
    spey_status status = spey_tokenizer_decode(t, ids, n, o->no_special, out);
    spey_strbuf_putc(out, '\n');
    spey_free(ids);
    return status;
}

/* One {"text": …} per line. */
typedef struct jsonl_run {
    const spey_tokenizer *tokenizer;
    const tokenize_options *options;
    spey_strbuf *out;
} jsonl_run;

static spey_status tokenize_line(void *user, const char *at, const json_t *value)
{
    jsonl_run *run = user;
    const json_t *text = json_object_get(value, "text");
    if (!json_is_string(text))
        return SPEY_FAIL(SPEY_FORMAT, "%s: expected an object with a \"text\" string", at);
    SPEY_TRY(print_json(run->tokenizer, run->options, json_string_value(text),
                        json_string_length(text), run->out));
    if (run->out->len > 1 << 16) {
        fwrite(run->out->data, 1, run->out->len, stdout);
        spey_strbuf_reset(run->out);
    }
    return SPEY_OK;
}

static spey_status run_jsonl(const spey_tokenizer *t, const tokenize_options *o, const char *input,
                             size_t n, spey_strbuf *out)
{
    jsonl_run run = { t, o, out };
    return spey_jsonl_each("stdin", input, n, tokenize_line, &run);
}

static spey_status tokenize(const char *path, const tokenize_options *o)
{
    spey_engine_file *engine = NULL;
    spey_tokenizer *t = NULL;
    spey_strbuf input = { 0 }, out = { 0 };
    spey_status status = open_tokenizer(path, &engine, &t);
    if (!status && o->text)
        spey_strbuf_puts(&input, o->text);
    else if (!status)
        status = spey_read_input(NULL, &input);
    if (!status && o->decode)
        status = print_decoded(t, o, input.data ? input.data : "", &out);
    else if (!status && o->jsonl)
        status = run_jsonl(t, o, input.data, input.len, &out);
    else if (!status)
        status = print_pieces(t, o, input.data, input.len, &out);
    if (!status && spey_strbuf_status(&out)) status = SPEY_NOMEM;
    if (!status &&
        (fwrite(out.data ? out.data : "", 1, out.len, stdout) != out.len || fflush(stdout)))
        status = SPEY_FAIL(SPEY_IO, "cannot write to standard output");
    spey_strbuf_deinit(&input);
    spey_strbuf_deinit(&out);
    spey_tokenizer_free(t);
    spey_engine_file_close(engine);
    return status;
}

int spey_cmd_tokenize(int argc, char **argv)
{
    tokenize_options o = { 0 };
    const spey_option table[] = {
        { "jsonl", SPEY_OPTION_FLAG, &o.jsonl, NULL,
          "read {\"text\": …} per line from stdin,\nwrite {\"ids\": […], \"decoded\": …} per line",
          0, 0 },
        { "no-special", SPEY_OPTION_FLAG, &o.no_special, NULL,
          "add no begin- or end-of-text tokens", 0, 0 },
        { "decode", SPEY_OPTION_FLAG, &o.decode, NULL,
          "the text is token ids (1,2,3): print what they say", 0, 0 },
    };
    const spey_command command = {
        .name = "tokenize",
        .summary = "turn text into token ids and back",
        .usage = "PATH [TEXT] [options]",
        .details =
            "PATH is an engine, a checkpoint folder, a tokenizer.json or a SentencePiece .model. Without TEXT, stdin is\n"
            "read.",
        .examples = "  spey tokenize models/demo \"Once upon a time\"\n"
                    "  spey tokenize demo.spey --decode 51,1242,587\n"
                    "  echo '{\"text\": \"Hello\"}' | spey tokenize models/demo --jsonl",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .positional_min = 1,
        .positional_max = 2,
    };
    spey_args args;
    int exit_code;
    if (!spey_command_begin(&command, argc, argv, &args, &exit_code)) return exit_code;
    o.text = args.n_positional > 1 ? args.positional[1] : NULL;
    return spey_report(tokenize(args.positional[0], &o));
}
