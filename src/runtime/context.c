/* The public context: a queue of requests over one runner.
 *
 * Admission is first come, first served; a request is admitted when a slot is free and the pools hold its whole prompt and
 * output beside those of the others, so a running one never has to stop. A step takes one token of every request that decodes, then fills
 * up with prompt chunks of the others, oldest first. */
#include "runtime/context.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"
#include "engine/engine_file.h"
#include "runtime/context_impl.h"
#include "runtime/engine_handle.h"
#include "spey/spey.h"

/* Rows of logits beyond one per sequence, for prompt log-probabilities and evaluation: as many as fit in this. */
enum { LOGITS_BYTES = 8 << 20, OUTPUT_ROWS_MAX = 128 };
enum { QUEUE_MAX = 1024 };
#define DEADLINE_MS_MAX ((int64_t)1 << 40)

void spey_context_options_init(spey_context_options *options)
{
    *options = (spey_context_options){ .struct_bytes = sizeof *options };
}

void spey_sampling_init(spey_sampling *sampling)
{
    *sampling = (spey_sampling){ .struct_bytes = sizeof *sampling,
                                 .max_tokens = 128,
                                 .top_p = 1,
                                 .typical_p = 1,
                                 .repetition_penalty = 1,
                                 .logprobs = -1,
                                 .beam_groups = 1,
                                 .length_penalty = 1,
                                 .prompt_logprobs = -1,
                                 .forced_eos_id = -1,
                                 .n = 1 };
}

void spey_request_options_init(spey_request_options *options)
{
    *options = (spey_request_options){ .struct_bytes = sizeof *options };
}

const char *spey_finish_text(spey_finish finish)
{
    switch (finish) {
    case SPEY_FINISH_NONE: return "none";
    case SPEY_FINISH_EOS: return "eos";
    case SPEY_FINISH_STOP: return "stop";
    case SPEY_FINISH_LENGTH: return "length";
    case SPEY_FINISH_CANCELLED: return "cancelled";
    case SPEY_FINISH_TIMEOUT: return "timeout";
    case SPEY_FINISH_ERROR: break;
    }
    return "error";
}

/* ---- life ---- */

static int64_t output_rows(int64_t sequences, int64_t vocab_size)
{
    int64_t rows = LOGITS_BYTES / (4 * vocab_size);
    rows = rows < OUTPUT_ROWS_MAX ? rows : OUTPUT_ROWS_MAX;
    return rows > sequences ? rows : sequences;
}

int32_t spey_context_queue_max(const spey_context_options *options)
{
    return options->queue_max > 0 ? options->queue_max : QUEUE_MAX;
}

static spey_status open_scheduler(spey_context *c, const spey_context_options *o)
{
    const spey_limits_plan *plan = &c->plan->limits;
    spey_scheduler_limits limits = { .policy = o->policy,
                                     .sequences_max = plan->sequences_max,
                                     .queue_max = spey_context_queue_max(o),
                                     .step_tokens_max = plan->step_tokens_max,
                                     .step_outputs_max = plan->outputs_max,
                                     .step_prefill_max = o->step_prefill_max,
                                     .ahead = c->ahead,
                                     .kv = *spey_kv_get_limits(spey_runner_kv(c->runner)) };
    SPEY_TRY(spey_scheduler_new(&limits, &c->scheduler));
    for (int i = 0; i < SPEY_TURNS_MAX; i++)
        SPEY_TRY(spey_schedule_init(&c->turns[i].schedule, &limits));
    c->step = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_step_seq, limits.sequences_max);
    c->links = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_step_link, limits.sequences_max);
    c->rows = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_row, limits.sequences_max);
    c->growths = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_growth, limits.sequences_max);
    return c->step && c->links && c->rows && c->growths ? SPEY_OK : SPEY_NOMEM;
}

/* Plan once to see what is left for the KV cache. */
static spey_status choose_kv_bytes(const spey_engine *engine, const spey_context_options *o,
                                   spey_limits_plan *limits)
{
    if (!(o->kv_fraction > 0 && o->kv_fraction <= 1))
        return SPEY_FAIL(SPEY_INVALID, "kv_fraction is %g, expected 0 to 1", o->kv_fraction);
    if (o->kv_bytes) return SPEY_FAIL(SPEY_INVALID, "kv_fraction and kv_bytes exclude each other");
    spey_plan plan;
    SPEY_TRY(spey_runner_plan(engine->file, limits, &plan));
    uint64_t other = plan.total_bytes;
    for (int i = 0; i < plan.n_lines; i++)
        if (plan.lines[i].counted && !strcmp(plan.lines[i].what, "kv cache"))
            other -= plan.lines[i].bytes;
    uint64_t room = plan.available_bytes > other ? plan.available_bytes - other : 0;
    limits->kv_bytes = (uint64_t)((double)room * o->kv_fraction);
    return SPEY_OK;
}

