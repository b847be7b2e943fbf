#include "runtime/executor.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "runtime/bind.h"
#include "runtime/layout.h"
#include "runtime/program.h"
#include "runtime/weights.h"

/* A piece of device memory. */
typedef struct device_memory {
    void *data;
    size_t bytes;
} device_memory;

struct spey_executor {
    spey_program program; /* without its graph once loaded */
    spey_layout layout;   /* without its memory plan once loaded */
    char device_name[SPEY_NAME_BYTES_MAX];
    device_memory weights, activations, workspace, logits, tables, kv_pools[SPEY_CACHE_GROUPS_MAX];
    uint8_t *host_tables; /* what `tables` gets; the same memory when the device reads ours */
    float *host_logits;   /* likewise for `logits` */
    spey_ragged batch;    /* its arrays lie in `tables` */
    spey_kv_cache *kv;
    spey_binding binding;
    uint64_t step;     /* number of the current step */
    uint64_t *seen_in; /* [sequences_max] the last step that had this sequence */
};

/* ---- loading ---- */

static spey_status take_memory(spey_executor *e, uint64_t bytes, const char *what,
                               device_memory *out)
{
    if (!bytes) return SPEY_OK;
    if (bytes > SIZE_MAX) return SPEY_FAIL(SPEY_NOMEM, "%s does not fit the address space", what);
    SPEY_TRY_CTX(e->program.backend->memory_new(e->program.device, (size_t)bytes, &out->data), "%s",
                 what);
    out->bytes = (size_t)bytes;
    return SPEY_OK;
}

static void give_memory(spey_executor *e, device_memory *memory)
{
    if (memory->data)
        e->program.backend->memory_free(e->program.device, memory->data, memory->bytes);
    *memory = (device_memory){ 0 };
}

static spey_status take_device_memory(spey_executor *e)
{
    const spey_layout *layout = &e->layout;
    SPEY_TRY(take_memory(e, spey_weights_copied_bytes(&e->program), "weights", &e->weights));
    SPEY_TRY(take_memory(e, layout->arena_bytes, "activations", &e->activations));
    SPEY_TRY(take_memory(e, layout->sizes.workspace_bytes, "workspace", &e->workspace));
    SPEY_TRY(take_memory(e, layout->logits_bytes, "logits", &e->logits));
    SPEY_TRY(take_memory(e, layout->tables.bytes, "tables", &e->tables));
    for (int g = 0; g < layout->kv.n_groups; g++)
        SPEY_TRY(take_memory(
            e, (uint64_t)layout->kv.n_blocks[g] * (uint64_t)layout->pools[g].block_bytes,
            "kv cache", &e->kv_pools[g]));
    return SPEY_OK;
}

static spey_status take_host_memory(spey_executor *e)
{
    const spey_layout *layout = &e->layout;
    SPEY_TRY(spey_kv_cache_new(&layout->kv, &e->kv));
    e->seen_in = spey_new_array(SPEY_PURPOSE_RUNTIME, uint64_t, layout->kv.sequences_max);
    if (!e->seen_in) return SPEY_NOMEM;
    if (e->program.device_info.host_memory) {
        e->host_tables = e->tables.data;
        e->host_logits = e->logits.data;
        return SPEY_OK;
    }
    e->host_tables = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->tables.bytes);
    e->host_logits = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->logits_bytes);
    return e->host_tables && e->host_logits ? SPEY_OK : SPEY_NOMEM;
}

static const int32_t *device_table(const spey_executor *e, size_t at)
{
    return (const int32_t *)(const void *)((const uint8_t *)e->tables.data + at);
}

static void point_batch(spey_executor *e)
{
    const spey_table_layout *tables = &e->layout.tables;
    e->batch = (spey_ragged){ .ids = device_table(e, tables->ids),
                              .positions = device_table(e, tables->positions),
                              .token_seq = device_table(e, tables->token_seq),
                              .seq_start = device_table(e, tables->seq_start),
                              .kv_len = device_table(e, tables->kv_len),
                              .output_rows = device_table(e, tables->output_rows) };
    for (int g = 0; g < e->layout.kv.n_groups; g++)
        e->batch.groups[g] = (spey_block_table){ .blocks = device_table(e, tables->groups[g]),
                                                 .pitch = tables->pitch };
}

