#include "runtime/runner.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "kernels/registry.h"
#include "runtime/kv_file.h"
#include "runtime/runner_body.h"
#include "runtime/tactics.h"
#include "runtime/weights.h"
#include "spey/spey.h"

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

static spey_status prepare_flight(spey_runner *r, step_flight *f)
{
    const spey_layout *layout = &r->layout;
    if (runner_n_flights(r) > 1) {
        f->own_copies =
            spey_new_array(SPEY_PURPOSE_RUNTIME, spey_kv_copy, spey_kv_copies_max(&layout->kv));
        if (!f->own_copies) return SPEY_NOMEM;
    }
    if (runner_shares_tables(r)) {
        f->tables = r->tables.data;
        f->prompt_rows = r->prompt_rows.data;
        return SPEY_OK;
    }
    if (layout->tables.patches_max && layout->kv.n_groups) {
        f->spans = spey_alloc_array(SPEY_PURPOSE_RUNTIME, (size_t)layout->kv.n_groups * 2,
                                    (size_t)layout->kv.sequences_max * sizeof(*f->spans));
        if (!f->spans) return SPEY_NOMEM;
    }
    f->tables = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->tables.bytes);
    if (layout->prompt_rows_bytes)
        f->prompt_rows = spey_alloc(SPEY_PURPOSE_RUNTIME, layout->prompt_rows_bytes);
    return f->tables && (f->prompt_rows || !layout->prompt_rows_bytes) ? SPEY_OK : SPEY_NOMEM;
}

static void free_flight(const spey_runner *r, step_flight *f)
{
    spey_free(f->own_copies);
    spey_free(f->spans);
    if (runner_shares_tables(r)) return;
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
    for (int i = 0; i < runner_n_flights(r); i++)
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
    SPEY_TRY(spey_runner_prepare_upload(r));
    SPEY_TRY(spey_runner_prepare_find(r));
    spey_tactics_load(&r->program);
    if (limits->tune) SPEY_TRY(spey_tactics_tune(&r->program, &r->binding));
    if (runner_n_flights(r) > 1 && !r->queues)
        SPEY_TRY(spey_driver_new(spey_runner_carry_out, r, &r->driver));
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
    spey_profile_free(r->profile);
    if (r->program.device) spey_replay_deinit(&r->replay, r->program.backend, r->program.device);
    spey_binding_deinit(&r->binding);
    spey_kv_file_close(r->kv);
    spey_kv_cache_free(r->kv);
    for (int g = 0; g < SPEY_CACHE_GROUPS_MAX; g++)
        spey_free(r->kv_host[g]);
    spey_free(r->seen_in);
    spey_free(r->mirror);
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
    spey_runner_take_copies(r, &r->flights[0]);
    SPEY_TRY(spey_runner_copy_blocks(r, &r->flights[0]));
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
