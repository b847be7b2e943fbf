#include "runtime/runner.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/hash.h"
#include "kernels/argmax/argmax.h"
#include "kernels/registry.h"
#include "runtime/bind.h"
#include "runtime/kv_store.h"
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

struct spey_runner {
    spey_program program; /* without its graph once loaded */
    spey_layout layout;   /* without its memory plan once loaded */
    char device_name[SPEY_NAME_BYTES_MAX];
    device_memory weights, activations, workspace, logits, tables, prompt_rows,
        kv_pools[SPEY_CACHE_GROUPS_MAX];
    uint8_t *kv_host[SPEY_CACHE_GROUPS_MAX]; /* blocks that were evicted from the pools */
    uint8_t *host_tables;    /* what `tables` gets; the same memory when the device reads ours */
    float *host_logits;      /* likewise for `logits` */
    float *host_prompt_rows; /* likewise for `prompt_rows`; NULL: there are no prompt tables */
    int64_t n_prompt_rows;   /* of the current step */
    spey_ragged batch;       /* its arrays lie in `tables` */
    spey_kv_cache *kv;
    spey_binding binding;
    spey_argmax_args argmax;
    const spey_kernel *argmax_row;
    spey_replay replay;
    uint64_t step;          /* number of the current step */
    spey_observer observer; /* NULL: none */
    void *observer_user;
    uint64_t busy_ns;  /* in run_steps */
    uint64_t *seen_in; /* [sequences_max] the last step that had this sequence */
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
    if (r->program.device_info.host_memory) {
        r->host_tables = r->tables.data;
        r->host_logits = r->logits.data;
        r->host_prompt_rows = r->prompt_rows.data;
        return SPEY_OK;
    }
    if (layout->prompt_rows_bytes) {
        r->host_prompt_rows = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->prompt_rows_bytes);
        if (!r->host_prompt_rows) return SPEY_NOMEM;
    }
    r->host_tables = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->tables.bytes);
    r->host_logits = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->logits_bytes);
    return r->host_tables && r->host_logits ? SPEY_OK : SPEY_NOMEM;
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
    if (!r->program.device_info.host_memory) {
        spey_free(r->host_tables);
        spey_free(r->host_logits);
        spey_free(r->host_prompt_rows);
    }
    if (r->program.device) spey_replay_deinit(&r->replay, r->program.backend, r->program.device);
    spey_binding_deinit(&r->binding);
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
    if (s->table && (!r->host_prompt_rows || s->table->cols != r->program.info->hidden_size))
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

static spey_status check_sequence(spey_runner *r, const spey_step_seq *s)
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
    return check_ids(r, s);
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

