#include <string.h>

#include "kernels/registry.h"
#include "runtime/runner_body.h"

static int32_t *device_table(const spey_runner *r, size_t at)
{
    return (int32_t *)(void *)((uint8_t *)r->tables.data + at);
}

/* Where logits do not lie in our memory, a row is chosen that needs none of them there. */
static spey_status prepare_sample(spey_runner *r)
{
    const spey_table_layout *tables = &r->layout.tables;
    if (!tables->rule_ids_max) return SPEY_OK;
    r->sample = (spey_sample_args){ .rows = r->layout.plan.limits.outputs_max,
                                    .cols = r->program.info->vocab_size,
                                    .x = r->logits.data,
                                    .x_pitch = r->program.info->vocab_size,
                                    .rules = (const void *)device_table(r, tables->rules),
                                    .ids = device_table(r, tables->rule_ids),
                                    .n_ids = tables->rule_ids_max,
                                    .batch = &r->batch,
                                    .out = device_table(r, tables->found),
                                    .logprobs = (float *)device_table(r, tables->logprobs),
                                    .workspace = r->workspace.data };
    return spey_kernel_choose(r->program.backend, "sample", &r->sample, &r->sample_row);
}

spey_status spey_runner_prepare_find(spey_runner *r)
{
    const spey_table_layout *tables = &r->layout.tables;
    r->argmax = (spey_argmax_args){ .rows = r->layout.plan.limits.outputs_max,
                                    .cols = r->program.info->vocab_size,
                                    .x = r->logits.data,
                                    .x_pitch = r->program.info->vocab_size,
                                    .out = device_table(r, tables->found) };
    r->link = (spey_link_args){ .rows = r->layout.plan.limits.sequences_max,
                                .places = device_table(r, tables->link_places),
                                .numbers = device_table(r, tables->link_rows),
                                .found = device_table(r, tables->found),
                                .ids = device_table(r, tables->ids) };
    SPEY_TRY(spey_kernel_choose(r->program.backend, "argmax", &r->argmax, &r->argmax_row));
    SPEY_TRY(spey_kernel_choose(r->program.backend, "link", &r->link, &r->link_row));
    return prepare_sample(r);
}

spey_status spey_runner_link(spey_runner *r, const step_flight *f)
{
    const spey_step step = { .kernel = r->link_row, .args = &r->link };
    r->link.rows = f->n_links;
    return f->n_links ? r->program.backend->run(r->program.device, &step, 1) : SPEY_OK;
}

static spey_status fetch_rows(spey_runner *r, int32_t begin, int32_t end)
{
    const size_t pitch = (size_t)r->program.info->vocab_size * sizeof(float);
    if (r->program.device_info.host_memory || begin == end) return SPEY_OK;
    return r->program.backend->download(
        r->program.device, (uint8_t *)r->host_logits + (size_t)begin * pitch,
        (const uint8_t *)r->logits.data + (size_t)begin * pitch, (size_t)(end - begin) * pitch);
}

spey_status spey_runner_fetch_logits(spey_runner *r, const step_flight *f)
{
    return fetch_rows(r, 0, f->n_outputs);
}

static spey_status find_best(spey_runner *r, const step_flight *f)
{
    const spey_step step = { .kernel = r->argmax_row, .args = &r->argmax };
    int32_t *found = runner_table(f, r->layout.tables.found);
    size_t bytes = (size_t)f->n_outputs * sizeof(*found);
    r->argmax.rows = f->n_outputs;
    SPEY_TRY(r->program.backend->run(r->program.device, &step, 1));
    if (found == r->argmax.out || !bytes) return SPEY_OK;
    return r->program.backend->download(r->program.device, found, r->argmax.out, bytes);
}

/* Ids and log-probabilities lie one behind the other. Rows that come are fetched in pieces as long as they go. */
static spey_status find_by_rules(spey_runner *r, const step_flight *f)
{
    const spey_table_layout *tables = &r->layout.tables;
    const spey_step step = { .kernel = r->sample_row, .args = &r->sample };
    int32_t *found = runner_table(f, tables->found);
    size_t bytes = tables->logprobs - tables->found + (size_t)f->n_outputs * sizeof(float);
    r->sample.rows = f->n_outputs;
    if (!f->n_outputs) return SPEY_OK;
    SPEY_TRY(r->program.backend->run(r->program.device, &step, 1));
    SPEY_TRY(r->program.backend->download(r->program.device, found, r->sample.out, bytes));
    for (int32_t row = 0, end; row < f->n_outputs; row = end + 1) {
        for (end = row; end < f->n_outputs && runner_brings_row(r, f, end); end++)
            found[end] = SPEY_ROW_COMES;
        SPEY_TRY(fetch_rows(r, row, end));
    }
    return SPEY_OK;
}

spey_status spey_runner_find(spey_runner *r, const step_flight *f)
{
    if (f->has_rules) return find_by_rules(r, f);
    return f->wants_best ? find_best(r, f) : spey_runner_fetch_logits(r, f);
}
