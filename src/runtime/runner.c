#include "runtime/runner.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "kernels/argmax/argmax.h"
#include "kernels/registry.h"
#include "runtime/bind.h"
#include "runtime/driver.h"
#include "runtime/kv_file.h"
#include "runtime/layout.h"
#include "runtime/program.h"
#include "runtime/replay.h"
#include "runtime/weights.h"
#include "spey/spey.h"

/* A piece of device memory. */
typedef struct device_memory {
    void *data;
    size_t bytes;
} device_memory;

/* A step between submit and wait: all that the device gets. */
typedef struct step_flight {
    uint8_t *tables;    /* what the device's get; the same memory when it reads ours at once */
    float *prompt_rows; /* likewise; NULL: there are no prompt tables */
    int64_t n_prompt_rows;
    const spey_kv_copy *copies; /* to be carried out before it runs */
    int64_t n_copies;
    /* With a driver: */
    spey_kv_copy *own_copies;
    int32_t *places, *rows; /* [sequences_max] ids that the step before gives: where, and its row */
    int32_t n_links;
    int32_t n_tokens, n_seqs, n_outputs;
    bool wants_best;
    /* Its results: */
    spey_status status;
    char error[SPEY_ERROR_BYTES_MAX];
    uint64_t busy_ns, idle_ns; /* it took, after so long without a step */
} step_flight;

enum { FLIGHTS_MAX = 2 };

struct spey_runner {
    spey_program program; /* without its graph once loaded */
    spey_layout layout;   /* without its memory plan once loaded */
    char device_name[SPEY_NAME_BYTES_MAX];
    device_memory weights, activations, workspace, logits, tables, prompt_rows,
        kv_pools[SPEY_CACHE_GROUPS_MAX];
    uint8_t *kv_host[SPEY_CACHE_GROUPS_MAX]; /* blocks that were evicted from the pools */
    float *host_logits; /* what `logits` gives; the same memory when the device writes ours */
    step_flight flights[FLIGHTS_MAX];
    uint64_t n_submitted, n_waited;
    spey_driver
        *driver; /* has the device, the batch and the binding from submit to wait; NULL: none */
    spey_status failed; /* of the first step that failed; the driver's */
    spey_ragged batch;  /* its arrays lie in `tables` */
    spey_kv_cache *kv;
    spey_binding binding;
    spey_argmax_args argmax;
    const spey_kernel *argmax_row;
    spey_replay replay;
    uint64_t step;          /* number of the current step */
    spey_observer observer; /* NULL: none */
    void *observer_user;
    uint64_t busy_ns, idle_ns; /* of steps that have ended */
    uint64_t last_end_ns;      /* when the device was done with the last one; the driver's */
    uint64_t *seen_in;         /* [sequences_max] the last step that had this sequence */
};

/* ---- loading ---- */

static spey_status take_memory(spey_runner *r, uint64_t bytes, const char *what, device_memory *out)
{
    if (!bytes) return SPEY_OK;
    if (bytes > SIZE_MAX) return SPEY_FAIL(SPEY_NOMEM, "%s does not fit the address space", what);
    SPEY_TRY_CTX(r->program.backend->memory_new(r->program.device, (size_t)bytes, &out->data), "%s",
                 what);
    out->bytes = (size_t)bytes;
    return SPEY_OK;
}

static void give_memory(spey_runner *r, device_memory *memory)
{
    if (memory->data)
        r->program.backend->memory_free(r->program.device, memory->data, memory->bytes);
    *memory = (device_memory){ 0 };
}

static spey_status take_device_memory(spey_runner *r)
{
    const spey_layout *layout = &r->layout;
    SPEY_TRY(take_memory(r, spey_weights_copied_bytes(&r->program), "weights", &r->weights));
    SPEY_TRY(take_memory(r, layout->arena_bytes, "activations", &r->activations));
    SPEY_TRY(take_memory(r, layout->sizes.workspace_bytes, "workspace", &r->workspace));
    SPEY_TRY(take_memory(r, layout->logits_bytes, "logits", &r->logits));
    SPEY_TRY(take_memory(r, layout->tables.bytes, "tables", &r->tables));
    SPEY_TRY(take_memory(r, layout->prompt_rows_bytes, "prompt tables", &r->prompt_rows));
    for (int g = 0; g < layout->kv.n_groups; g++)
        SPEY_TRY(take_memory(
            r, (uint64_t)layout->kv.groups[g].n_blocks * (uint64_t)layout->pools[g].block_bytes,
            "kv cache", &r->kv_pools[g]));
    return SPEY_OK;
}