/* An id that the model has no logit of is never drawn, and must not be banned. */
static void keep_eos(spey_context *c, const spey_model_info *info)
{
    c->eos.ids = c->eos_ids;
    for (int32_t i = 0; i < info->n_eos; i++)
        if (info->eos_ids[i] < info->vocab_size) c->eos_ids[c->eos.n++] = info->eos_ids[i];
}

static uint64_t kv_file_bytes(const spey_context_options *o)
{
    return o->kv_file_bytes ? o->kv_file_bytes : SPEY_KV_FILE_BYTES;
}

static spey_status open_runner(spey_context *c, const spey_context_options *o)
{
    const spey_model_info *info = spey_engine_file_info(c->engine->file);
    c->vocab_size = info->vocab_size;
    keep_eos(c, info);
    int32_t sequences = o->sequences_max > 0 ? o->sequences_max : 1;
    spey_limits_plan limits = { .device = o->device,
                                .threads = o->threads,
                                .sequences_max = sequences,
                                .step_tokens_max = o->step_tokens_max,
                                .outputs_max = output_rows(sequences, info->vocab_size),
                                .sequence_tokens_max = o->sequence_tokens_max,
                                .kv_bytes = o->kv_bytes,
                                .kv_block_tokens = o->kv_block_tokens,
                                .kv_dtype = o->kv_dtype,
                                .kv_host_bytes = o->kv_host_bytes,
                                .kv_file_bytes = o->kv_file ? kv_file_bytes(o) : 0,
                                .no_kv_reuse = o->no_kv_reuse,
                                .ahead = o->ahead,
                                .batch_invariant = o->batch_invariant,
                                .tune = o->tune,
                                .prompt_table_tokens_max = o->prompt_table_tokens_max,
                                .memory_bytes_max = o->memory_bytes_max };
    if (o->kv_fraction != 0) SPEY_TRY(choose_kv_bytes(c->engine, o, &limits));
    SPEY_TRY(spey_runner_new(c->engine->file, &limits, &c->runner));
    c->plan = spey_runner_get_plan(c->runner);
    /* Encoders run between steps. */
    c->ahead = spey_limits_are_ahead(&c->plan->limits) && !c->plan->source_tokens_max;
    SPEY_TRY(spey_sampler_new(c->vocab_size, &c->sampler));
    SPEY_TRY(spey_guide_table_new(o->guide_bytes, c->eos.ids, c->eos.n, &c->guides));
    return open_scheduler(c, o);
}

/* What is under way serves nobody any more. */
static void end_steps(spey_context *c)
{
    spey_step_rows rows;
    while (spey_runner_under_way(c->runner))
        (void)spey_runner_wait(c->runner, &rows);
}

/* A cache that is lost costs time alone: what the system refuses is no failure. Somebody else's file is one: it would be his
 * that is lost. */
static spey_status open_kv_file(spey_context *c, const spey_context_options *o)
{
    if (!o->kv_file) return SPEY_OK;
    spey_status status = spey_runner_open_kv_file(c->runner, o->kv_file, kv_file_bytes(o));
    if (status != SPEY_IO && status != SPEY_UNSUPPORTED) return status;
    spey_log(SPEY_LOG_WARNING, "there is no KV file: %s", spey_last_error());
    return SPEY_OK;
}

static void close_kv_file(spey_context *c)
{
    if (c->runner && spey_runner_close_kv_file(c->runner))
        spey_log(SPEY_LOG_WARNING, "the KV cache is not saved: %s", spey_last_error());
}

spey_status spey_context_new(const spey_engine *engine, const spey_context_options *options,
                             spey_context **out)
{
    *out = NULL;
    spey_context_options defaults;
    spey_context_options_init(&defaults);
    if (!options) options = &defaults;
    if (options->struct_bytes != sizeof *options)
        return SPEY_FAIL(SPEY_INVALID,
                         "spey_context_options was not filled by spey_context_options_init");
    spey_context *c = spey_new(SPEY_PURPOSE_RUNTIME, spey_context);
    if (!c) return SPEY_NOMEM;
    c->engine = engine;
    c->next_id = 1;
    spey_status status = open_runner(c, options);
    if (!status) status = open_kv_file(c, options);
    if (status) {
        spey_context_free(c);
        return status;
    }
    *out = c;
    return SPEY_OK;
}

