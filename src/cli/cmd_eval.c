#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/eval_compare.h"
#include "cli/text_stream.h"
#include "runtime/engine_handle.h"
#include "runtime/sampler.h"
#include "tensor/safetensors.h"

typedef struct eval_options {
    spey_runtime_flags runtime;
    const char *perplexity, *input_ids, *dump_logits, *against, *text;
    int64_t window, windows;
    bool json;
} eval_options;

/* ---- perplexity ---- */

/* One window: the model sees ids[0, n), and is judged by what it says of ids[1, n]. */
typedef struct scorer {
    const int32_t *ids;
    int64_t vocab_size;
    double nll;
    int64_t n_scored;
    int64_t n_targets; /* positions that have a successor */
} scorer;

static void score_row(void *user, size_t position, float *logits)
{
    scorer *s = user;
    if ((int64_t)position >= s->n_targets) return;
    s->nll += spey_log_sum_exp(logits, s->vocab_size) - (double)logits[s->ids[position + 1]];
    s->n_scored++;
}

static spey_status score_stream(const eval_options *o, const spey_engine *engine,
                                spey_context *context, const spey_ids *stream)
{
    scorer s = { .vocab_size = spey_engine_vocab_size(engine) };
    const spey_windows windows = spey_windows_cut((int64_t)stream->len, o->window, o->windows);
    spey_progress progress;
    spey_progress_begin(&progress, "perplexity", (uint64_t)windows.n);
    uint64_t start = spey_clock_ns();
    for (int64_t w = 0; w < windows.n; w++) {
        int64_t begin, len;
        spey_windows_at(&windows, w, &begin, &len);
        s.ids = stream->data + begin;
        s.n_targets = len;
        SPEY_TRY(spey_context_logits(context, s.ids, (size_t)len, score_row, &s));
        spey_progress_update(&progress, (uint64_t)w + 1);
    }
    spey_progress_end(&progress);
    double seconds = spey_clock_seconds_since(start), perplexity = exp(s.nll / (double)s.n_scored);
    if (o->json)
        printf(
            "{\"perplexity\": %.10g, \"tokens\": %lld, \"nll\": %.12g, \"windows\": %lld, \"window\": %lld, "
            "\"seconds\": %.3f}\n",
            perplexity, (long long)s.n_scored, s.nll, (long long)windows.n, (long long)o->window,
            seconds);
    else
        printf("perplexity %.4f over %lld tokens in %lld windows of %lld (%.0f tokens/s)\n",
               perplexity, (long long)s.n_scored, (long long)windows.n, (long long)o->window,
               (double)s.n_scored / seconds);
    return SPEY_OK;
}

/* ---- logits ---- */

typedef struct dump {
    float *next;
    int64_t vocab_size;
} dump;

static void dump_row(void *user, size_t position, float *logits)
{
    dump *d = user;
    (void)position;
    memcpy(d->next, logits, (size_t)d->vocab_size * sizeof *logits);
    d->next += d->vocab_size;
}

/* A tensor of ids, row by row; sequences of one length. */
typedef struct id_rows {
    int32_t *ids;
    int64_t batch, length;
} id_rows;

static spey_status read_rows(const eval_options *o, const spey_safetensors *file, const char *name,
                             int64_t vocab_size, id_rows *out)
{
    const spey_safetensor *tensor = spey_safetensors_find(file, name);
    *out = (id_rows){ 0 };
    if (!tensor || tensor->dtype != SPEY_I64 || tensor->n_dims != 2)
        return SPEY_FAIL(SPEY_FORMAT, "%s: expected a tensor \"%s\" of i64 [batch, length]",
                         o->input_ids, name);
    size_t n = (size_t)(tensor->dims[0] * tensor->dims[1]);
    int32_t *ids = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, n);
    if (!ids) return SPEY_NOMEM;
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        memcpy(&id, (const int64_t *)tensor->data + i, sizeof id); /* the file may not align it */
        if (id < 0 || id >= vocab_size) {
            spey_free(ids);
            return SPEY_FAIL(SPEY_INVALID, "\"%s\" holds the id %lld, expected 0 to %lld", name,
                             (long long)id, (long long)vocab_size - 1);
        }
        ids[i] = (int32_t)id;
    }
    *out = (id_rows){ ids, tensor->dims[0], tensor->dims[1] };
    return SPEY_OK;
}