static int n_flights(const spey_runner *r)
{
    return r->layout.plan.limits.ahead ? FLIGHTS_MAX : 1;
}

/* The device reads what submit writes: nothing is under way when another step is submitted. */
static bool shares_tables(const spey_runner *r)
{
    return r->program.device_info.host_memory && !r->layout.plan.limits.ahead;
}

static spey_status prepare_flight(spey_runner *r, step_flight *f)
{
    const spey_layout *layout = &r->layout;
    if (layout->plan.limits.ahead) {
        int64_t copies = spey_kv_copies_max(&layout->kv), seqs = layout->kv.sequences_max;
        f->own_copies = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_kv_copy, copies);
        f->places = spey_new_array(SPEY_PURPOSE_RUNTIME, int32_t, seqs);
        f->rows = spey_new_array(SPEY_PURPOSE_RUNTIME, int32_t, seqs);
        if (!f->own_copies || !f->places || !f->rows) return SPEY_NOMEM;
    }
    if (shares_tables(r)) {
        f->tables = r->tables.data;
        f->prompt_rows = r->prompt_rows.data;
        return SPEY_OK;
    }
    f->tables = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->tables.bytes);
    if (layout->prompt_rows_bytes)
        f->prompt_rows = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->prompt_rows_bytes);
    return f->tables && (f->prompt_rows || !layout->prompt_rows_bytes) ? SPEY_OK : SPEY_NOMEM;
}

static void free_flight(const spey_runner *r, step_flight *f)
{
    spey_free(f->own_copies);
    spey_free(f->places);
    spey_free(f->rows);
    if (shares_tables(r)) return;
    spey_free(f->tables);
    spey_free(f->prompt_rows);
}

static spey_status take_host_memory(spey_runner *r)
{
    const spey_layout *layout = &r->layout;
    SPEY_TRY(spey_kv_cache_new(&layout->kv, &r->kv));
    for (int g = 0; g < layout->kv.n_groups && layout->kv.host_blocks; g++) {
        r->kv_host[g] = spey_alloc_array(SPEY_PURPOSE_KV, (size_t)layout->kv.host_blocks,
                                         (size_t)layout->pools[g].block_bytes);
        if (!r->kv_host[g]) return SPEY_NOMEM;
    }
    r->seen_in = spey_new_array(SPEY_PURPOSE_RUNTIME, uint64_t, layout->kv.sequences_max);
    if (!r->seen_in) return SPEY_NOMEM;
    for (int i = 0; i < n_flights(r); i++)
        SPEY_TRY(prepare_flight(r, &r->flights[i]));
    if (r->program.device_info.host_memory) {
        r->host_logits = r->logits.data;
        return SPEY_OK;
    }
    r->host_logits = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->logits_bytes);
    return r->host_logits ? SPEY_OK : SPEY_NOMEM;
}

static const int32_t *device_table(const spey_runner *r, size_t at)
{
    return (const int32_t *)(const void *)((const uint8_t *)r->tables.data + at);
}

static void point_batch(spey_runner *r)
{
    const spey_table_layout *tables = &r->layout.tables;
    r->batch = (spey_ragged){ .ids = device_table(r, tables->ids),
                              .positions = device_table(r, tables->positions),
                              .token_seq = device_table(r, tables->token_seq),
                              .seq_start = device_table(r, tables->seq_start),
                              .kv_len = device_table(r, tables->kv_len),
                              .output_rows = device_table(r, tables->output_rows) };
    if (r->program.has_encoder) r->batch.source_len = device_table(r, tables->source_len);
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        r->batch.groups[g] = (spey_block_table){ .blocks = device_table(r, tables->groups[g]),
                                                 .pitch = tables->pitch };
}

static spey_status load_and_bind(spey_runner *r)
{
    const void **weights =
        spey_new_array(SPEY_PURPOSE_RUNTIME, const void *, r->program.graph->n_weights);
    if (!weights) return SPEY_NOMEM;
    spey_bases bases = { .activations = r->activations.data,
                         .logits = r->logits.data,
                         .workspace = r->workspace.data,
                         .weights = weights,
                         .prompt_rows = r->prompt_rows.data,
                         .batch = &r->batch };
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        bases.kv[g] = r->kv_pools[g].data;
    spey_status status = spey_weights_load(&r->program, r->weights.data, weights);
    if (status == SPEY_OK) status = spey_bind(&r->program, &r->layout, &bases, &r->binding);
    spey_free(weights);
    if (status == SPEY_OK && r->binding.sizes.workspace_bytes > r->layout.sizes.workspace_bytes)
        status = SPEY_FAIL(SPEY_INTERNAL, "kernels ask for more workspace than they did before");
    return status;
}

