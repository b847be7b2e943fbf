#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "runtime/kv_file.h"
#include "runtime/runner_body.h"

static spey_status copy_block(spey_runner *r, const spey_kv_copy *copy)
{
    const spey_backend *backend = r->program.backend;
    size_t bytes = (size_t)r->layout.pools[copy->group].block_bytes;
    uint8_t *pool = r->kv_pools[copy->group].data, *host = r->kv_host[copy->group];
    size_t src = (size_t)copy->src * bytes, dst = (size_t)copy->dst * bytes;
    switch (copy->kind) {
    case SPEY_KV_COPY_TO_HOST:
        return backend->download(r->program.device, host + dst, pool + src, bytes);
    case SPEY_KV_COPY_FROM_HOST:
        return backend->upload(r->program.device, pool + dst, host + src, bytes);
    case SPEY_KV_COPY_DEVICE: break;
    }
    return backend->copy(r->program.device, pool + dst, pool + src, bytes);
}

/* Carry out the cache's copies: the step reads and writes what they make. */
spey_status spey_runner_copy_blocks(spey_runner *r, const step_flight *f)
{
    for (int64_t i = 0; i < f->n_copies; i++)
        SPEY_TRY(copy_block(r, &f->copies[i]));
    return SPEY_OK;
}

/* Another thread reads them while the cache queues others. */
void spey_runner_take_copies(const spey_runner *r, step_flight *f)
{
    f->copies = spey_kv_copies(r->kv, &f->n_copies);
    if (!f->own_copies) return;
    if (f->n_copies) memcpy(f->own_copies, f->copies, (size_t)f->n_copies * sizeof(*f->copies));
    f->copies = f->own_copies;
}

void spey_runner_observe(spey_runner *r, spey_observer observer, void *user)
{
    r->observer = observer;
    r->observer_user = user;
}

spey_status spey_runner_download(const spey_runner *r, void *host, const void *device, size_t bytes)
{
    return r->program.backend->download(r->program.device, host, device, bytes);
}

spey_status spey_runner_upload(const spey_runner *r, void *device, const void *host, size_t bytes)
{
    return r->program.backend->upload(r->program.device, device, host, bytes);
}

spey_status spey_runner_profile(spey_runner *r)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    if (!r->profile)
        return spey_profile_new(r->program.backend, r->program.device, r->binding.steps,
                                r->binding.sizes.n_steps, &r->profile);
    spey_profile_clear(r->profile);
    return SPEY_OK;
}

spey_status spey_runner_read_profile(const spey_runner *r, spey_profile_line **out, int *n)
{
    SPEY_ASSERT(r->profile && spey_runner_under_way(r) == 0);
    *n = 0;
    *out = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_profile_line, r->binding.sizes.n_steps);
    if (!*out) return SPEY_NOMEM;
    *n = spey_profile_read(r->profile, *out);
    return SPEY_OK;
}

static spey_status run_observed(spey_runner *r, int begin, int end)
{
    const spey_step *steps = r->binding.steps;
    for (int i = begin; i < end; i++) {
        SPEY_TRY(r->program.backend->run(r->program.device, &steps[i], 1));
        r->observer(r->observer_user, i, &steps[i]);
    }
    return SPEY_OK;
}

/* Queue steps [begin, end) of the binding; what they leave stays where it is. */
static spey_status run_bound(spey_runner *r, const step_flight *f, int begin, int end)
{
    spey_binding *binding = &r->binding;
    r->batch.n_tokens = f->n_tokens;
    r->batch.n_seqs = f->n_seqs;
    r->batch.n_outputs = f->n_outputs;
    for (int i = begin; i < end; i++)
        binding->args[i].rows = binding->rows[i] == SPEY_ROWS_OUTPUTS ? f->n_outputs : f->n_tokens;
    SPEY_TRY(spey_runner_copy_blocks(r, f));
    SPEY_TRY(spey_runner_upload_tables(r, f));
    SPEY_TRY(spey_runner_link(r, f));
    if (r->observer) return run_observed(r, begin, end);
    if (r->profile) return spey_profile_run(r->profile, begin, end);
    return spey_replay_run(&r->replay, r->program.backend, r->program.device, &r->batch,
                           binding->steps + begin, end - begin);
}

static spey_status begin_flight(spey_runner *r, step_flight *f)
{
    const spey_binding *binding = &r->binding;
    f->begin_ns = spey_clock_ns();
    SPEY_TRY(run_bound(r, f, binding->n_source_steps,
                       f->n_outputs ? binding->sizes.n_steps : binding->n_token_steps));
    return spey_runner_find(r, f);
}