/* Check everything before anything changes; the batch gets its sizes. */
static spey_status check_step(spey_runner *r, const spey_step_seq *seqs, int n_seqs)
{
    const spey_limits_plan *limits = &r->layout.plan.limits;
    if (n_seqs < 1 || n_seqs > limits->sequences_max)
        return SPEY_FAIL(SPEY_INVALID, "a step of %d sequences, %d are the most", n_seqs,
                         limits->sequences_max);
    int64_t n_tokens = 0, n_outputs = 0, n_blocks[SPEY_CACHE_GROUPS_MAX] = { 0 };
    r->step++;
    for (int s = 0; s < n_seqs; s++) {
        SPEY_TRY(check_sequence(r, &seqs[s]));
        int64_t after = spey_kv_length(r->kv, seqs[s].seq) + seqs[s].n_ids;
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
    r->batch.n_tokens = (int32_t)n_tokens;
    r->batch.n_seqs = n_seqs;
    r->batch.n_outputs = (int32_t)n_outputs;
    return SPEY_OK;
}

static int32_t *host_table(const spey_runner *r, size_t at)
{
    return (int32_t *)(void *)(r->host_tables + at);
}

/* Blocks of the sequence in a group for `length` tokens. A step of the encoder sees nothing of the decoder's. */
static void fill_blocks(spey_runner *r, int g, spey_seq_id seq, int row, int64_t length)
{
    const spey_table_layout *tables = &r->layout.tables;
    bool cross = r->layout.kv.groups[g].kind == SPEY_KV_CROSS;
    if (cross) length = spey_kv_cross_length(r->kv, seq);
    int64_t n, used = spey_kv_blocks_for(r->kv, g, length);
    int64_t first = spey_kv_first_block(r->kv, g, seq);
    const int32_t *blocks = spey_kv_blocks(r->kv, g, seq, &n);
    SPEY_ASSERT(used <= n);
    SPEY_ASSERT(used <= tables->pitch);
    memcpy(host_table(r, tables->groups[g]) + row * tables->pitch + first, blocks + first,
           (size_t)(used - first) * sizeof(*blocks));
}

/* Ids of a table's rows become numbers of the step's: kernels read those of all sequences in one piece. */
static void fill_prompt_rows(spey_runner *r, const spey_step_seq *s, int32_t *ids)
{
    for (int32_t i = 0; s->table && i < s->n_ids; i++) {
        int64_t row = table_row(r, s, ids[i]), at = r->n_prompt_rows;
        if (row < 0) continue;
        spey_prompt_table_read(s->table, row, r->host_prompt_rows + at * s->table->cols);
        ids[i] = (int32_t)(-1 - at);
        r->n_prompt_rows++;
    }
}

static void fill_sequence(spey_runner *r, const spey_step_seq *s, int row, bool encodes)
{
    const spey_table_layout *tables = &r->layout.tables;
    int32_t *start = host_table(r, tables->seq_start) + row;
    int32_t *ids = host_table(r, tables->ids) + *start;
    int32_t *positions = host_table(r, tables->positions) + *start;
    int32_t *token_seq = host_table(r, tables->token_seq) + *start;
    int32_t length = encodes ? 0 : (int32_t)spey_kv_length(r->kv, s->seq);
    memcpy(ids, s->ids, (size_t)s->n_ids * sizeof(*ids));
    fill_prompt_rows(r, s, ids);
    for (int32_t i = 0; i < s->n_ids; i++) {
        positions[i] = length + i;
        token_seq[i] = row;
    }
    start[1] = *start + s->n_ids;
    host_table(r, tables->kv_len)[row] = length + s->n_ids;
    host_table(r, tables->source_len)[row] = (int32_t)spey_kv_cross_length(r->kv, s->seq);
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        fill_blocks(r, g, s->seq, row, encodes ? 0 : length + s->n_ids);
}

static void fill_tables(spey_runner *r, const spey_step_seq *seqs, int n_seqs, bool encodes)
{
    int32_t *output_rows = host_table(r, r->layout.tables.output_rows);
    int32_t *seq_start = host_table(r, r->layout.tables.seq_start);
    seq_start[0] = 0;
    r->n_prompt_rows = 0;
    for (int s = 0; s < n_seqs; s++) {
        fill_sequence(r, &seqs[s], s, encodes);
        for (int32_t i = encodes ? 0 : seqs[s].n_outputs; i > 0; i--)
            *output_rows++ = seq_start[s + 1] - i;
    }
}

static spey_status upload(spey_runner *r, size_t at, int64_t n)
{
    if (!n) return SPEY_OK;
    return r->program.backend->upload(r->program.device, (uint8_t *)r->tables.data + at,
                                      r->host_tables + at, (size_t)n * sizeof(int32_t));
}

static spey_status upload_prompt_rows(spey_runner *r)
{
    size_t row = (size_t)r->program.info->hidden_size * sizeof(float);
    if (!r->n_prompt_rows) return SPEY_OK;
    return r->program.backend->upload(r->program.device, r->prompt_rows.data, r->host_prompt_rows,
                                      (size_t)r->n_prompt_rows * row);
}

/* Up to this many bytes go faster in one copy, with what nobody reads in between, than in pieces. */
enum { TABLES_AT_ONCE = 256 << 10 };

static spey_status upload_tables(spey_runner *r)
{
    const spey_table_layout *tables = &r->layout.tables;
    const int64_t used = r->batch.n_seqs * tables->pitch;
    if (r->program.device_info.host_memory) return SPEY_OK;
    SPEY_TRY(upload_prompt_rows(r));
    size_t end = tables->output_rows + (size_t)r->batch.n_outputs * sizeof(int32_t);
    if (r->layout.kv.n_groups > 0)
        end = tables->groups[r->layout.kv.n_groups - 1] + (size_t)used * sizeof(int32_t);
    if (end <= TABLES_AT_ONCE) return upload(r, 0, (int64_t)(end / sizeof(int32_t)));
    SPEY_TRY(upload(r, tables->ids, r->batch.n_tokens));
    SPEY_TRY(upload(r, tables->positions, r->batch.n_tokens));
    SPEY_TRY(upload(r, tables->token_seq, r->batch.n_tokens));
    SPEY_TRY(upload(r, tables->seq_start, r->batch.n_seqs + 1));
    SPEY_TRY(upload(r, tables->kv_len, r->batch.n_seqs));
    if (r->program.has_encoder) SPEY_TRY(upload(r, tables->source_len, r->batch.n_seqs));
    SPEY_TRY(upload(r, tables->output_rows, r->batch.n_outputs));
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        SPEY_TRY(upload(r, tables->groups[g], used));
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
static spey_status copy_blocks(spey_runner *r)
{
    int64_t n;
    const spey_kv_copy *copies = spey_kv_copies(r->kv, &n);
    for (int64_t i = 0; i < n; i++)
        SPEY_TRY(copy_block(r, &copies[i]));
    spey_kv_copies_done(r->kv);
    return SPEY_OK;
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

/* Queue steps [begin, end) of the binding; what they leave stays where it is. */
static spey_status run_bound(spey_runner *r, int begin, int end)
{
    spey_binding *binding = &r->binding;
    for (int i = begin; i < end; i++)
        binding->args[i].rows =
            binding->rows[i] == SPEY_ROWS_OUTPUTS ? r->batch.n_outputs : r->batch.n_tokens;
    SPEY_TRY(copy_blocks(r));
    SPEY_TRY(upload_tables(r));
    if (r->observer) return run_observed(r, begin, end);
    return spey_replay_run(&r->replay, r->program.backend, r->program.device, &r->batch,
                           binding->steps + begin, end - begin);
}

static spey_status run_steps(spey_runner *r)
{
    const spey_binding *binding = &r->binding;
    return run_bound(r, binding->n_source_steps,
                     r->batch.n_outputs ? binding->sizes.n_steps : binding->n_token_steps);
}

static spey_status fetch_logits(spey_runner *r, float **logits)
{
    const spey_backend *backend = r->program.backend;
    size_t bytes = (size_t)r->batch.n_outputs * (size_t)r->program.info->vocab_size * sizeof(float);
    if (!r->program.device_info.host_memory && bytes)
        SPEY_TRY(backend->download(r->program.device, r->host_logits, r->logits.data, bytes));
    *logits = r->host_logits;
    return SPEY_OK;
}

/* Queue a search for the largest logits, bring what it finds. */
static spey_status fetch_best(spey_runner *r, const int32_t **best)
{
    const spey_backend *backend = r->program.backend;
    const spey_step search = { .kernel = r->argmax_row, .args = &r->argmax };
    int32_t *found = host_table(r, r->layout.tables.best);
    size_t bytes = (size_t)r->batch.n_outputs * sizeof(*found);
    r->argmax.rows = r->batch.n_outputs;
    SPEY_TRY(backend->run(r->program.device, &search, 1));
    if (!r->program.device_info.host_memory && bytes)
        SPEY_TRY(backend->download(r->program.device, found, r->argmax.out, bytes));
    *best = found;
    return SPEY_OK;
}

/* A step whose rows come back through one of the two, the other NULL. */
static spey_status step(spey_runner *r, const spey_step_seq *seqs, int n_seqs, float **logits,
                        const int32_t **best)
{
    SPEY_TRY(check_step(r, seqs, n_seqs));
    for (int s = 0; s < n_seqs; s++) {
        int64_t after = spey_kv_length(r->kv, seqs[s].seq) + seqs[s].n_ids;
        SPEY_TRY(spey_kv_reserve(r->kv, seqs[s].seq, after)); /* there are blocks: checked */
    }
    fill_tables(r, seqs, n_seqs, false);
    uint64_t begin_ns = spey_clock_ns();
    SPEY_TRY(run_steps(r));
    SPEY_TRY(logits ? fetch_logits(r, logits) : fetch_best(r, best));
    SPEY_TRY(r->program.backend->sync(r->program.device));
    r->busy_ns += spey_clock_ns() - begin_ns;
    for (int s = 0; s < n_seqs; s++)
        spey_kv_advance(r->kv, seqs[s].seq, seqs[s].ids, seqs[s].n_ids);
    return SPEY_OK;
}

spey_status spey_runner_step(spey_runner *r, const spey_step_seq *seqs, int n_seqs, float **logits)
{
    *logits = NULL;
    return step(r, seqs, n_seqs, logits, NULL);
}

spey_status spey_runner_step_best(spey_runner *r, const spey_step_seq *seqs, int n_seqs,
                                  const int32_t **best)
{
    *best = NULL;
    return step(r, seqs, n_seqs, NULL, best);
}

spey_status spey_runner_logits(spey_runner *r, float **logits)
{
    return fetch_logits(r, logits);
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
    r->batch.n_tokens = (int32_t)n_tokens;
    r->batch.n_seqs = n_seqs;
    r->batch.n_outputs = 0;
    return SPEY_OK;
}

spey_status spey_runner_encode(spey_runner *r, const spey_step_seq *seqs, int n_seqs)
{
    SPEY_TRY(check_encode(r, seqs, n_seqs));
    for (int s = 0; s < n_seqs; s++)
        SPEY_TRY(spey_kv_reserve_cross(r->kv, seqs[s].seq, seqs[s].n_ids));
    fill_tables(r, seqs, n_seqs, true);
    uint64_t begin_ns = spey_clock_ns();
    SPEY_TRY(run_bound(r, 0, r->binding.n_source_steps));
    SPEY_TRY(r->program.backend->sync(r->program.device));
    r->busy_ns += spey_clock_ns() - begin_ns;
    return SPEY_OK;
}

/* ---- what the cache keeps, in a file ---- */

static spey_status read_block(void *user, int g, spey_kv_tier tier, int32_t block, void *bytes)
{
    const spey_runner *r = user;
    size_t n = (size_t)r->layout.pools[g].block_bytes;
    if (tier == SPEY_KV_TIER_DEVICE)
        return r->program.backend->download(r->program.device, bytes,
                                            (uint8_t *)r->kv_pools[g].data + (size_t)block * n, n);
    memcpy(bytes, r->kv_host[g] + (size_t)block * n, n);
    return SPEY_OK;
}

static spey_status write_block(void *user, int g, int32_t block, const void *bytes)
{
    const spey_runner *r = user;
    size_t n = (size_t)r->layout.pools[g].block_bytes;
    return r->program.backend->upload(r->program.device,
                                      (uint8_t *)r->kv_pools[g].data + (size_t)block * n, bytes, n);
}

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

static spey_status store_of(spey_runner *r, const char *path, spey_kv_store *out)
{
    *out = (spey_kv_store){ .path = path, .user = r, .read = read_block, .write = write_block };
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        out->block_bytes[g] = (size_t)r->layout.pools[g].block_bytes;
    return identify(r, &out->identity);
}

spey_status spey_runner_save_kv(spey_runner *r, const char *path, int64_t *n)
{
    spey_kv_store store;
    *n = 0;
    SPEY_TRY(store_of(r, path, &store));
    SPEY_TRY(copy_blocks(r));
    SPEY_TRY(r->program.backend->sync(r->program.device));
    return spey_kv_store_save(&store, r->kv, n);
}

spey_status spey_runner_load_kv(spey_runner *r, const char *path, int64_t *n)
{
    spey_kv_store store;
    *n = 0;
    SPEY_TRY(store_of(r, path, &store));
    return spey_kv_store_load(&store, r->kv, n);
}
