/* What a step's tables are like on a device with memory of its own: as few bytes as say it.
 *
 * A mirror on the host has what the device's tables hold. Of most steps, which give each sequence a token, nearly everything is
 * as it was: what differs from the mirror goes up as a list, in one piece, and a kernel (`patch`) puts it in place, behind all
 * that reads the tables of the step before. A step that differs too much goes up whole. */
#include <string.h>

#include "base/alloc.h"
#include "kernels/registry.h"
#include "runtime/runner_body.h"

/* Words of the tables. */
typedef struct range {
    size_t at; /* in bytes */
    int64_t n;
} range;

enum {
    RANGES_MAX = 9,
    /* Up to this many bytes go faster in one copy, with what nobody reads in between, than in pieces. */
    TABLES_AT_ONCE = 256 << 10,
};

/* All that the step reads but for the block tables and the rules. */
static int list_ranges(const spey_runner *r, const step_flight *f, range out[RANGES_MAX])
{
    const spey_table_layout *tables = &r->layout.tables;
    const range all[RANGES_MAX] = {
        { tables->ids, f->n_tokens },
        { tables->positions, f->n_tokens },
        { tables->token_seq, f->n_tokens },
        { tables->seq_start, f->n_seqs + 1 },
        { tables->kv_len, f->n_seqs },
        { tables->source_len, r->program.has_encoder ? f->n_seqs : 0 },
        { tables->output_rows, f->n_outputs },
        { tables->link_places, f->n_links },
        { tables->link_rows, f->n_links },
    };
    int n = 0;
    for (int i = 0; i < RANGES_MAX; i++)
        if (all[i].n) out[n++] = all[i];
    return n;
}

static range rules_of(const spey_runner *r, const step_flight *f)
{
    const int64_t words = sizeof(spey_sample_rule) / sizeof(int32_t);
    return (range){ r->layout.tables.rules, f->has_rules ? f->n_outputs * words : 0 };
}

static spey_status send(spey_runner *r, size_t at, const void *from, size_t bytes)
{
    return r->program.backend->upload(r->program.device, (uint8_t *)r->tables.data + at, from,
                                      bytes);
}

/* ---- whole ---- */

static spey_status send_range(spey_runner *r, const step_flight *f, range part)
{
    const size_t bytes = (size_t)part.n * sizeof(int32_t);
    if (!part.n) return SPEY_OK;
    SPEY_TRY(send(r, part.at, f->tables + part.at, bytes));
    if (r->mirror && part.at < r->layout.tables.rule_ids)
        memcpy(r->mirror + part.at, f->tables + part.at, bytes);
    return SPEY_OK;
}

static spey_status send_whole(spey_runner *r, const step_flight *f)
{
    const spey_table_layout *tables = &r->layout.tables;
    const int64_t used = f->n_seqs * tables->pitch;
    const int n_groups = r->layout.kv.n_groups;
    SPEY_TRY(send_range(r, f, rules_of(r, f)));
    size_t end = tables->link_rows + (size_t)f->n_links * sizeof(int32_t);
    if (n_groups > 0) end = tables->groups[n_groups - 1] + (size_t)used * sizeof(int32_t);
    if (end <= TABLES_AT_ONCE)
        return send_range(r, f, (range){ 0, (int64_t)(end / sizeof(int32_t)) });
    range ranges[RANGES_MAX];
    for (int i = 0, n = list_ranges(r, f, ranges); i < n; i++)
        SPEY_TRY(send_range(r, f, ranges[i]));
    for (int g = 0; g < n_groups; g++)
        SPEY_TRY(send_range(r, f, (range){ tables->groups[g], used }));
    return SPEY_OK;
}

/* ---- what differs ---- */

/* The numbers of a range that are not the mirror's, which then has them. *n counts on when the list is full. */
static void collect(const spey_runner *r, const step_flight *f, range part, int64_t *n)
{
    const int64_t most = r->layout.tables.patches_max, first = (int64_t)(part.at / sizeof(int32_t));
    const int32_t *wanted = runner_table(f, part.at);
    int32_t *there = (int32_t *)(void *)(r->mirror + part.at);
    spey_patch *patches = (spey_patch *)(void *)runner_table(f, r->layout.tables.patches);
    if (!memcmp(wanted, there, (size_t)part.n * sizeof(*wanted))) return;
    for (int64_t i = 0; i < part.n && *n <= most; i++) {
        if (wanted[i] == there[i]) continue;
        if (*n < most) patches[*n] = (spey_patch){ (int32_t)(first + i), wanted[i] };
        there[i] = wanted[i];
        ++*n;
    }
}