static spey_status choose_argmax(spey_runner *r)
{
    r->argmax = (spey_argmax_args){ .rows = r->layout.plan.limits.outputs_max,
                                    .cols = r->program.info->vocab_size,
                                    .x = r->logits.data,
                                    .x_pitch = r->program.info->vocab_size,
                                    .out = (int32_t *)(void *)((uint8_t *)r->tables.data +
                                                               r->layout.tables.best) };
    return spey_kernel_choose(r->program.backend, "argmax", &r->argmax, &r->argmax_row);
}

/* Run a submitted step on the driver's thread. */
static void carry_out(void *user, uint64_t number);

static spey_status load(spey_runner *r, const spey_engine_file *engine,
                        const spey_limits_plan *limits)
{
    SPEY_TRY(spey_program_init(&r->program, engine, limits));
    SPEY_TRY(spey_layout_init(&r->layout, &r->program, limits));
    SPEY_TRY(spey_layout_check_fits(&r->layout, &r->program, limits));
    snprintf(r->device_name, sizeof(r->device_name), "%s", r->layout.plan.limits.device);
    r->layout.plan.limits.device = r->device_name;
    SPEY_TRY(take_device_memory(r));
    SPEY_TRY(take_host_memory(r));
    point_batch(r);
    SPEY_TRY(load_and_bind(r));
    SPEY_TRY(choose_argmax(r));
    if (limits->ahead) SPEY_TRY(spey_driver_new(carry_out, r, &r->driver));
    spey_program_drop_graph(&r->program);
    spey_memplan_free(r->layout.memplan);
    r->layout.memplan = NULL;
    return SPEY_OK;
}

spey_status spey_runner_new(const spey_engine_file *engine, const spey_limits_plan *limits,
                            spey_runner **out)
{
    *out = NULL;
    spey_runner *r = spey_new(SPEY_PURPOSE_RUNTIME, spey_runner);
    if (!r) return SPEY_NOMEM;
    spey_status status = load(r, engine, limits);
    if (status == SPEY_OK)
        *out = r;
    else
        spey_runner_free(r);
    return status;
}

void spey_runner_free(spey_runner *r)
{
    if (!r) return;
    spey_driver_free(r->driver); /* what is under way ends */
    if (!r->program.device_info.host_memory) spey_free(r->host_logits);
    for (int i = 0; i < FLIGHTS_MAX; i++)
        free_flight(r, &r->flights[i]);
    if (r->program.device) spey_replay_deinit(&r->replay, r->program.backend, r->program.device);
    spey_binding_deinit(&r->binding);
    spey_kv_file_close(r->kv);
    spey_kv_cache_free(r->kv);
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++)
        spey_free(r->kv_host[g]);
    spey_free(r->seen_in);
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++)
        give_memory(r, &r->kv_pools[g]);
    give_memory(r, &r->prompt_rows);
    give_memory(r, &r->tables);
    give_memory(r, &r->logits);
    give_memory(r, &r->workspace);
    give_memory(r, &r->activations);
    give_memory(r, &r->weights);
    spey_layout_deinit(&r->layout);
    spey_program_deinit(&r->program);
    spey_free(r);
}

spey_status spey_runner_plan(const spey_engine_file *engine, const spey_limits_plan *limits,
                             spey_plan *out)
{
    spey_program program;
    spey_layout layout;
    SPEY_TRY(spey_program_init(&program, engine, limits));
    spey_status status = spey_layout_init(&layout, &program, limits);
    if (status == SPEY_OK) {
        status = spey_layout_check_fits(&layout, &program, limits);
        if (status == SPEY_OK) *out = layout.plan;
        spey_layout_deinit(&layout);
    }
    spey_program_deinit(&program);
    return status;
}

/* ---- reading ---- */

const spey_plan *spey_runner_get_plan(const spey_runner *r)
{
    return &r->layout.plan;
}

spey_kv_cache *spey_runner_kv(spey_runner *r)
{
    return r->kv;
}

uint64_t spey_runner_busy_ns(const spey_runner *r)
{
    return r->busy_ns;
}

uint64_t spey_runner_idle_ns(const spey_runner *r)
{
    return r->idle_ns;
}

uint64_t spey_runner_weight_bytes(const spey_runner *r)
{
    return r->binding.weight_bytes;
}