void spey_context_free(spey_context *c)
{
    if (!c) return;
    while (c->first) {
        spey_request *next = c->first->next;
        spey_request_free(c->first);
        c->first = next;
    }
    spey_guide_table_free(c->guides);
    spey_scheduler_free(c->scheduler);
    for (int i = 0; i < SPEY_TURNS_MAX; i++)
        spey_schedule_deinit(&c->turns[i].schedule);
    spey_free(c->step);
    spey_free(c->links);
    spey_free(c->rows);
    spey_free(c->growths);
    if (c->runner) end_steps(c);
    close_kv_file(c);
    spey_sampler_free(c->sampler);
    spey_runner_free(c->runner);
    spey_free(c);
}

spey_runner *spey_context_runner(spey_context *c)
{
    return c->runner;
}

spey_scheduler_counts spey_context_counts(const spey_context *c)
{
    return spey_scheduler_count(c->scheduler);
}

/* ---- requests in ---- */

/* Ids are tokens, or behind them rows of a table. */
static spey_status check_prompt(const spey_context *c, const int32_t *ids, size_t n, int64_t n_rows)
{
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= 0 && ids[i] < c->vocab_size + n_rows) continue;
        if (n_rows)
            return SPEY_FAIL(SPEY_INVALID,
                             "prompt token %zu is %d, expected 0 to %lld, or to %lld for the %lld "
                             "rows of the prompt table",
                             i, ids[i], (long long)c->vocab_size - 1,
                             (long long)(c->vocab_size + n_rows - 1), (long long)n_rows);
        return SPEY_FAIL(SPEY_INVALID, "prompt token %zu is %d, expected 0 to %lld", i, ids[i],
                         (long long)c->vocab_size - 1);
    }
    return SPEY_OK;
}

static spey_status check_table(const spey_context *c, const spey_prompt_table *table)
{
    spey_prompt_table_limits limits = { c->plan->limits.prompt_table_tokens_max,
                                        spey_engine_hidden_size(c->engine) };
    if (c->plan->source_tokens_max)
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "the model has an encoder: a request to it brings no prompt table");
    return spey_prompt_table_check(table, &limits);
}

static spey_status check_retention(const spey_request_options *o)
{
    if (o->n_retention > SPEY_RETENTION_RANGES_MAX)
        return SPEY_FAIL(SPEY_INVALID, "retention has %zu ranges, %d are the most", o->n_retention,
                         SPEY_RETENTION_RANGES_MAX);
    for (size_t i = 0; i < o->n_retention; i++) {
        const spey_retention_range *range = &o->retention[i];
        if (range->begin < 0 || (range->end && range->end <= range->begin))
            return SPEY_FAIL(SPEY_INVALID, "retention %zu is of tokens %lld to %lld", i,
                             (long long)range->begin, (long long)range->end);
        if (range->priority < 0 || range->priority > 100)
            return SPEY_FAIL(SPEY_INVALID, "retention %zu has priority %d, expected 0 to 100", i,
                             range->priority);
        if (range->duration_ms < 0 || range->duration_ms > DEADLINE_MS_MAX)
            return SPEY_FAIL(SPEY_INVALID, "retention %zu lasts %lld ms, expected 0 to %lld", i,
                             (long long)range->duration_ms, (long long)DEADLINE_MS_MAX);
    }
    return SPEY_OK;
}

static spey_status check_options(const spey_context *c, const spey_request_options *o,
                                 const spey_sampling *sampling)
{
    if (o->struct_bytes != sizeof *o)
        return SPEY_FAIL(SPEY_INVALID,
                         "spey_request_options was not filled by spey_request_options_init");
    if (o->priority < SPEY_PRIORITY_MIN || o->priority > SPEY_PRIORITY_MAX)
        return SPEY_FAIL(SPEY_INVALID, "priority is %d, expected %d to %d", o->priority,
                         SPEY_PRIORITY_MIN, SPEY_PRIORITY_MAX);
    if (o->deadline_ms < 0 || o->deadline_ms > DEADLINE_MS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "deadline_ms is %lld, expected 0 to %lld",
                         (long long)o->deadline_ms, (long long)DEADLINE_MS_MAX);
    SPEY_TRY(check_retention(o));
    SPEY_TRY(spey_sampling_check(sampling, c->vocab_size));
    if (o->prompt_table) SPEY_TRY(check_table(c, o->prompt_table));
    return check_prompt(c, o->prompt, o->n_prompt, o->prompt_table ? o->prompt_table->n_rows : 0);
}