/* Row b of the sequences; `source` without ids: no encoder. */
static spey_status dump_one(spey_context *context, const id_rows *sequence, const id_rows *source,
                            int64_t b, dump *d)
{
    spey_id_list ids = { sequence->ids + b * sequence->length, (size_t)sequence->length };
    if (!source->ids) return spey_context_logits(context, ids.ids, ids.n, dump_row, d);
    spey_id_list input = { source->ids + b * source->length, (size_t)source->length };
    return spey_context_decoder_logits(context, &input, &ids, dump_row, d);
}

static spey_status dump_sequences(const eval_options *o, spey_context *context, int64_t vocab_size,
                                  const id_rows *sequence, const id_rows *source)
{
    int64_t batch = sequence->batch, length = sequence->length;
    size_t n = (size_t)(batch * length);
    spey_safetensor out = {
        .name = "logits", .dtype = SPEY_F32, .n_dims = 3, .dims = { batch, length, vocab_size }
    };
    if (!spey_mul_size(n * sizeof(float), (size_t)vocab_size, &out.bytes))
        return SPEY_FAIL(SPEY_LIMIT, "the logits would be too large");
    float *logits = spey_alloc(SPEY_PURPOSE_GENERAL, out.bytes);
    spey_status status = logits ? SPEY_OK : SPEY_NOMEM;
    dump d = { logits, vocab_size };
    for (int64_t b = 0; !status && b < batch; b++)
        status = dump_one(context, sequence, source, b, &d);
    out.data = logits;
    if (!status) status = spey_safetensors_write(o->dump_logits, &out, 1);
    spey_free(logits);
    return status;
}

static spey_status dump_logits(const eval_options *o, const spey_engine *engine,
                               spey_context *context)
{
    spey_safetensors *file;
    SPEY_TRY(spey_safetensors_open(o->input_ids, &file));
    int64_t vocab_size = spey_engine_vocab_size(engine);
    id_rows sequence, source = { 0 };
    spey_status status = read_rows(o, file, "sequence", vocab_size, &sequence);
    if (!status && spey_engine_has_encoder(engine))
        status = read_rows(o, file, "input_ids", vocab_size, &source);
    if (!status && source.ids && source.batch != sequence.batch)
        status = SPEY_FAIL(SPEY_FORMAT, "%s: %lld inputs for %lld sequences", o->input_ids,
                           (long long)source.batch, (long long)sequence.batch);
    if (!status) status = dump_sequences(o, context, vocab_size, &sequence, &source);
    spey_free(sequence.ids);
    spey_free(source.ids);
    spey_safetensors_close(file);
    return status;
}

static spey_status evaluate(const eval_options *o, const char *path)
{
    spey_engine *engine;
    SPEY_TRY(spey_open_model(path, &o->runtime, &engine));
    spey_context_options options;
    spey_context_options_from(&o->runtime, &options);
    if (o->perplexity && !o->runtime.context) options.sequence_tokens_max = o->window;
    spey_context *context = NULL;
    spey_ids stream = { 0 };
    spey_status status = SPEY_OK;
    if (o->perplexity && spey_engine_has_encoder(engine))
        status = SPEY_FAIL(SPEY_UNSUPPORTED,
                           "perplexity is of text that goes on; this model has an encoder");
    if (!status) status = spey_context_new(engine, &options, &context);
    if (!status && o->perplexity) {
        status = spey_text_stream(o->perplexity, engine, &stream);
        if (!status) status = score_stream(o, engine, context, &stream);
    }
    if (!status && o->input_ids) status = dump_logits(o, engine, context);
    spey_ids_deinit(&stream);
    spey_context_free(context);
    spey_engine_close(engine);
    return status;
}