static spey_status load_and_bind(spey_executor *e)
{
    const void **weights =
        spey_new_array(SPEY_PURPOSE_RUNTIME, const void *, e->program.graph->n_weights);
    if (!weights) return SPEY_NOMEM;
    spey_bases bases = { .activations = e->activations.data,
                         .logits = e->logits.data,
                         .workspace = e->workspace.data,
                         .weights = weights,
                         .batch = &e->batch };
    for (int g = 0; g < e->layout.kv.n_groups; g++)
        bases.kv[g] = e->kv_pools[g].data;
    spey_status status = spey_weights_load(&e->program, e->weights.data, weights);
    if (status == SPEY_OK) status = spey_bind(&e->program, &e->layout, &bases, &e->binding);
    spey_free(weights);
    if (status == SPEY_OK && e->binding.sizes.workspace_bytes > e->layout.sizes.workspace_bytes)
        status = SPEY_FAIL(SPEY_INTERNAL, "kernels ask for more workspace than they did before");
    return status;
}

static spey_status load(spey_executor *e, const spey_engine_file *engine,
                        const spey_limits_plan *limits)
{
    SPEY_TRY(spey_program_init(&e->program, engine, limits));
    SPEY_TRY(spey_layout_init(&e->layout, &e->program, limits));
    SPEY_TRY(spey_layout_check_fits(&e->layout, &e->program, limits));
    snprintf(e->device_name, sizeof(e->device_name), "%s", e->layout.plan.limits.device);
    e->layout.plan.limits.device = e->device_name;
    SPEY_TRY(take_device_memory(e));
    SPEY_TRY(take_host_memory(e));
    point_batch(e);
    SPEY_TRY(load_and_bind(e));
    spey_program_drop_graph(&e->program);
    spey_memplan_free(e->layout.memplan);
    e->layout.memplan = NULL;
    return SPEY_OK;
}

spey_status spey_executor_new(const spey_engine_file *engine, const spey_limits_plan *limits,
                              spey_executor **out)
{
    *out = NULL;
    spey_executor *e = spey_new(SPEY_PURPOSE_RUNTIME, spey_executor);
    if (!e) return SPEY_NOMEM;
    spey_status status = load(e, engine, limits);
    if (status == SPEY_OK)
        *out = e;
    else
        spey_executor_free(e);
    return status;
}

void spey_executor_free(spey_executor *e)
{
    if (!e) return;
    if (!e->program.device_info.host_memory) {
        spey_free(e->host_tables);
        spey_free(e->host_logits);
    }
    spey_binding_deinit(&e->binding);
    spey_kv_cache_free(e->kv);
    spey_free(e->seen_in);
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++)
        give_memory(e, &e->kv_pools[g]);
    give_memory(e, &e->tables);
    give_memory(e, &e->logits);
    give_memory(e, &e->workspace);
    give_memory(e, &e->activations);
    give_memory(e, &e->weights);
    spey_layout_deinit(&e->layout);
    spey_program_deinit(&e->program);
    spey_free(e);
}

