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
                                    .masks = (const void *)device_table(r, tables->masks),
                                    .mask_pitch = tables->mask_words,
                                    .batch = &r->batch,
                                    .out = device_table(r, tables->found),
                                    .logprobs = (float *)device_table(r, tables->logprobs),
                                    .top_ids = device_table(r, tables->tops),
                                    .top_logprobs = (float *)device_table(r, tables->tops),
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
    SPEY_TRY(prepare_sample(r));
    const size_t most = tables->bytes - tables->found;
    r->queues =
        runner_n_flights(r) > 1 && r->program.backend->fetch_begin && most <= SPEY_FETCH_BYTES_MAX;
    return SPEY_OK;
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

/* Ids, and behind them log-probabilities, and the likeliest tokens. At least one id, so that there is something to wait for. */
static size_t found_bytes(const spey_runner *r, const step_flight *f)
{
    const spey_table_layout *tables = &r->layout.tables;
    size_t n = f->n_outputs > 0 ? (size_t)f->n_outputs : 1;
    if (f->n_tops)
        return tables->tops - tables->found + (size_t)f->n_tops * sizeof(spey_token_logprob);
    return n * sizeof(int32_t) + (f->has_rules ? tables->logprobs - tables->found : 0);
}

spey_status spey_runner_find(spey_runner *r, const step_flight *f)
{
    const spey_step by_rules = { .kernel = r->sample_row, .args = &r->sample };
    const spey_step best = { .kernel = r->argmax_row, .args = &r->argmax };
    const spey_backend *backend = r->program.backend;
    r->sample.rows = r->argmax.rows = f->n_outputs;
    r->sample.n_tops = f->n_tops;
    r->sample.top_logprobs = runner_top_logprobs(r, f, r->tables.data);
    if (f->has_rules) SPEY_TRY(backend->run(r->program.device, &by_rules, 1));
    if (f->wants_best) SPEY_TRY(backend->run(r->program.device, &best, 1));
    return r->queues ? backend->fetch_begin(r->program.device, r->argmax.out, found_bytes(r, f))
                     : SPEY_OK;
}

/* Rows that come are fetched in pieces as long as they go. */
static spey_status bring_rows(spey_runner *r, const step_flight *f)
{
    int32_t *found = runner_table(f, r->layout.tables.found);
    if (!f->has_rules && !f->wants_best) return spey_runner_fetch_logits(r, f);
    for (int32_t row = 0, end; row < f->n_outputs; row = end + 1) {
        for (end = row; end < f->n_outputs && runner_brings_row(r, f, end); end++)
            found[end] = SPEY_ROW_COMES;
        SPEY_TRY(fetch_rows(r, row, end));
    }
    return SPEY_OK;
}

spey_status spey_runner_bring(spey_runner *r, const step_flight *f)
{
    const spey_backend *backend = r->program.backend;
    int32_t *found = runner_table(f, r->layout.tables.found);
    bool has_ids = f->n_outputs > 0 && (f->has_rules || f->wants_best);
    if (r->queues)
        SPEY_TRY(backend->fetch_end(r->program.device, found, found_bytes(r, f)));
    else if (has_ids && found != r->argmax.out)
        SPEY_TRY(backend->download(r->program.device, found, r->argmax.out, found_bytes(r, f)));
    return bring_rows(r, f);
}