static spey_status check_source(const spey_context *c, size_t n)
{
    int64_t most = c->plan->source_tokens_max;
    if (n < 1) return SPEY_FAIL(SPEY_INVALID, "the encoder's input is empty");
    if (n > (size_t)most)
        return SPEY_FAIL(SPEY_LIMIT,
                         "the encoder's input has %zu tokens, %lld are the most: shorten it or "
                         "raise the tokens of a step",
                         n, (long long)most);
    return SPEY_OK;
}

/* With an encoder the prompt is its input, and the sequence begins with decoder_ids, or with `start`. */
static spey_status split_prompt(const spey_context *c, int32_t start[2], spey_request_options *o,
                                spey_id_list *source)
{
    const spey_model_info *info = spey_engine_file_info(c->engine->file);
    if (!c->plan->source_tokens_max && o->n_decoder_ids)
        return SPEY_FAIL(SPEY_INVALID, "decoder_ids are given, but the model has no encoder");
    if (!c->plan->source_tokens_max) return SPEY_OK;
    SPEY_TRY(check_source(c, o->n_prompt));
    *source = (spey_id_list){ o->prompt, o->n_prompt };
    start[0] = info->decoder_start_id;
    start[1] = info->forced_bos_id;
    o->prompt = o->n_decoder_ids ? o->decoder_ids : start;
    o->n_prompt = o->n_decoder_ids ? o->n_decoder_ids : info->forced_bos_id < 0 ? 1 : 2;
    return check_prompt(c, o->prompt, o->n_prompt, 0);
}

spey_status spey_context_prepare(const spey_context *c, const spey_request_options *options,
                                 spey_request **out)
{
    *out = NULL;
    spey_sampling defaults;
    spey_sampling_init(&defaults);
    const spey_sampling *sampling = options->sampling ? options->sampling : &defaults;
    SPEY_TRY(check_options(c, options, sampling));
    int32_t start[2];
    spey_request_options decoder = *options;
    spey_id_list source = { 0 };
    SPEY_TRY(split_prompt(c, start, &decoder, &source));
    /* A sequence that could never get its blocks would wait for ever. */
    int64_t limit = c->plan->limits.sequence_tokens_max;
    limit = c->plan->kv_tokens < limit ? c->plan->kv_tokens : limit;
    const spey_guide_vocab *guide_vocab = NULL;
    if (sampling->guide != SPEY_GUIDE_NONE)
        SPEY_TRY(spey_engine_guide_vocab(c->engine, &guide_vocab));
    spey_request_setup setup = { .options = &decoder,
                                 .sampling = sampling,
                                 .source = source,
                                 .sequence_tokens_max = limit,
                                 .tokenizer = c->engine->tokenizer,
                                 .guide_vocab = guide_vocab,
                                 .guides = c->guides,
                                 .vocab_size = c->vocab_size,
                                 .eos = c->eos,
                                 .now_ns = spey_clock_ns() };
    return spey_request_new(&setup, out);
}

spey_status spey_context_queue(spey_context *c, spey_request *r)
{
    spey_job job = { .owner = r,
                     .ids = r->choices[0].ids,
                     .salt = r->cache_salt,
                     .n_prompt = r->n_prompt,
                     .n_max = r->ids_max,
                     .n_source = r->n_source,
                     .width = r->width,
                     .all_rows = r->sampling.prompt_logprobs >= 0 || r->context_logits,
                     .priority = r->priority,
                     .tenant = r->tenant,
                     .deadline_ns = r->deadline_ns,
                     .retention = r->retention,
                     .n_retention = r->n_retention };
    const spey_kv_key key = { .salt = job.salt, .ids = job.ids, .n = job.n_prompt };
    job.fetch = !job.all_rows && spey_kv_file_has_more(spey_runner_kv(c->runner), &key);
    SPEY_TRY(spey_scheduler_submit(c->scheduler, &job, &r->ticket));
    r->previous = c->last;
    *(c->last ? &c->last->next : &c->first) = r;
    c->last = r;
    c->n_requests++;
    return SPEY_OK;
}

spey_status spey_context_submit_request(spey_context *c, const spey_request_options *options,
                                        uint64_t *out_request)
{
    spey_request *r;
    SPEY_TRY(spey_context_prepare(c, options, &r));
    r->id = c->next_id;
    spey_status status = spey_context_queue(c, r);
    if (status) {
        spey_request_free(r);
        return status;
    }
    c->next_id++;
    if (out_request) *out_request = r->id;
    return SPEY_OK;
}