void spey_runner_describe(const spey_runner *r, spey_strbuf *out)
{
    const spey_step *steps = r->binding.steps;
    const char *separator = "";
    for (int i = 0; i < r->binding.sizes.n_steps; i++) {
        int first = 0, count = 0;
        while (steps[first].kernel != steps[i].kernel)
            first++;
        if (first < i) continue;
        for (int j = i; j < r->binding.sizes.n_steps; j++)
            count += steps[j].kernel == steps[i].kernel;
        spey_strbuf_printf(out, "%s%s %d×", separator, steps[i].kernel->name, count);
        separator = ", ";
    }
}

/* ---- a step ---- */

/* The row of the sequence's table that an id means; < 0: it is a token's. */
static int64_t table_row(const spey_runner *r, const spey_step_seq *s, int32_t id)
{
    return s->table ? id - r->program.info->vocab_size : -1;
}

static spey_status check_ids(const spey_runner *r, const spey_step_seq *s)
{
    if (s->table && (!r->flights[0].prompt_rows || s->table->cols != r->program.info->hidden_size))
        return SPEY_FAIL(SPEY_INVALID, "sequence %d has a prompt table that does not fit", s->seq);
    for (int32_t i = 0; i < s->n_ids; i++) {
        int64_t row = table_row(r, s, s->ids[i]);
        bool known = row < 0 ? s->ids[i] >= 0 && s->ids[i] < r->binding.n_ids : row < s->table->n;
        if (!known)
            return SPEY_FAIL(SPEY_INVALID, "sequence %d: id %d is not in the vocabulary of %lld",
                             s->seq, s->ids[i], (long long)r->binding.n_ids);
    }
    return SPEY_OK;
}

/* The one id is what a row of the step under way finds best. */
static spey_status check_link(const spey_runner *r, const spey_step_seq *s,
                              const spey_step_link *link)
{
    const step_flight *before = &r->flights[(r->n_submitted + 1) % FLIGHTS_MAX];
    int under_way = spey_runner_under_way(r);
    if (s->n_ids != 1 || link->row < 0 || !under_way || !before->wants_best ||
        link->row >= before->n_outputs)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d: no id comes from row %d of the step before",
                         s->seq, link->row);
    return SPEY_OK;
}

static spey_status check_sequence(spey_runner *r, const spey_step_seq *s,
                                  const spey_step_link *link)
{
    if (!spey_kv_is_open(r->kv, s->seq))
        return SPEY_FAIL(SPEY_INVALID, "sequence %d is not open", s->seq);
    if (r->seen_in[s->seq] == r->step)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d is there twice", s->seq);
    r->seen_in[s->seq] = r->step;
    if (r->program.has_encoder && !spey_kv_cross_length(r->kv, s->seq))
        return SPEY_FAIL(SPEY_INVALID, "sequence %d: its input was not encoded", s->seq);
    if (s->n_ids < 1 || s->n_outputs < 0 || s->n_outputs > s->n_ids)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d: logits of the last %d of %d tokens wanted",
                         s->seq, s->n_outputs, s->n_ids);
    return link->row == -1 ? check_ids(r, s) : check_link(r, s, link);
}

static spey_status check_blocks(const spey_runner *r, const int64_t *n_blocks)
{
    for (int g = 0; g < r->layout.kv.n_groups; g++) {
        int32_t n_free = spey_kv_group_free_blocks(r->kv, g);
        if (n_blocks[g] > n_free)
            return SPEY_FAIL(SPEY_LIMIT,
                             "the KV cache is full: the step needs %lld blocks of %d tokens, %d "
                             "are free, %lld are missing",
                             (long long)n_blocks[g], r->layout.kv.block_tokens, n_free,
                             (long long)n_blocks[g] - n_free);
    }
    return SPEY_OK;
}

static spey_step_link link_of(const spey_submission *submission, int s)
{
    return submission->links ? submission->links[s] : (spey_step_link){ .row = -1 };
}

/* Tokens of the sequence when the step has ended. */
static int64_t length_after(const spey_runner *r, const spey_submission *submission, int s)
{
    const spey_step_seq *seq = &submission->seqs[s];
    return spey_kv_length(r->kv, seq->seq) + link_of(submission, s).n_flying + seq->n_ids;
}