static spey_status compare(const eval_options *o, const char *path)
{
    const spey_compare_options options = { .model = path,
                                           .against = o->against,
                                           .text = o->text,
                                           .window = o->window,
                                           .windows = o->windows,
                                           .runtime = &o->runtime,
                                           .json = o->json };
    return spey_compare(&options);
}

static spey_status check_options(const eval_options *o)
{
    if (!o->against != !o->text)
        return SPEY_FAIL(SPEY_INVALID, "--against and --text belong together");
    if (o->against && (o->perplexity || o->input_ids))
        return SPEY_FAIL(SPEY_INVALID,
                         "--against gives both perplexities: it goes with --text alone");
    if (o->against) return SPEY_OK;
    if (!o->perplexity && !o->input_ids)
        return SPEY_FAIL(
            SPEY_INVALID,
            "nothing to do: give --perplexity FILE, --against MODEL --text FILE, or --input-ids "
            "FILE --dump-logits OUT");
    if (!o->input_ids != !o->dump_logits)
        return SPEY_FAIL(SPEY_INVALID, "--input-ids and --dump-logits belong together");
    return SPEY_OK;
}

int spey_cmd_eval(int argc, char **argv)
{
    eval_options o = { .window = 1024 };
    const spey_option table[] = {
        { "perplexity", SPEY_OPTION_TEXT, &o.perplexity, "FILE", "text to be judged by the model",
          0, 0 },
        { "against", SPEY_OPTION_TEXT, &o.against, "MODEL",
          "compare with this model, which is taken to be right", 0, 0 },
        { "text", SPEY_OPTION_TEXT, &o.text, "FILE", "text to compare over", 0, 0 },
        { "window", SPEY_OPTION_INT, &o.window, "N",
          "tokens the model sees at once (default: 1024)", 1, 1 << 27 },
        { "windows", SPEY_OPTION_INT, &o.windows, "N", "only the first N windows", 0, 1 << 27 },
        { "input-ids", SPEY_OPTION_TEXT, &o.input_ids, "FILE",
          "safetensors with sequence i64[B,T];\nfor a model with an encoder also its input_ids i64[B,S]",
          0, 0 },
        { "dump-logits", SPEY_OPTION_TEXT, &o.dump_logits, "OUT",
          "safetensors with logits f32[B,T,V]", 0, 0 },
        { "json", SPEY_OPTION_FLAG, &o.json, NULL, "print one JSON object", 0, 0 },
        SPEY_RUNTIME_OPTIONS(&o.runtime),
    };
    const spey_command command = {
        .name = "eval",
        .summary = "measure perplexity, compare two models, or write logits",
        .usage = "MODEL --perplexity FILE|--against MODEL --text FILE [options]",
        .details =
            "Perplexity: begin-of-text + text + end-of-text is one stream of tokens, cut into windows that do not overlap;\n"
            "every token but the first is predicted from those before it in its window.\n"
            "Comparison: over the same windows, how far MODEL's distributions are from those of the other (KL divergence,\n"
            "nats), how often the best tokens agree, and both perplexities.",
        .examples =
            "  spey eval models/demo --perplexity book.txt --window 1024 --windows 120\n"
            "  spey eval demo-fp8.spey --against demo.spey --text book.txt --window 512 --json\n"
            "  spey eval demo.spey --input-ids ids.safetensors --dump-logits logits.safetensors",
        .options = table,
        .n_options = sizeof table / sizeof *table,
        .positional_min = 1,
        .positional_max = 1,
    };
    spey_args args;
    int exit_code;
    if (!spey_command_begin(&command, argc, argv, &args, &exit_code)) return exit_code;
    if (check_options(&o)) return spey_report_usage();
    return spey_report(o.against ? compare(&o, args.positional[0])
                                 : evaluate(&o, args.positional[0]));
}
