#include <string.h>

#include "runtime/runner_body.h"

/* ---- checks ---- */

/* The row of the sequence's table that an id means; < 0: it is a token's. */
static int64_t table_row(const spey_runner *r, const spey_step_seq *s, int32_t id)
{
    return s->table ? id - r->program.info->vocab_size : -1;
}

spey_status spey_runner_check_ids(const spey_runner *r, const spey_step_seq *s)
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

/* The one id is what a row of the step under way finds. */
static spey_status check_link(const spey_runner *r, const spey_step_seq *s,
                              const spey_step_link *link)
{
    const step_flight *before = &r->flights[(r->n_submitted + 1) % FLIGHTS_MAX];
    int under_way = spey_runner_under_way(r);
    if (s->n_ids != 1 || link->row < 0 || !under_way || link->row >= before->n_outputs ||
        runner_brings_row(r, before, link->row))
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
    return link->row == -1 ? spey_runner_check_ids(r, s) : check_link(r, s, link);
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
int64_t spey_runner_length_after(const spey_runner *r, const spey_submission *submission, int s)
{
    const spey_step_seq *seq = &submission->seqs[s];
    return spey_kv_length(r->kv, seq->seq) + link_of(submission, s).n_flying + seq->n_ids;
}

/* Check everything before anything changes; the flight gets its sizes. */
spey_status spey_runner_check_step(spey_runner *r, const spey_submission *submission,
                                   step_flight *f)
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
        int64_t after = spey_runner_length_after(r, submission, s);
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
    f->has_rules = submission->page != NULL;
    f->n_rule_ids = f->has_rules ? submission->page->n_ids : 0;
    f->n_masks = f->has_rules ? submission->page->n_masks : 0;
    f->n_tops = f->has_rules ? submission->page->n_tops : 0;
    return SPEY_OK;
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
    if (f->spans) {
        int32_t *span = runner_span(r, f, g, row);
        span[0] = (int32_t)first;
        span[1] = (int32_t)used;
    }
    memcpy(runner_table(f, tables->groups[g]) + row * tables->pitch + first, blocks + first,
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

/* No id and no number of a row: where one of them comes next it differs. */
enum { FROM_THE_STEP_BEFORE = INT32_MIN };

static void fill_ids(const spey_runner *r, step_flight *f, const spey_step_seq *s, int32_t at,
                     const spey_step_link *link)
{
    int32_t *ids = runner_table(f, r->layout.tables.ids) + at;
    if (link->row < 0) {
        memcpy(ids, s->ids, (size_t)s->n_ids * sizeof(*ids));
        fill_prompt_rows(r, f, s, ids);
        return;
    }
    *ids = FROM_THE_STEP_BEFORE;
    runner_table(f, r->layout.tables.link_places)[f->n_links] = at;
    runner_table(f, r->layout.tables.link_rows)[f->n_links++] = link->row;
}

static void fill_sequence(const spey_runner *r, step_flight *f, const spey_submission *submission,
                          int row, bool encodes)
{
    const spey_table_layout *tables = &r->layout.tables;
    const spey_step_seq *s = &submission->seqs[row];
    const spey_step_link link = link_of(submission, row);
    int32_t *start = runner_table(f, tables->seq_start) + row;
    int32_t *positions = runner_table(f, tables->positions) + *start;
    int32_t *token_seq = runner_table(f, tables->token_seq) + *start;
    int32_t length = encodes ? 0 : (int32_t)spey_runner_length_after(r, submission, row) - s->n_ids;
    fill_ids(r, f, s, *start, &link);
    for (int32_t i = 0; i < s->n_ids; i++) {
        positions[i] = length + i;
        token_seq[i] = row;
    }
    start[1] = *start + s->n_ids;
    runner_table(f, tables->kv_len)[row] = length + s->n_ids;
    runner_table(f, tables->source_len)[row] = (int32_t)spey_kv_cross_length(r->kv, s->seq);
    for (int g = 0; g < r->layout.kv.n_groups; g++)
        fill_blocks(r, f, g, s->seq, row, encodes ? 0 : length + s->n_ids);
}

void spey_runner_fill_tables(const spey_runner *r, step_flight *f,
                             const spey_submission *submission, bool encodes)
{
    int32_t *output_rows = runner_table(f, r->layout.tables.output_rows);
    int32_t *seq_start = runner_table(f, r->layout.tables.seq_start);
    seq_start[0] = 0;
    f->n_links = 0;
    f->n_prompt_rows = 0;
    for (int s = 0; s < submission->n_seqs; s++) {
        fill_sequence(r, f, submission, s, encodes);
        for (int32_t i = encodes ? 0 : submission->seqs[s].n_outputs; i > 0; i--)
            *output_rows++ = seq_start[s + 1] - i;
    }
}