/* Check everything before anything changes; the flight gets its sizes. */
static spey_status check_step(spey_runner *r, const spey_submission *submission, step_flight *f)
{
    const spey_limits_plan *limits = &r->layout.plan.limits;
    const spey_step_seq *seqs = submission->seqs;
    int n_seqs = submission->n_seqs;
    if (n_seqs < 1 || n_seqs > limits->sequences_max)
        return SPEY_FAIL(SPEY_INVALID, "a step of %d sequences, %d are the most", n_seqs,
                         limits->sequences_max);
    int64_t n_tokens = 0, n_outputs = 0, n_blocks[SPEY_CACHE_GROUPS_MAX] = { 0 };
    r->step++;
    for (int s = 0; s < n_seqs; s++) {
        const spey_step_link link = link_of(submission, s);
        SPEY_TRY(check_sequence(r, &seqs[s], &link));
        int64_t after = length_after(r, submission, s);
        if (after > limits->sequence_tokens_max)
            return SPEY_FAIL(SPEY_LIMIT, "sequence %d would have %lld tokens, %lld are the most",
                             seqs[s].seq, (long long)after, (long long)limits->sequence_tokens_max);
        n_tokens += seqs[s].n_ids;
        n_outputs += seqs[s].n_outputs;
        spey_kv_add_missing(r->kv, seqs[s].seq, after, n_blocks);
    }
    if (n_tokens > limits->step_tokens_max || n_outputs > limits->outputs_max)
        return SPEY_FAIL(SPEY_INVALID,
                         "a step of %lld tokens and %lld outputs, %lld and %lld are the most",
                         (long long)n_tokens, (long long)n_outputs,
                         (long long)limits->step_tokens_max, (long long)limits->outputs_max);
    SPEY_TRY(check_blocks(r, n_blocks));
    f->n_tokens = (int32_t)n_tokens;
    f->n_seqs = n_seqs;
    f->n_outputs = (int32_t)n_outputs;
    f->wants_best = submission->best;
    return SPEY_OK;
}

static int32_t *host_table(const step_flight *f, size_t at)
{
    return (int32_t *)(void *)(f->tables + at);
}

/* Blocks of the sequence in a group for `length` tokens. A step of the encoder sees nothing of the decoder's. */
static void fill_blocks(const spey_runner *r, const step_flight *f, int g, spey_seq_id seq, int row,
                        int64_t length)
{
    const spey_table_layout *tables = &r->layout.tables;
    bool cross = r->layout.kv.groups[g].kind == SPEY_KV_CROSS;
    if (cross) length = spey_kv_cross_length(r->kv, seq);
    int64_t n, used = spey_kv_blocks_for(r->kv, g, length);
    int64_t first = spey_kv_first_block(r->kv, g, seq);
    const int32_t *blocks = spey_kv_blocks(r->kv, g, seq, &n);
    SPEY_ASSERT(used <= n);
    SPEY_ASSERT(used <= tables->pitch);
    memcpy(host_table(f, tables->groups[g]) + row * tables->pitch + first, blocks + first,
           (size_t)(used - first) * sizeof(*blocks));
}

/* Ids of a table's rows become numbers of the step's: kernels read those of all sequences in one piece. */
static void fill_prompt_rows(const spey_runner *r, step_flight *f, const spey_step_seq *s,
                             int32_t *ids)
{
    for (int32_t i = 0; s->table && i < s->n_ids; i++) {
        int64_t row = table_row(r, s, ids[i]), at = f->n_prompt_rows;
        if (row < 0) continue;
        spey_prompt_table_read(s->table, row, f->prompt_rows + at * s->table->cols);
        ids[i] = (int32_t)(-1 - at);
        f->n_prompt_rows++;
    }
}

static void fill_ids(const spey_runner *r, step_flight *f, const spey_step_seq *s, int32_t at,
                     const spey_step_link *link)
{
    int32_t *ids = host_table(f, r->layout.tables.ids) + at;
    if (link->row < 0) {
        memcpy(ids, s->ids, (size_t)s->n_ids * sizeof(*ids));
        fill_prompt_rows(r, f, s, ids);
        return;
    }
    f->places[f->n_links] = at;
    f->rows[f->n_links++] = link->row;
}

static void fill_sequence(const spey_runner *r, step_flight *f, const spey_submission *submission,
                          int row, bool encodes)
{
    const spey_table_layout *tables = &r->layout.tables;
    const spey_step_seq *s = &submission->seqs[row];
    const spey_step_link link = link_of(submission, row);
    int32_t *start = host_table(f, tables->seq_start) + row;
    int32_t *positions = host_table(f, tables->positions) + *start;
    int32_t *token_seq = host_table(f, tables->token_seq) + *start;
    int32_t length = encodes ? 0 : (int32_t)length_after(r, submission, row) - s->n_ids;
    fill_ids(r, f, s, *start, &link);
    for (int32_t i = 0; i < s->n_ids; i++) {
        positions[i] = length + i;
        token_seq[i] = row;
    }
    start[1] = *start + s->n_ids;
    host_table(f, tables->kv_len)[row] = length + s->n_ids;
    host_table(f, tables->source_len)[row] = (int32_t)spey_kv_cross_length(r->kv, s->seq);
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        fill_blocks(r, f, g, s->seq, row, encodes ? 0 : length + s->n_ids);
}

