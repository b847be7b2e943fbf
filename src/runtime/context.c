/* The public context: a queue of requests over one runner.
 *
 * Admission is first come, first served; a request is admitted when a slot is free and the pools hold its whole prompt and
 * output beside those of the others, so a running one never has to stop. A step takes one token of every request that decodes, then fills
 * up with prompt chunks of the others, oldest first. */
#include "runtime/context.h"

#include "base/alloc.h"
#include "base/status.h"
#include "engine/engine_file.h"
#include "runtime/engine_handle.h"
#include "runtime/request.h"
#include "runtime/runner.h"
#include "runtime/sampler.h"
#include "spey/spey.h"

/* Rows of logits beyond one per sequence, for prompt log-probabilities and evaluation: as many as fit in this. */
enum { LOGITS_BYTES = 8 << 20, OUTPUT_ROWS_MAX = 128 };

struct spey_context {
    const spey_engine *engine;
    spey_runner *runner;
    spey_sampler *sampler;
    const spey_plan *plan;
    int64_t vocab_size;
    spey_eos eos;
    spey_request *queue_head, *queue_tail;
    spey_request **running; /* [sequences_max], oldest first */
    int32_t n_running;
    spey_step_seq *step;       /* [sequences_max] */
    spey_request **step_owner; /* [sequences_max] */
    uint64_t next_id;
};

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
                                 .prompt_logprobs = -1 };
}

const char *spey_finish_text(spey_finish finish)
{
    switch (finish) {
    case SPEY_FINISH_NONE: return "none";
    case SPEY_FINISH_EOS: return "eos";
    case SPEY_FINISH_STOP: return "stop";
    case SPEY_FINISH_LENGTH: return "length";
    case SPEY_FINISH_CANCELLED: return "cancelled";
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

static spey_status open_runner(spey_context *c, const spey_context_options *o)
{
    const spey_model_info *info = spey_engine_file_info(c->engine->file);
    c->vocab_size = info->vocab_size;
    c->eos = (spey_eos){ info->eos_ids, info->n_eos };
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
                                .no_kv_reuse = o->no_kv_reuse,
                                .memory_bytes_max = o->memory_bytes_max };
    SPEY_TRY(spey_runner_new(c->engine->file, &limits, &c->runner));
    c->plan = spey_runner_get_plan(c->runner);
    SPEY_TRY(spey_sampler_new(c->vocab_size, &c->sampler));
    c->running = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_request *, sequences);
    c->step = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_step_seq, sequences);
    c->step_owner = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_request *, sequences);
    return c->running && c->step && c->step_owner ? SPEY_OK : SPEY_NOMEM;
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
    while (c->queue_head) {
        spey_request *next = c->queue_head->next;
        spey_request_free(c->queue_head);
        c->queue_head = next;
    }
    for (int32_t i = 0; i < c->n_running; i++)
        spey_request_free(c->running[i]);
    spey_free(c->running);
    spey_free(c->step);
    spey_free(c->step_owner);
    spey_sampler_free(c->sampler);
    spey_runner_free(c->runner);
    spey_free(c);
}

spey_runner *spey_context_runner(spey_context *c)
{
    return c->runner;
}

/* ---- requests in ---- */

static spey_status check_prompt(const spey_context *c, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab_size)
            return SPEY_FAIL(SPEY_INVALID, "prompt token %zu is %d, expected 0 to %lld", i, ids[i],
                             (long long)c->vocab_size - 1);
    return SPEY_OK;
}

spey_status spey_context_submit(spey_context *c, const int32_t *prompt, size_t n,
                                const spey_sampling *sampling, spey_output_fn on_output, void *user,
                                uint64_t *out_request)
{
    spey_sampling defaults;
    spey_sampling_init(&defaults);
    if (!sampling) sampling = &defaults;
    SPEY_TRY(spey_sampling_check(sampling, c->vocab_size));
    SPEY_TRY(check_prompt(c, prompt, n));
    /* A sequence that could never get its blocks would wait for ever. */
    int64_t limit = c->plan->limits.sequence_tokens_max;
    limit = c->plan->kv_tokens < limit ? c->plan->kv_tokens : limit;
    spey_request_options options = { .prompt = prompt,
                                     .n_prompt = n,
                                     .sampling = sampling,
                                     .sequence_tokens_max = limit,
                                     .tokenizer = c->engine->tokenizer,
                                     .on_output = on_output,
                                     .user = user };
    spey_request *r;
    SPEY_TRY(spey_request_new(&options, &r));
    r->id = c->next_id++;
    if (c->queue_tail)
        c->queue_tail->next = r;
    else
        c->queue_head = r;
    c->queue_tail = r;
    if (out_request) *out_request = r->id;
    return SPEY_OK;
}

spey_status spey_context_cancel(spey_context *c, uint64_t request)
{
    spey_request *found = NULL;
    for (spey_request *r = c->queue_head; r; r = r->next)
        found = r->id == request ? r : found;
    for (int32_t i = 0; i < c->n_running; i++)
        found = c->running[i]->id == request ? c->running[i] : found;
    if (!found)
        return SPEY_FAIL(SPEY_NOT_FOUND, "no request %llu is queued or running",
                         (unsigned long long)request);
    found->cancelled = true;
    return SPEY_OK;
}

/* ---- a step ---- */

static void drop_cancelled_from_queue(spey_context *c)
{
    spey_request **link = &c->queue_head;
    c->queue_tail = NULL;
    while (*link) {
        spey_request *r = *link;
        if (r->cancelled) {
            *link = r->next;
            spey_request_end(r, SPEY_FINISH_CANCELLED, NULL);
            spey_request_free(r);
        } else {
            c->queue_tail = r;
            link = &r->next;
        }
    }
}