/* A step that was queued behind another one began when that ended. */
static spey_status end_flight(spey_runner *r, step_flight *f)
{
    SPEY_TRY(spey_runner_bring(r, f));
    if (!r->queues) SPEY_TRY(r->program.backend->sync(r->program.device));
    const uint64_t last_ns = r->last_end_ns, begin_ns = f->begin_ns;
    r->last_end_ns = spey_clock_ns();
    f->idle_ns = last_ns && begin_ns > last_ns ? begin_ns - last_ns : 0;
    f->busy_ns = r->last_end_ns - (begin_ns > last_ns ? begin_ns : last_ns);
    return SPEY_OK;
}

/* A half of step `number`, unless it or one before it has failed: then the cache lacks what that was to write. */
static void carry_out(spey_runner *r, uint64_t number,
                      spey_status (*half)(spey_runner *r, step_flight *f))
{
    step_flight *f = &r->flights[(number - 1) % FLIGHTS_MAX];
    const step_flight *failed = &r->flights[(r->n_failed - 1) % FLIGHTS_MAX];
    if (f->status) return;
    if (r->failed && number > r->n_failed) {
        f->status = r->failed;
        memmove(f->error, failed->error, sizeof(f->error));
        return;
    }
    f->status = half(r, f);
    if (!f->status) return;
    r->failed = f->status;
    r->n_failed = number;
    snprintf(f->error, sizeof(f->error), "%s", spey_last_error());
}

void spey_runner_carry_out(void *user, uint64_t number)
{
    carry_out(user, number, begin_flight);
    carry_out(user, number, end_flight);
}

int spey_runner_under_way(const spey_runner *r)
{
    return (int)(r->n_submitted - r->n_waited);
}

static step_flight *flight_of(spey_runner *r, uint64_t number)
{
    return &r->flights[number % (uint64_t)runner_n_flights(r)];
}

static bool brings_logits(const spey_runner *r, const step_flight *f)
{
    bool brings = !f->wants_best && !f->has_rules;
    for (int32_t row = 0; row < f->n_outputs; row++)
        brings = brings || runner_brings_row(r, f, row);
    return brings;
}

bool spey_runner_rule_page(spey_runner *r, spey_rule_page *out)
{
    const step_flight *f = flight_of(r, r->n_submitted);
    const spey_table_layout *tables = &r->layout.tables;
    if (!r->sample_row) return false;
    *out = (spey_rule_page){ .rules = runner_rules(r, f),
                             .ids = runner_table(f, tables->rule_ids),
                             .ids_max = tables->rule_ids_max,
                             .masks = (uint32_t *)runner_table(f, tables->masks),
                             .masks_max = (int32_t)tables->masks_max,
                             .mask_words = tables->mask_words,
                             .tops_max = (int32_t)tables->tops_max,
                             .vocab_size = r->program.info->vocab_size };
    return true;
}

spey_status spey_runner_submit(spey_runner *r, const spey_submission *submission)
{
    int under_way = spey_runner_under_way(r);
    SPEY_ASSERT(under_way < runner_n_flights(r));
    if (under_way && brings_logits(r, flight_of(r, r->n_waited)))
        return SPEY_FAIL(SPEY_INVALID, "a step that brings logits is under way");
    step_flight *f = flight_of(r, r->n_submitted);
    SPEY_TRY(spey_runner_check_step(r, submission, f));
    for (int s = 0; s < submission->n_seqs; s++) /* there are blocks: checked */
        SPEY_TRY(spey_kv_reserve(r->kv, submission->seqs[s].seq,
                                 spey_runner_length_after(r, submission, s)));
    spey_runner_fill_tables(r, f, submission, false);
    spey_runner_take_copies(r, f);
    f->status = SPEY_OK;
    f->busy_ns = f->idle_ns = 0;
    if (r->driver) {
        spey_driver_start(r->driver);
    } else if (r->queues) {
        carry_out(r, r->n_submitted + 1, begin_flight);
    } else {
        SPEY_TRY(begin_flight(r, f));
        SPEY_TRY(end_flight(r, f));
    }
    spey_kv_copies_done(r->kv);
    r->n_submitted++;
    return SPEY_OK;
}

spey_status spey_runner_wait(spey_runner *r, spey_step_rows *out)
{
    *out = (spey_step_rows){ 0 };
    SPEY_ASSERT(spey_runner_under_way(r) > 0);
    const step_flight *f = flight_of(r, r->n_waited++);
    if (r->driver) spey_driver_wait(r->driver, r->n_waited);
    if (r->queues) carry_out(r, r->n_waited, end_flight);
    r->busy_ns += f->busy_ns;
    r->idle_ns += f->idle_ns;
    if (f->status) return SPEY_FAIL(f->status, "%s", f->error);
    spey_kv_file_turn(r->kv, spey_runner_under_way(r));
    if (f->wants_best || f->has_rules) out->ids = runner_table(f, r->layout.tables.found);
    if (f->has_rules) {
        out->rules = runner_rules(r, f);
        out->logprobs = (float *)runner_table(f, r->layout.tables.logprobs);
        out->top_ids = runner_top_ids(r, f->tables);
        out->top_logprobs = runner_top_logprobs(r, f, f->tables);
    }
    if (!f->wants_best) out->logits = r->host_logits;
    return SPEY_OK;
}