static int64_t collect_all(const spey_runner *r, const step_flight *f)
{
    const spey_table_layout *tables = &r->layout.tables;
    range ranges[RANGES_MAX];
    int64_t n = 0;
    for (int i = 0, n_ranges = list_ranges(r, f, ranges); i < n_ranges; i++)
        collect(r, f, ranges[i], &n);
    collect(r, f, rules_of(r, f), &n);
    for (int g = 0; g < r->layout.kv.n_groups; g++) {
        for (int32_t row = 0; row < f->n_seqs; row++) {
            const int32_t *span = runner_span(r, f, g, row);
            const size_t first = (size_t)(row * tables->pitch + span[0]) * sizeof(int32_t);
            collect(r, f, (range){ tables->groups[g] + first, span[1] - span[0] }, &n);
        }
    }
    return n;
}

static spey_status send_patches(spey_runner *r, const step_flight *f, int64_t n)
{
    const size_t at = r->layout.tables.patches;
    const spey_step step = { .kernel = r->patch_row, .args = &r->patch };
    r->patch.rows = n;
    if (!n) return SPEY_OK;
    SPEY_TRY(send(r, at, f->tables + at, (size_t)n * sizeof(spey_patch)));
    return r->program.backend->run(r->program.device, &step, 1);
}

/* What went wrong before has left the device with an unknown part of the mirror: that goes up first. */
static spey_status send_changes(spey_runner *r, const step_flight *f)
{
    if (r->mirror_lost) SPEY_TRY(send(r, 0, r->mirror, r->layout.tables.rule_ids));
    r->mirror_lost = true;
    const int64_t n = collect_all(r, f);
    SPEY_TRY(n > r->layout.tables.patches_max ? send_whole(r, f) : send_patches(r, f, n));
    r->mirror_lost = false;
    return SPEY_OK;
}

/* ---- all of it ---- */

/* What the rules point to. */
static spey_status send_rule_lists(spey_runner *r, const step_flight *f)
{
    const spey_table_layout *tables = &r->layout.tables;
    SPEY_TRY(send_range(r, f, (range){ tables->rule_ids, f->has_rules ? f->n_rule_ids : 0 }));
    return send_range(r, f,
                      (range){ tables->masks, f->has_rules ? f->n_masks * tables->mask_words : 0 });
}

static spey_status send_prompt_rows(spey_runner *r, const step_flight *f)
{
    size_t row = (size_t)r->program.info->hidden_size * sizeof(float);
    if (!f->n_prompt_rows) return SPEY_OK;
    return r->program.backend->upload(r->program.device, r->prompt_rows.data, f->prompt_rows,
                                      (size_t)f->n_prompt_rows * row);
}

spey_status spey_runner_prepare_upload(spey_runner *r)
{
    const spey_table_layout *tables = &r->layout.tables;
    if (!tables->patches_max) return SPEY_OK;
    uint8_t *words = r->tables.data;
    r->patch = (spey_patch_args){ .rows = tables->patches_max,
                                  .patches = (const void *)(words + tables->patches),
                                  .words = (int32_t *)(void *)words };
    SPEY_TRY(spey_kernel_choose(r->program.backend, "patch", &r->patch, &r->patch_row));
    r->mirror = spey_alloc(SPEY_PURPOSE_RUNTIME, tables->rule_ids); /* zeros, as the device's */
    return r->mirror ? SPEY_OK : SPEY_NOMEM;
}

spey_status spey_runner_upload_tables(spey_runner *r, const step_flight *f)
{
    if (runner_shares_tables(r)) return SPEY_OK;
    SPEY_TRY(send_prompt_rows(r, f));
    SPEY_TRY(send_rule_lists(r, f));
    return r->mirror ? send_changes(r, f) : send_whole(r, f);
}