spey_status spey_executor_plan(const spey_engine_file *engine, const spey_limits_plan *limits,
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

const spey_plan *spey_executor_get_plan(const spey_executor *e)
{
    return &e->layout.plan;
}

spey_kv_cache *spey_executor_kv(spey_executor *e)
{
    return e->kv;
}

uint64_t spey_executor_weight_bytes(const spey_executor *e)
{
    return e->binding.weight_bytes;
}

void spey_executor_describe(const spey_executor *e, spey_strbuf *out)
{
    const spey_step *steps = e->binding.steps;
    const char *separator = "";
    for (int i = 0; i < e->binding.sizes.n_steps; i++) {
        int first = 0, count = 0;
        while (steps[first].kernel != steps[i].kernel)
            first++;
        if (first < i) continue;
        for (int j = i; j < e->binding.sizes.n_steps; j++)
            count += steps[j].kernel == steps[i].kernel;
        spey_strbuf_printf(out, "%s%s %d×", separator, steps[i].kernel->name, count);
        separator = ", ";
    }
}

/* ---- a step ---- */

static spey_status check_ids(const spey_executor *e, const spey_step_seq *s)
{
    for (int32_t i = 0; i < s->n_ids; i++)
        if (s->ids[i] < 0 || s->ids[i] >= e->binding.n_ids)
            return SPEY_FAIL(SPEY_INVALID, "sequence %d: id %d is not in the vocabulary of %lld",
                             s->seq, s->ids[i], (long long)e->binding.n_ids);
    return SPEY_OK;
}

static spey_status check_sequence(spey_executor *e, const spey_step_seq *s)
{
    if (!spey_kv_is_open(e->kv, s->seq))
        return SPEY_FAIL(SPEY_INVALID, "sequence %d is not open", s->seq);
    if (e->seen_in[s->seq] == e->step)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d is there twice", s->seq);
    e->seen_in[s->seq] = e->step;
    if (s->n_ids < 1 || s->n_outputs < 0 || s->n_outputs > s->n_ids)
        return SPEY_FAIL(SPEY_INVALID, "sequence %d: logits of the last %d of %d tokens wanted",
                         s->seq, s->n_outputs, s->n_ids);
    return check_ids(e, s);
}

/* Check everything before anything changes; the batch gets its sizes. */
static spey_status check_step(spey_executor *e, const spey_step_seq *seqs, int n_seqs)
{
    const spey_limits_plan *limits = &e->layout.plan.limits;
    if (n_seqs < 1 || n_seqs > limits->sequences_max)
        return SPEY_FAIL(SPEY_INVALID, "a step of %d sequences, %d are the most", n_seqs,
                         limits->sequences_max);
    int64_t n_tokens = 0, n_outputs = 0, n_blocks = 0;
    e->step++;
    for (int s = 0; s < n_seqs; s++) {
        SPEY_TRY(check_sequence(e, &seqs[s]));
        int64_t after = spey_kv_length(e->kv, seqs[s].seq) + seqs[s].n_ids;
        if (after > limits->sequence_tokens_max)
            return SPEY_FAIL(SPEY_LIMIT, "sequence %d would have %lld tokens, %lld are the most",
                             seqs[s].seq, (long long)after, (long long)limits->sequence_tokens_max);
        n_tokens += seqs[s].n_ids;
        n_outputs += seqs[s].n_outputs;
        n_blocks += spey_kv_missing_blocks(e->kv, seqs[s].seq, after);
    }
    if (n_tokens > limits->step_tokens_max || n_outputs > limits->outputs_max)
        return SPEY_FAIL(SPEY_INVALID,
                         "a step of %lld tokens and %lld outputs, %lld and %lld are the most",
                         (long long)n_tokens, (long long)n_outputs,
                         (long long)limits->step_tokens_max, (long long)limits->outputs_max);
    int32_t n_free = spey_kv_free_blocks(e->kv);
    if (n_blocks > n_free)
        return SPEY_FAIL(SPEY_LIMIT,
                         "the KV cache is full: the step needs %lld blocks of %d tokens, %d are "
                         "free, %lld are missing",
                         (long long)n_blocks, limits->kv_block_tokens, n_free,
                         (long long)n_blocks - n_free);
    e->batch.n_tokens = (int32_t)n_tokens;
    e->batch.n_seqs = n_seqs;
    e->batch.n_outputs = (int32_t)n_outputs;
    return SPEY_OK;
}

static int32_t *host_table(const spey_executor *e, size_t at)
{
    return (int32_t *)(void *)(e->host_tables + at);
}

static void fill_sequence(spey_executor *e, const spey_step_seq *s, int row)
{
    const spey_table_layout *tables = &e->layout.tables;
    int32_t *start = host_table(e, tables->seq_start) + row;
    int32_t *ids = host_table(e, tables->ids) + *start;
    int32_t *positions = host_table(e, tables->positions) + *start;
    int32_t *token_seq = host_table(e, tables->token_seq) + *start;
    int32_t length = (int32_t)spey_kv_length(e->kv, s->seq);
    memcpy(ids, s->ids, (size_t)s->n_ids * sizeof(*ids));
    for (int32_t i = 0; i < s->n_ids; i++) {
        positions[i] = length + i;
        token_seq[i] = row;
    }
    start[1] = *start + s->n_ids;
    host_table(e, tables->kv_len)[row] = length + s->n_ids;
    for (int g = 0; g < e->layout.kv.n_groups; g++) {
        int64_t n, used = spey_kv_blocks_for(e->kv, g, length + s->n_ids);
        const int32_t *blocks = spey_kv_blocks(e->kv, g, s->seq, &n);
        SPEY_ASSERT(used <= n);
        SPEY_ASSERT(used <= tables->pitch);
        memcpy(host_table(e, tables->groups[g]) + row * tables->pitch, blocks,
               (size_t)used * sizeof(*blocks));
    }
}

static void fill_tables(spey_executor *e, const spey_step_seq *seqs, int n_seqs)
{
    int32_t *output_rows = host_table(e, e->layout.tables.output_rows);
    int32_t *seq_start = host_table(e, e->layout.tables.seq_start);
    seq_start[0] = 0;
    for (int s = 0; s < n_seqs; s++) {
        fill_sequence(e, &seqs[s], s);
        for (int32_t i = seqs[s].n_outputs; i > 0; i--)
            *output_rows++ = seq_start[s + 1] - i;
    }
}

static spey_status upload(spey_executor *e, size_t at, int64_t n)
{
    if (!n) return SPEY_OK;
    return e->program.backend->upload(e->program.device, (uint8_t *)e->tables.data + at,
                                      e->host_tables + at, (size_t)n * sizeof(int32_t));
}

static spey_status upload_tables(spey_executor *e)
{
    const spey_table_layout *tables = &e->layout.tables;
    if (e->program.device_info.host_memory) return SPEY_OK;
    SPEY_TRY(upload(e, tables->ids, e->batch.n_tokens));
    SPEY_TRY(upload(e, tables->positions, e->batch.n_tokens));
    SPEY_TRY(upload(e, tables->token_seq, e->batch.n_tokens));
    SPEY_TRY(upload(e, tables->seq_start, e->batch.n_seqs + 1));
    SPEY_TRY(upload(e, tables->kv_len, e->batch.n_seqs));
    SPEY_TRY(upload(e, tables->output_rows, e->batch.n_outputs));
    for (int g = 0; g < e->layout.kv.n_groups; g++)
        SPEY_TRY(upload(e, tables->groups[g], e->batch.n_seqs * tables->pitch));
    return SPEY_OK;
}

static spey_status run_steps(spey_executor *e)
{
    const spey_backend *backend = e->program.backend;
    spey_binding *binding = &e->binding;
    int n = e->batch.n_outputs ? binding->sizes.n_steps : binding->n_token_steps;
    for (int i = 0; i < n; i++)
        binding->args[i].rows =
            binding->rows[i] == SPEY_ROWS_TOKENS ? e->batch.n_tokens : e->batch.n_outputs;
    SPEY_TRY(upload_tables(e));
    SPEY_TRY(backend->run(e->program.device, binding->steps, n));
    SPEY_TRY(backend->sync(e->program.device));
    if (e->program.device_info.host_memory || !e->batch.n_outputs) return SPEY_OK;
    size_t bytes = (size_t)e->batch.n_outputs * (size_t)e->program.info->vocab_size * sizeof(float);
    return backend->download(e->program.device, e->host_logits, e->logits.data, bytes);
}

spey_status spey_executor_step(spey_executor *e, const spey_step_seq *seqs, int n_seqs,
                               float **logits)
{
    *logits = NULL;
    SPEY_TRY(check_step(e, seqs, n_seqs));
    for (int s = 0; s < n_seqs; s++) {
        int64_t after = spey_kv_length(e->kv, seqs[s].seq) + seqs[s].n_ids;
        SPEY_TRY(spey_kv_reserve(e->kv, seqs[s].seq, after)); /* checked: does not fail */
    }
    fill_tables(e, seqs, n_seqs);
    SPEY_TRY(run_steps(e));
    for (int s = 0; s < n_seqs; s++)
        spey_kv_advance(e->kv, seqs[s].seq, seqs[s].n_ids);
    *logits = e->host_logits;
    return SPEY_OK;
}