static void fill_tables(const spey_runner *r, step_flight *f, const spey_submission *submission,
                        bool encodes)
{
    int32_t *output_rows = host_table(f, r->layout.tables.output_rows);
    int32_t *seq_start = host_table(f, r->layout.tables.seq_start);
    seq_start[0] = 0;
    f->n_links = 0;
    f->n_prompt_rows = 0;
    for (int s = 0; s < submission->n_seqs; s++) {
        fill_sequence(r, f, submission, s, encodes);
        for (int32_t i = encodes ? 0 : submission->seqs[s].n_outputs; i > 0; i--)
            *output_rows++ = seq_start[s + 1] - i;
    }
}

static spey_status upload(spey_runner *r, const step_flight *f, size_t at, int64_t n)
{
    if (!n) return SPEY_OK;
    return r->program.backend->upload(r->program.device, (uint8_t *)r->tables.data + at,
                                      f->tables + at, (size_t)n * sizeof(int32_t));
}

static spey_status upload_prompt_rows(spey_runner *r, const step_flight *f)
{
    size_t row = (size_t)r->program.info->hidden_size * sizeof(float);
    if (!f->n_prompt_rows) return SPEY_OK;
    return r->program.backend->upload(r->program.device, r->prompt_rows.data, f->prompt_rows,
                                      (size_t)f->n_prompt_rows * row);
}

/* Up to this many bytes go faster in one copy, with what nobody reads in between, than in pieces. */
enum { TABLES_AT_ONCE = 256 << 10 };

static spey_status upload_tables(spey_runner *r, const step_flight *f)
{
    const spey_table_layout *tables = &r->layout.tables;
    const int64_t used = f->n_seqs * tables->pitch;
    if (shares_tables(r)) return SPEY_OK;
    SPEY_TRY(upload_prompt_rows(r, f));
    size_t end = tables->output_rows + (size_t)f->n_outputs * sizeof(int32_t);
    if (r->layout.kv.n_groups > 0)
        end = tables->groups[r->layout.kv.n_groups - 1] + (size_t)used * sizeof(int32_t);
    if (end <= TABLES_AT_ONCE) return upload(r, f, 0, (int64_t)(end / sizeof(int32_t)));
    SPEY_TRY(upload(r, f, tables->ids, f->n_tokens));
    SPEY_TRY(upload(r, f, tables->positions, f->n_tokens));
    SPEY_TRY(upload(r, f, tables->token_seq, f->n_tokens));
    SPEY_TRY(upload(r, f, tables->seq_start, f->n_seqs + 1));
    SPEY_TRY(upload(r, f, tables->kv_len, f->n_seqs));
    if (r->program.has_encoder) SPEY_TRY(upload(r, f, tables->source_len, f->n_seqs));
    SPEY_TRY(upload(r, f, tables->output_rows, f->n_outputs));
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        SPEY_TRY(upload(r, f, tables->groups[g], used));
    return SPEY_OK;
}

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
static spey_status copy_blocks(spey_runner *r, const step_flight *f)
{
    for (int64_t i = 0; i < f->n_copies; i++)
        SPEY_TRY(copy_block(r, &f->copies[i]));
    return SPEY_OK;
}

/* Another thread reads them while the cache queues others. */
static void take_copies(const spey_runner *r, step_flight *f)
{
    f->copies = spey_kv_copies(r->kv, &f->n_copies);
    if (!f->own_copies) return;
    if (f->n_copies) memcpy(f->own_copies, f->copies, (size_t)f->n_copies * sizeof(*f->copies));
    f->copies = f->own_copies;
}

spey_status spey_runner_observe(spey_runner *r, spey_observer observer, void *user)
{
    if (!r->program.device_info.host_memory)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "steps on %s cannot be observed: use the CPU",
                         r->program.device_info.name);
    r->observer = observer;
    r->observer_user = user;
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