static spey_status step(spey_runner *r, const spey_submission *submission, spey_step_rows *out)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    SPEY_TRY(spey_runner_submit(r, submission));
    SPEY_TRY(spey_runner_wait(r, out));
    for (int s = 0; s < submission->n_seqs; s++)
        spey_kv_advance(r->kv, submission->seqs[s].seq, submission->seqs[s].ids,
                        submission->seqs[s].n_ids);
    return SPEY_OK;
}

spey_status spey_runner_step(spey_runner *r, const spey_step_seq *seqs, int n_seqs, float **logits)
{
    spey_step_rows rows = { 0 };
    spey_status status = step(r, &(spey_submission){ .seqs = seqs, .n_seqs = n_seqs }, &rows);
    *logits = rows.logits;
    return status;
}

spey_status spey_runner_step_best(spey_runner *r, const spey_step_seq *seqs, int n_seqs,
                                  const int32_t **best)
{
    spey_step_rows rows = { 0 };
    spey_status status =
        step(r, &(spey_submission){ .seqs = seqs, .n_seqs = n_seqs, .best = true }, &rows);
    *best = rows.ids;
    return status;
}

spey_status spey_runner_logits(spey_runner *r, float **logits)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    *logits = r->host_logits;
    return spey_runner_fetch_logits(
        r, flight_of(r, r->n_submitted + (uint64_t)runner_n_flights(r) - 1));
}

/* ---- a step of the encoder ---- */

static spey_status check_input(spey_runner *r, const spey_step_seq *s)
{
    int64_t most = r->layout.plan.source_tokens_max;
    if (!spey_kv_is_open(r->kv, s->seq))
        return SPEY_FAIL(SPEY_INVALID, "sequence %d is not open", s->seq);
    if (spey_kv_length(r->kv, s->seq) || spey_kv_cross_length(r->kv, s->seq) ||
        r->seen_in[s->seq] == r->step)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d: its input was encoded before", s->seq);
    r->seen_in[s->seq] = r->step;
    if (s->n_ids < 1)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d: the encoder's input is empty", s->seq);
    if (s->n_ids > most)
        return SPEY_FAIL(SPEY_LIMIT,
                         "the encoder's input has %d tokens, %lld are the most: it takes them in "
                         "one step, of at most %lld tokens, and was made for %lld",
                         s->n_ids, (long long)most,
                         (long long)r->layout.plan.limits.step_tokens_max,
                         (long long)r->program.info->context_length);
    return spey_runner_check_ids(r, s);
}

static spey_status check_encode(spey_runner *r, const spey_step_seq *seqs, int n_seqs)
{
    const spey_limits_plan *limits = &r->layout.plan.limits;
    if (!r->program.has_encoder) return SPEY_FAIL(SPEY_INVALID, "the model has no encoder");
    if (n_seqs < 1 || n_seqs > limits->sequences_max)
        return SPEY_FAIL(SPEY_INVALID, "a step of %d sequences, %d are the most", n_seqs,
                         limits->sequences_max);
    int64_t n_tokens = 0;
    r->step++;
    for (int s = 0; s < n_seqs; s++) {
        SPEY_TRY(check_input(r, &seqs[s]));
        n_tokens += seqs[s].n_ids;
    }
    if (n_tokens > limits->step_tokens_max)
        return SPEY_FAIL(SPEY_INVALID, "a step of %lld tokens, %lld are the most",
                         (long long)n_tokens, (long long)limits->step_tokens_max);
    r->flights[0].n_tokens = (int32_t)n_tokens;
    r->flights[0].n_seqs = n_seqs;
    r->flights[0].n_outputs = 0;
    r->flights[0].has_rules = false;
    return SPEY_OK;
}

spey_status spey_runner_encode(spey_runner *r, const spey_step_seq *seqs, int n_seqs)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    SPEY_TRY(check_encode(r, seqs, n_seqs));
    for (int s = 0; s < n_seqs; s++)
        SPEY_TRY(spey_kv_reserve_cross(r->kv, seqs[s].seq, seqs[s].n_ids));
    step_flight *f = &r->flights[0]; /* nothing is under way */
    spey_runner_fill_tables(r, f, &(spey_submission){ .seqs = seqs, .n_seqs = n_seqs }, true);
    spey_runner_take_copies(r, f);
    uint64_t begin_ns = spey_clock_ns();
    SPEY_TRY(run_bound(r, f, 0, r->binding.n_source_steps));
    SPEY_TRY(r->program.backend->sync(r->program.device));
    spey_kv_copies_done(r->kv);
    r->busy_ns += spey_clock_ns() - begin_ns;
    return SPEY_OK;
}