spey_status spey_context_submit(spey_context *c, const int32_t *prompt, size_t n,
                                const spey_sampling *sampling, spey_output_fn on_output, void *user,
                                uint64_t *out_request)
{
    spey_request_options options;
    spey_request_options_init(&options);
    options.prompt = prompt;
    options.n_prompt = n;
    options.sampling = sampling;
    options.on_output = on_output;
    options.user = user;
    return spey_context_submit_request(c, &options, out_request);
}

spey_status spey_context_cancel(spey_context *c, uint64_t request)
{
    for (spey_request *r = c->first; r; r = r->next) {
        if (r->id != request) continue;
        r->cancelled = c->any_cancelled = true;
        return SPEY_OK;
    }
    return SPEY_FAIL(SPEY_NOT_FOUND, "no request %llu is queued or running",
                     (unsigned long long)request);
}

/* ---- a step ---- */

/* Let go of a request whose last event was sent. */
static void retire(spey_context *c, spey_request *r)
{
    SPEY_ASSERT(r->ended);
    c->n_completed++;
    spey_scheduler_end(c->scheduler, spey_runner_kv(c->runner), r->ticket);
    *(r->previous ? &r->previous->next : &c->first) = r->next;
    *(r->next ? &r->next->previous : &c->last) = r->previous;
    c->n_requests--;
    spey_request_free(r);
}

static void end_cancelled(spey_context *c)
{
    if (!c->any_cancelled) return;
    c->any_cancelled = false;
    for (spey_request *r = c->first, *next; r; r = next) {
        next = r->next;
        if (!r->cancelled) continue;
        spey_request_end(r, SPEY_FINISH_CANCELLED, NULL);
        retire(c, r);
    }
}

void spey_context_end_all(spey_context *c, spey_finish finish, const char *error)
{
    while (c->first) {
        spey_request *r = c->first;
        spey_request_end(r, finish, error);
        retire(c, r);
    }
}

static void end_expired(spey_context *c, const spey_schedule *s)
{
    for (int32_t i = 0; i < s->n_expired; i++) {
        spey_request *r = spey_scheduler_owner(c->scheduler, s->expired[i]);
        spey_request_end(r, SPEY_FINISH_TIMEOUT, NULL);
        retire(c, r);
    }
}

/* The encoder for sequences that begin, also again: as many in a step as fit it. */
static spey_status encode_inputs(spey_context *c, const spey_schedule *s)
{
    const spey_kv_cache *kv = spey_runner_kv(c->runner);
    int64_t tokens = 0;
    int n = 0;
    for (int32_t i = 0; i < s->n_items; i++) {
        const spey_schedule_item *item = &s->items[i];
        const spey_request *r = item->owner;
        if (spey_kv_cross_length(kv, item->seq)) continue;
        if (tokens + r->n_source > c->plan->limits.step_tokens_max) {
            SPEY_TRY(spey_runner_encode(c->runner, c->step, n));
            tokens = n = 0;
        }
        c->step[n++] = (spey_step_seq){ .seq = item->seq, .ids = r->source, .n_ids = r->n_source };
        tokens += r->n_source;
    }
    return n ? spey_runner_encode(c->runner, c->step, n) : SPEY_OK;
}

/* What the runner gets of one item. Its token may be what the step under way will give. */
static void fill_item(spey_context *c, const spey_schedule_item *item, int32_t i)
{
    const spey_request *r = item->owner;
    const spey_choice *choice = &r->choices[item->index];
    c->step[i] = (spey_step_seq){ .seq = item->seq,
                                  .ids = choice->ids + item->from,
                                  .n_ids = item->n_tokens,
                                  .n_outputs = item->n_outputs,
                                  .table = r->table.n ? &r->table : NULL };
    int64_t length = spey_kv_length(spey_runner_kv(c->runner), item->seq);
    bool is_known = item->from + item->n_tokens <= choice->n;
    c->links[i] = (spey_step_link){ .n_flying = (int32_t)(item->from - length),
                                    .row = is_known ? -1 : r->row };
}

/* Ask for the item's rows: false when one must come. */
static bool fill_rules(const spey_context *c, const spey_schedule_item *item, spey_rule_page *page,
                       spey_sample_rule *rules)
{
    for (int32_t i = 0; i < item->n_outputs; i++)
        rules[i] = (spey_sample_rule){ .kind = SPEY_SAMPLE_NOTHING };
    return item->n_outputs == 1 &&
           spey_request_rule(item->owner, item->index, item->from + item->n_tokens, c->eos, page,
                             rules);
}