/* Begin with what ended requests have left, unless logits of all of the prompt are wanted. */
static spey_status reuse(spey_kv_cache *kv, spey_request *r)
{
    const spey_kv_key key = { .ids = r->ids, .n = r->n_prompt };
    if (r->sampling.prompt_logprobs >= 0) return SPEY_OK;
    return spey_kv_match(kv, r->seq, &key, &r->n_computed);
}

static void admit(spey_context *c)
{
    spey_kv_cache *kv = spey_runner_kv(c->runner);
    while (c->queue_head && c->n_running < c->plan->limits.sequences_max) {
        spey_request *r = c->queue_head;
        if (spey_kv_open(kv, &r->seq)) return;
        if (spey_kv_promise(kv, r->seq, r->ids_max) || reuse(kv, r)) {
            spey_kv_close(kv, r->seq);
            r->seq = -1;
            return;
        }
        c->queue_head = r->next;
        if (!c->queue_head) c->queue_tail = NULL;
        r->next = NULL;
        c->running[c->n_running++] = r;
    }
}

static void retire(spey_context *c)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < c->n_running; i++) {
        spey_request *r = c->running[i];
        if (r->cancelled && !r->finish) spey_request_end(r, SPEY_FINISH_CANCELLED, NULL);
        if (r->finish) {
            spey_kv_close(spey_runner_kv(c->runner), r->seq);
            spey_request_free(r);
        } else {
            c->running[kept++] = r;
        }
    }
    c->n_running = kept;
}

static void add_to_step(spey_context *c, int *n, spey_request *r, int64_t n_ids, int64_t n_outputs)
{
    c->step[*n] =
        (spey_step_seq){ r->seq, r->ids + r->n_computed, (int32_t)n_ids, (int32_t)n_outputs };
    c->step_owner[(*n)++] = r;
}

/* What this step computes: decodes first, then prompts under what is left of the budgets. */
static int plan_step(spey_context *c)
{
    int64_t tokens = c->plan->limits.step_tokens_max, outputs = c->plan->limits.outputs_max;
    int n = 0;
    for (int32_t i = 0; i < c->n_running && tokens > 0; i++) {
        spey_request *r = c->running[i];
        if (r->n_computed < r->n_prompt) continue;
        add_to_step(c, &n, r, 1, 1);
        tokens--;
        outputs--;
    }
    for (int32_t i = 0; i < c->n_running && tokens > 0 && outputs > 0; i++) {
        spey_request *r = c->running[i];
        int64_t chunk = r->n_prompt - r->n_computed;
        if (chunk <= 0) continue;
        chunk = chunk < tokens ? chunk : tokens;
        bool all = r->sampling.prompt_logprobs >= 0;
        if (all && chunk > outputs) chunk = outputs;
        int64_t wanted = all ? chunk : r->n_computed + chunk == r->n_prompt;
        add_to_step(c, &n, r, chunk, wanted);
        tokens -= chunk;
        outputs -= wanted;
    }
    return n;
}

/* Hand the rows of logits to their requests. */
static void deliver(spey_context *c, int n_seqs, float *logits)
{
    for (int i = 0; i < n_seqs; i++) {
        spey_request *r = c->step_owner[i];
        const spey_step_seq *s = &c->step[i];
        int64_t first = r->n_computed + s->n_ids - s->n_outputs; /* position of the first row */
        r->n_computed += s->n_ids;
        for (int32_t row = 0; row < s->n_outputs; row++, logits += c->vocab_size) {
            if (first + row < r->n_prompt)
                spey_request_take_prompt_logits(r, c->sampler, logits, first + row, c->vocab_size);
            if (first + row == r->n - 1)
                spey_request_take_logits(r, c->sampler, logits, c->vocab_size, c->eos);
        }
    }
}

spey_status spey_context_step(spey_context *c, int32_t *active)
{
    drop_cancelled_from_queue(c);
    retire(c);
    admit(c);
    int n_seqs = plan_step(c);
    if (n_seqs > 0) {
        float *logits;
        SPEY_TRY(spey_runner_step(c->runner, c->step, n_seqs, &logits));
        deliver(c, n_seqs, logits);
        retire(c);
    }
    int32_t left = c->n_running;
    for (const spey_request *r = c->queue_head; r; r = r->next)
        left++;
    if (active) *active = left;
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

spey_status spey_context_logits(spey_context *c, const int32_t *ids, size_t n,
                                spey_logits_fn on_row, void *user)
{
    if (c->n_running > 0)
        return SPEY_FAIL(SPEY_INVALID, "requests are running: evaluate on a context of its own");
    SPEY_TRY(check_prompt(c, ids, n));
    spey_kv_cache *kv = spey_runner_kv(c->runner);
    spey_step_seq s = { 0 };
    SPEY_TRY(spey_kv_open(kv, &s.seq));
    int64_t chunk_max = c->plan->limits.step_tokens_max < c->plan->limits.outputs_max
                            ? c->plan->limits.step_tokens_max
                            : c->plan->limits.outputs_max;
    spey_status status = SPEY_OK;
    for (size_t done = 0; !status && done < n;) {
        size_t chunk = n - done < (size_t)chunk_max ? n - done : (size_t)chunk_max;
        s.ids = ids + done;
        s.n_ids = s.n_outputs = (int32_t)chunk;
        float *logits;
        status = spey_runner_step(c->runner, &s, 1, &logits);
        for (size_t i = 0; !status && i < chunk; i++)
            on_row(user, done + i, logits + i * (size_t)c->vocab_size);
        done += chunk;
    }
    spey_kv_close(kv, s.seq);
    return status;
}