/* Ids that the step before found. One that found none has ended its request: any id will do. */
static void resolve_links(const spey_runner *r, const step_flight *f)
{
    const step_flight *before = f == r->flights ? &r->flights[1] : &r->flights[0];
    const int32_t *best = f->n_links ? host_table(before, r->layout.tables.best) : NULL;
    int32_t *ids = host_table(f, r->layout.tables.ids);
    for (int32_t i = 0; i < f->n_links; i++)
        ids[f->places[i]] = best[f->rows[i]] < 0 ? 0 : best[f->rows[i]];
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
    SPEY_TRY(copy_blocks(r, f));
    resolve_links(r, f);
    SPEY_TRY(upload_tables(r, f));
    if (r->observer) return run_observed(r, begin, end);
    return spey_replay_run(&r->replay, r->program.backend, r->program.device, &r->batch,
                           binding->steps + begin, end - begin);
}

static spey_status fetch_logits(spey_runner *r, const step_flight *f)
{
    const spey_backend *backend = r->program.backend;
    size_t bytes = (size_t)f->n_outputs * (size_t)r->program.info->vocab_size * sizeof(float);
    if (r->program.device_info.host_memory || !bytes) return SPEY_OK;
    return backend->download(r->program.device, r->host_logits, r->logits.data, bytes);
}

/* Queue a search for the largest logits, bring what it finds. */
static spey_status fetch_best(spey_runner *r, const step_flight *f)
{
    const spey_backend *backend = r->program.backend;
    const spey_step search = { .kernel = r->argmax_row, .args = &r->argmax };
    int32_t *found = host_table(f, r->layout.tables.best);
    size_t bytes = (size_t)f->n_outputs * sizeof(*found);
    r->argmax.rows = f->n_outputs;
    SPEY_TRY(backend->run(r->program.device, &search, 1));
    if (found == r->argmax.out || !bytes) return SPEY_OK;
    return backend->download(r->program.device, found, r->argmax.out, bytes);
}

/* All of a step that is the device's. */
static spey_status run_flight(spey_runner *r, step_flight *f)
{
    const spey_binding *binding = &r->binding;
    uint64_t begin_ns = spey_clock_ns();
    SPEY_TRY(run_bound(r, f, binding->n_source_steps,
                       f->n_outputs ? binding->sizes.n_steps : binding->n_token_steps));
    SPEY_TRY(f->wants_best ? fetch_best(r, f) : fetch_logits(r, f));
    SPEY_TRY(r->program.backend->sync(r->program.device));
    f->idle_ns = r->last_end_ns ? begin_ns - r->last_end_ns : 0;
    r->last_end_ns = spey_clock_ns();
    f->busy_ns = r->last_end_ns - begin_ns;
    return SPEY_OK;
}

static void carry_out(void *user, uint64_t number)
{
    spey_runner *r = user;
    step_flight *f = &r->flights[(number - 1) % FLIGHTS_MAX];
    const step_flight *before = &r->flights[number % FLIGHTS_MAX];
    f->busy_ns = f->idle_ns = 0;
    if (r->failed) { /* the cache lacks what that step was to write */
        f->status = r->failed;
        memcpy(f->error, before->error, sizeof(f->error));
        return;
    }
    r->failed = f->status = run_flight(r, f);
    if (f->status) snprintf(f->error, sizeof(f->error), "%s", spey_last_error());
}

int spey_runner_under_way(const spey_runner *r)
{
    return (int)(r->n_submitted - r->n_waited);
}

static step_flight *flight_of(spey_runner *r, uint64_t number)
{
    return &r->flights[number % (uint64_t)n_flights(r)];
}

spey_status spey_runner_submit(spey_runner *r, const spey_submission *submission)
{
    int under_way = spey_runner_under_way(r);
    SPEY_ASSERT(under_way < n_flights(r));
    if (under_way && !flight_of(r, r->n_waited)->wants_best)
        return SPEY_FAIL(SPEY_INVALID, "a step that brings logits is under way");
    step_flight *f = flight_of(r, r->n_submitted);
    SPEY_TRY(check_step(r, submission, f));
    for (int s = 0; s < submission->n_seqs; s++) /* there are blocks: checked */
        SPEY_TRY(spey_kv_reserve(r->kv, submission->seqs[s].seq, length_after(r, submission, s)));
    fill_tables(r, f, submission, false);
    take_copies(r, f);
    if (r->driver)
        spey_driver_start(r->driver);
    else
        SPEY_TRY(run_flight(r, f));
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
    r->busy_ns += f->busy_ns;
    r->idle_ns += f->idle_ns;
    if (f->status) return SPEY_FAIL(f->status, "%s", f->error);
    spey_kv_file_turn(r->kv, spey_runner_under_way(r));
    if (f->wants_best)
        out->best = host_table(f, r->layout.tables.best);
    else
        out->logits = r->host_logits;
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
    *best = rows.best;
    return status;
}