/* Ask for rows: all best ones, or by rules, or all that there are. *follow: the step gives tokens, each to the one sequence of a
 * request, before anybody sees logits. Returns the submission without its sequences. */
static spey_submission ask(const spey_context *c, const spey_schedule *s, spey_rule_page *page,
                           bool *follow)
{
    bool best = true, alone = true, chosen = true;
    for (int32_t i = 0; i < s->n_items; i++) {
        const spey_request *r = s->items[i].owner;
        if (!s->items[i].n_outputs) continue;
        best = best && spey_request_takes_best(r);
        alone = alone && r->width == 1 && !r->guide; /* a mask is of the token before */
    }
    bool rules = !best && spey_runner_rule_page(c->runner, page);
    int32_t row = 0;
    for (int32_t i = 0; i < s->n_items && rules; row += s->items[i++].n_outputs)
        if (s->items[i].n_outputs)
            chosen = fill_rules(c, &s->items[i], page, page->rules + row) && chosen;
    *follow = alone && (best || (rules && chosen));
    return (spey_submission){ .best = best, .page = rules ? page : NULL };
}

/* Copy the step together and begin it; notes which row each request's token will come from. */
static spey_status submit(spey_context *c, spey_context_turn *turn)
{
    const spey_schedule *s = &turn->schedule;
    spey_rule_page page;
    spey_submission submission = ask(c, s, &page, &turn->may_be_followed);
    int32_t row = 0;
    for (int32_t i = 0; i < s->n_items; i++) {
        fill_item(c, &s->items[i], i);
        spey_request *r = s->items[i].owner;
        row += s->items[i].n_outputs;
        r->row = row - 1;
    }
    submission.seqs = c->step;
    submission.links = c->links;
    submission.n_seqs = s->n_items;
    return spey_runner_submit(c->runner, &submission);
}

/* The device's time is not the host's: what is waited for, or what submit has done for the device. */
static spey_status await_step(spey_context *c, spey_step_rows *rows)
{
    uint64_t start_ns = spey_clock_ns(), busy_ns = spey_runner_busy_ns(c->runner);
    spey_status status = spey_runner_wait(c->runner, rows);
    c->host_since_ns += spey_limits_are_ahead(&c->plan->limits)
                            ? spey_clock_ns() - start_ns
                            : spey_runner_busy_ns(c->runner) - busy_ns;
    return status;
}

/* The rows of the oldest step under way. */
static spey_status await_rows(spey_context *c, const spey_schedule *s, spey_step_rows *rows)
{
    SPEY_TRY(await_step(c, rows));
    int64_t n = 0;
    bool faults = false;
    for (int32_t i = 0; i < s->n_items; i++)
        n += s->items[i].n_outputs;
    for (int64_t i = 0; rows->ids && i < n; i++)
        faults = faults || rows->ids[i] == SPEY_ROW_NONE;
    if (!faults || spey_runner_under_way(c->runner)) return SPEY_OK;
    rows->ids = NULL; /* the sampler finds out what is wrong with a row */
    return spey_runner_logits(c->runner, &rows->logits);
}

/* Row i of a step, of which there may be more than the item's. */
static spey_row row_at(const spey_context *c, const spey_step_rows *rows, int32_t i)
{
    bool comes = !rows->ids || rows->ids[i] == SPEY_ROW_COMES;
    spey_row row = { .id = SPEY_ROW_NONE, .logprob = NAN };
    if (comes) row.logits = rows->logits + i * c->vocab_size;
    if (!comes) row.id = rows->ids[i];
    if (comes || !rows->rules) return row;
    row.logprob = rows->logprobs[i];
    row.top_ids = rows->top_ids + rows->rules[i].tops;
    row.top_logprobs = rows->top_logprobs + rows->rules[i].tops;
    return row;
}

/* Give one item's rows, from `at` on, to its request; true when the last one is that of the sequence's newest token. */
static bool take_rows(spey_context *c, const spey_schedule_item *item, const spey_step_rows *rows,
                      int32_t at)
{
    spey_request *r = item->owner;
    int64_t first = item->from + item->n_tokens - item->n_outputs; /* position of the first row */
    spey_row last = { 0 };
    for (int32_t i = 0; i < item->n_outputs; i++) {
        last = row_at(c, rows, at + i);
        if (last.logits && first + i < r->n_prompt)
            spey_request_take_prompt_logits(r, last.logits, first + i, c->vocab_size);
    }
    if (!item->n_outputs || item->from + item->n_tokens != r->choices[item->index].n) return false;
    c->rows[item->index] = last;
    return true;
}

/* Let a request grow from its rows; what became of its sequences goes to `growths`. */
static int32_t grow(spey_context *c, spey_request *r, int32_t index, spey_growth *growths)
{
    spey_choosing choosing = { c->sampler, c->vocab_size, c->eos };
    int32_t n = 0;
    bool first = r->choices[index].n == r->n_prompt;
    for (int32_t i = 0; i < r->width; i++) {
        if (r->choices[i].finish) continue;
        if (first) c->rows[i] = c->rows[index];
        growths[n++] = (spey_growth){ .ticket = r->ticket, .index = i };
    }
    spey_request_grow(r, &choosing, c->rows);
    for (int32_t i = 0; i < n; i++) {
        const spey_choice *choice = &r->choices[growths[i].index];
        growths[i].parent = choice->parent;
        growths[i].ended = choice->finish != SPEY_FINISH_NONE;
    }
    c->any_cancelled = c->any_cancelled || r->cancelled;
    return n;
}

/* Count as stored what was computed for sequences that still have their caches. */
static void advance(spey_context *c, const spey_schedule *s)
{
    for (int32_t i = 0; i < s->n_items; i++) {
        const spey_schedule_item *item = &s->items[i];
        if (!spey_scheduler_stores(c->scheduler, item)) continue;
        const spey_request *r = item->owner;
        spey_kv_advance(spey_runner_kv(c->runner), item->seq,
                        r->choices[item->index].ids + item->from, item->n_tokens);
    }
}

/* Hand out the rows; a request's items lie together. Those of requests that have ended are nobody's. */
static void hand_out(spey_context *c, const spey_schedule *s, const spey_step_rows *rows)
{
    int32_t n = 0, row = 0;
    for (int32_t i = 0, end; i < s->n_items; i = end) {
        bool grows = false, served = spey_scheduler_serves(c->scheduler, &s->items[i]);
        for (end = i; end < s->n_items && s->items[end].request == s->items[i].request; end++) {
            grows = (served && take_rows(c, &s->items[end], rows, row)) || grows;
            row += s->items[end].n_outputs;
        }
        if (grows) n += grow(c, s->items[i].owner, s->items[i].index, c->growths + n);
    }
    c->n_grown = n;
}

/* End the oldest turn under way. */
static spey_status deliver(spey_context *c)
{
    const spey_context_turn *turn = &c->turns[c->n_delivered++ % SPEY_TURNS_MAX];
    const spey_schedule *s = &turn->schedule;
    spey_step_rows rows;
    SPEY_TRY(await_rows(c, s, &rows));
    advance(c, s);
    hand_out(c, s, &rows);
    spey_scheduler_take(c->scheduler, spey_runner_kv(c->runner), s, c->growths, c->n_grown);
    for (int32_t i = 0; i < c->n_grown; i++) {
        bool new_one = !i || c->growths[i].ticket != c->growths[i - 1].ticket;
        if (!new_one) continue;
        spey_request *r = spey_scheduler_owner(c->scheduler, c->growths[i].ticket);
        if (r->ended) retire(c, r);
    }
    end_cancelled(c);
    spey_context_note_step(c, turn);
    return SPEY_OK;
}

static bool is_under_way(const spey_context *c)
{
    return c->n_launched > c->n_delivered;
}

/* No turn is under way, or one that may be followed before its results are there. */
static bool may_launch(const spey_context *c)
{
    if (!is_under_way(c)) return true;
    return c->ahead && c->n_launched == c->n_delivered + 1 &&
           c->turns[c->n_delivered % SPEY_TURNS_MAX].may_be_followed;
}

/* Plan a turn and begin its step. *launched: there was something to do. */
static spey_status launch(spey_context *c, bool *launched)
{
    spey_context_turn *turn = &c->turns[c->n_launched % SPEY_TURNS_MAX];
    spey_schedule *s = &turn->schedule;
    spey_kv_cache *kv = spey_runner_kv(c->runner);
    turn->start_ns = spey_clock_ns();
    spey_kv_set_time(kv, turn->start_ns);
    spey_scheduler_plan(c->scheduler, kv, turn->start_ns, s);
    end_expired(c, s);
    SPEY_TRY(spey_scheduler_commit(c->scheduler, kv, s));
    *launched = s->n_items > 0;
    if (!*launched) return SPEY_OK;
    spey_context_note_schedule(c, turn);
    if (c->plan->source_tokens_max) SPEY_TRY(encode_inputs(c, s));
    SPEY_TRY(submit(c, turn));
    spey_scheduler_launch(c->scheduler, s);
    c->n_launched++;
    return SPEY_OK;
}