spey_status spey_runner_logits(spey_runner *r, float **logits)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    *logits = r->host_logits;
    return fetch_logits(r, flight_of(r, r->n_submitted + (uint64_t)n_flights(r) - 1));
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
    return check_ids(r, s);
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
    return SPEY_OK;
}

spey_status spey_runner_encode(spey_runner *r, const spey_step_seq *seqs, int n_seqs)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    SPEY_TRY(check_encode(r, seqs, n_seqs));
    for (int s = 0; s < n_seqs; s++)
        SPEY_TRY(spey_kv_reserve_cross(r->kv, seqs[s].seq, seqs[s].n_ids));
    step_flight *f = &r->flights[0]; /* nothing is under way */
    fill_tables(r, f, &(spey_submission){ .seqs = seqs, .n_seqs = n_seqs }, true);
    take_copies(r, f);
    uint64_t begin_ns = spey_clock_ns();
    SPEY_TRY(run_bound(r, f, 0, r->binding.n_source_steps));
    SPEY_TRY(r->program.backend->sync(r->program.device));
    spey_kv_copies_done(r->kv);
    r->busy_ns += spey_clock_ns() - begin_ns;
    return SPEY_OK;
}

/* ---- the KV cache's file ---- */

/* Of the engine by the checksums of its sections, of what computes, and of how blocks are laid out. */
static spey_status identify(const spey_runner *r, uint64_t *out)
{
    const spey_engine_file *engine = r->program.engine;
    spey_strbuf text = { 0 };
    spey_strbuf_printf(&text, "%s %s %s %s %s", spey_version(), r->program.backend->name,
                       r->program.device_info.name, r->layout.plan.limits.kv_dtype,
                       r->program.info->name);
    for (int i = 0; i < spey_engine_file_n_sections(engine); i++)
        spey_strbuf_printf(&text, " %016llx",
                           (unsigned long long)spey_engine_file_section_at(engine, i).checksum);
    spey_strbuf_printf(&text, " %d", r->layout.kv.block_tokens);
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        spey_strbuf_printf(&text, " %lld/%lld", (long long)r->layout.pools[g].block_bytes,
                           (long long)r->layout.kv.groups[g].window);
    spey_status status = spey_strbuf_status(&text);
    if (status == SPEY_OK) *out = spey_xxh3(text.data, text.len);
    spey_strbuf_deinit(&text);
    return status;
}

spey_status spey_runner_open_kv_file(spey_runner *r, const char *path, uint64_t bytes)
{
    spey_kv_file_setup setup = { .path = path, .bytes = bytes };
    if (!r->layout.kv.host_blocks)
        return SPEY_FAIL(SPEY_UNSUPPORTED, "nothing of this model's KV cache is kept for reuse");
    for (int g = 0; g < r->layout.kv.n_groups; g++) {
        setup.block_bytes[g] = (size_t)r->layout.pools[g].block_bytes;
        setup.host[g] = r->kv_host[g];
    }
    SPEY_TRY(identify(r, &setup.identity));
    return spey_kv_file_open(r->kv, &setup);
}

/* Carry out what the cache has queued, then let its file go on. */
static spey_status turn_kv_file(spey_runner *r)
{
    SPEY_ASSERT(spey_runner_under_way(r) == 0);
    if (r->failed) return SPEY_FAIL(r->failed, "a step failed: what the cache holds is not known");
    take_copies(r, &r->flights[0]);
    SPEY_TRY(copy_blocks(r, &r->flights[0]));
    spey_kv_copies_done(r->kv);
    SPEY_TRY(r->program.backend->sync(r->program.device));
    spey_kv_file_turn(r->kv, 0);
    return SPEY_OK;
}

spey_status spey_runner_await_kv(spey_runner *r)
{
    spey_kv_file_wait(r->kv);
    return turn_kv_file(r);
}

static spey_status write_all(spey_runner *r)
{
    do {
        SPEY_TRY(turn_kv_file(r));
        while (spey_kv_file_is_busy(r->kv))
            SPEY_TRY(spey_runner_await_kv(r));
    } while (spey_kv_file_push_out(r->kv));
    return SPEY_OK;
}

spey_status spey_runner_close_kv_file(spey_runner *r)
{
    if (!spey_kv_has_file(r->kv)) return SPEY_OK;
    for (spey_seq_id seq = 0; seq < r->layout.kv.sequences_max; seq++)
        if (spey_kv_is_open(r->kv, seq)) spey_kv_close(r->kv, seq);
    spey_status status = write_all(r);
    spey_kv_file_close(r->kv);
    return status;
}