/* One turn is delivered, after the next one was launched where that may be. What is left under way when the last request has
 * ended serves nobody. */
spey_status spey_context_step(spey_context *c, int32_t *active)
{
    bool launched = false;
    c->host_since_ns = spey_clock_ns();
    end_cancelled(c);
    if (may_launch(c)) SPEY_TRY(launch(c, &launched));
    if (is_under_way(c) && (!launched || !may_launch(c))) SPEY_TRY(deliver(c));
    while (is_under_way(c) && !c->n_requests)
        SPEY_TRY(deliver(c));
    if (!is_under_way(c) && spey_kv_is_fetching(spey_runner_kv(c->runner)))
        SPEY_TRY(spey_runner_await_kv(c->runner));
    c->host_ns += spey_clock_ns() - c->host_since_ns;
    if (active) *active = c->n_requests;
    return SPEY_OK;
}

spey_status spey_context_run(spey_context *c)
{
    int32_t active;
    do {
        SPEY_TRY(spey_context_step(c, &active));
    } while (active > 0);
    return SPEY_OK;
}

/* ---- evaluation ---- */

/* `source` NULL: no encoder. */
static spey_status evaluate(spey_context *c, const spey_id_list *source, const spey_id_list *ids,
                            spey_seq_id seq, spey_logits_fn on_row, void *user)
{
    spey_step_seq s = { .seq = seq };
    if (source) {
        s.ids = source->ids;
        s.n_ids = (int32_t)source->n;
        SPEY_TRY(spey_runner_encode(c->runner, &s, 1));
    }
    int64_t chunk_max = c->plan->limits.step_tokens_max < c->plan->limits.outputs_max
                            ? c->plan->limits.step_tokens_max
                            : c->plan->limits.outputs_max;
    for (size_t done = 0; done < ids->n;) {
        size_t chunk = ids->n - done < (size_t)chunk_max ? ids->n - done : (size_t)chunk_max;
        s.ids = ids->ids + done;
        s.n_ids = s.n_outputs = (int32_t)chunk;
        float *logits;
        SPEY_TRY(spey_runner_step(c->runner, &s, 1, &logits));
        for (size_t i = 0; i < chunk; i++)
            on_row(user, done + i, logits + i * (size_t)c->vocab_size);
        done += chunk;
    }
    return SPEY_OK;
}

static spey_status evaluate_alone(spey_context *c, const spey_id_list *source,
                                  const spey_id_list *ids, spey_logits_fn on_row, void *user)
{
    while (is_under_way(c))
        SPEY_TRY(deliver(c));
    if (spey_scheduler_count(c->scheduler).running + spey_scheduler_count(c->scheduler).paused > 0)
        return SPEY_FAIL(SPEY_INVALID, "requests are running: evaluate on a context of its own");
    SPEY_TRY(check_prompt(c, ids->ids, ids->n, 0));
    spey_kv_cache *kv = spey_runner_kv(c->runner);
    spey_seq_id seq;
    SPEY_TRY(spey_kv_open(kv, &seq));
    spey_status status = evaluate(c, source, ids, seq, on_row, user);
    spey_kv_close(kv, seq);
    return status;
}

spey_status spey_context_logits(spey_context *c, const int32_t *ids, size_t n,
                                spey_logits_fn on_row, void *user)
{
    if (c->plan->source_tokens_max)
        return SPEY_FAIL(SPEY_INVALID,
                         "the model has an encoder: its logits are those of an input and what the "
                         "decoder makes of it");
    return evaluate_alone(c, NULL, &(spey_id_list){ ids, n }, on_row, user);
}

spey_status spey_context_decoder_logits(spey_context *c, const spey_id_list *source,
                                        const spey_id_list *ids, spey_logits_fn on_row, void *user)
{
    if (!c->plan->source_tokens_max) return SPEY_FAIL(SPEY_INVALID, "the model has no encoder");
    SPEY_TRY(check_source(c, source->n));
    SPEY_TRY(check_prompt(c, source->ids, source->n, 0));
    return evaluate_alone(c, source, ids, on_row, user);
}
