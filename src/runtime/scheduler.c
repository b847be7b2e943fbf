#include "runtime/scheduler.h"

#include "base/alloc.h"
#include "runtime/scheduler_impl.h"

/* ---- life ---- */

static spey_status check_limits(const spey_scheduler_limits *l)
{
    if (l->sequences_max < 1 || l->queue_max < 1)
        return SPEY_FAIL(SPEY_INVALID, "%d sequences and a queue of %d, expected at least one each",
                         l->sequences_max, l->queue_max);
    if (l->step_tokens_max < l->sequences_max || l->step_outputs_max < l->sequences_max)
        return SPEY_FAIL(
            SPEY_INVALID, "a step of %lld tokens and %lld outputs is too short for %d sequences",
            (long long)l->step_tokens_max, (long long)l->step_outputs_max, l->sequences_max);
    if (l->step_prefill_max < 0)
        return SPEY_FAIL(SPEY_INVALID, "%lld prompt tokens beside decodes, expected 0 or more",
                         (long long)l->step_prefill_max);
    return SPEY_OK;
}

/* Every request that waits, and one for every sequence that runs. */
static int32_t count_tickets(const spey_scheduler_limits *limits)
{
    return limits->queue_max + limits->sequences_max;
}

#define NEW(type, n) spey_new_array(SPEY_PURPOSE_RUNTIME, type, n)

static spey_status allocate(spey_scheduler *s)
{
    int32_t tickets = s->tickets_max, sequences = s->limits.sequences_max;
    s->entries = NEW(spey_entry, tickets);
    s->free_tickets = NEW(int32_t, tickets);
    s->sequences = NEW(spey_sequence, sequences);
    s->running = NEW(int32_t, sequences);
    s->paused = NEW(int32_t, sequences);
    s->queue.items = NEW(int32_t, tickets);
    s->queue.at = NEW(int32_t, tickets);
    s->deadlines.items = NEW(int32_t, tickets);
    s->deadlines.at = NEW(int32_t, tickets);
    s->tenants = NEW(spey_tenant, SPEY_TENANTS_MAX);
    s->caches = NEW(struct spey_handover, sequences);
    return s->entries && s->free_tickets && s->sequences && s->running && s->paused &&
                   s->queue.items && s->queue.at && s->deadlines.items && s->deadlines.at &&
                   s->tenants && s->caches
               ? SPEY_OK
               : SPEY_NOMEM;
}

spey_status spey_scheduler_new(const spey_scheduler_limits *limits, spey_scheduler **out)
{
    *out = NULL;
    SPEY_TRY(check_limits(limits));
    spey_scheduler *s = spey_new(SPEY_PURPOSE_RUNTIME, spey_scheduler);
    if (!s) return SPEY_NOMEM;
    s->limits = *limits;
    s->tickets_max = count_tickets(limits);
    s->fetching = -1;
    if (allocate(s)) {
        spey_scheduler_free(s);
        return SPEY_NOMEM;
    }
    s->n_free_tickets = s->tickets_max;
    for (int32_t i = 0; i < s->tickets_max; i++) {
        s->entries[i].first = -1;
        s->free_tickets[i] = s->tickets_max - 1 - i;
    }
    for (int32_t i = 0; i < limits->sequences_max; i++)
        s->sequences[i] =
            (spey_sequence){ .next = i + 1 < limits->sequences_max ? i + 1 : -1, .seq = -1 };
    spey_queue_init(s);
    *out = s;
    return SPEY_OK;
}

void spey_scheduler_free(spey_scheduler *s)
{
    if (!s) return;
    spey_free(s->entries);
    spey_free(s->free_tickets);
    spey_free(s->sequences);
    spey_free(s->running);
    spey_free(s->paused);
    spey_free(s->queue.items);
    spey_free(s->queue.at);
    spey_free(s->deadlines.items);
    spey_free(s->deadlines.at);
    spey_free(s->tenants);
    spey_free(s->caches);
    spey_free(s);
}

spey_status spey_schedule_init(spey_schedule *schedule, const spey_scheduler_limits *limits)
{
    *schedule =
        (spey_schedule){ .expired = NEW(spey_ticket, SPEY_EXPIRED_MAX),
                         .pauses = NEW(spey_ticket, limits->sequences_max),
                         .admits = NEW(spey_ticket, limits->sequences_max),
                         .items = NEW(spey_schedule_item, limits->sequences_max),
                         .scratch = spey_new(SPEY_PURPOSE_RUNTIME, struct spey_schedule_scratch) };
    struct spey_schedule_scratch *scratch = schedule->scratch;
    if (scratch) {
        scratch->frontier = NEW(int32_t, count_tickets(limits));
        scratch->demands = NEW(spey_demand, limits->sequences_max);
        scratch->sorted = NEW(spey_demand, limits->sequences_max);
    }
    if (schedule->expired && schedule->pauses && schedule->admits && schedule->items && scratch &&
        scratch->frontier && scratch->demands && scratch->sorted)
        return SPEY_OK;
    spey_schedule_deinit(schedule);
    return SPEY_NOMEM;
}

void spey_schedule_deinit(spey_schedule *schedule)
{
    if (schedule->scratch) {
        spey_free(schedule->scratch->frontier);
        spey_free(schedule->scratch->demands);
        spey_free(schedule->scratch->sorted);
    }
    spey_free(schedule->scratch);
    spey_free(schedule->expired);
    spey_free(schedule->pauses);
    spey_free(schedule->admits);
    spey_free(schedule->items);
    *schedule = (spey_schedule){ 0 };
}

/* ---- sizes ---- */

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

int64_t spey_scheduler_blocks(const spey_scheduler *s, const spey_job *job, int g, int64_t n_tokens)
{
    const spey_kv_limits *kv = &s->limits.kv;
    const spey_kv_group_limits *group = &kv->groups[g];
    int64_t blocks = divide_up(n_tokens, kv->block_tokens), shared = 0;
    switch (group->kind) {
    case SPEY_KV_STATE: return job->width;
    case SPEY_KV_CROSS: return divide_up(job->n_source, kv->block_tokens);
    case SPEY_KV_TOKENS: break;
    }
    if (group->window) {
        /* A token under way is beyond the window of the one behind it. */
        int64_t kept = group->window + kv->rollback_tokens + s->limits.ahead;
        int64_t most = divide_up(kept - 1, kv->block_tokens) + 1;
        blocks = blocks < most ? blocks : most;
    } else if (job->width > 1) {
        shared = (job->n_prompt < n_tokens ? job->n_prompt : n_tokens) / kv->block_tokens;
    }
    return shared + job->width * (blocks - shared);
}

bool spey_scheduler_goes_first(const spey_scheduler *s, int32_t a, int32_t b)
{
    const spey_entry *x = &s->entries[a], *y = &s->entries[b];
    if (x->job.priority != y->job.priority) return x->job.priority > y->job.priority;
    return x->admitted < y->admitted;
}

int64_t spey_scheduler_goal(const spey_entry *e, const spey_sequence *q)
{
    if (!e->forked) return e->job.n_prompt;
    return e->job.width == 1 ? q->n_known : q->n_known - 1;
}

bool spey_scheduler_decodes(const spey_scheduler *s, const spey_entry *e)
{
    if (!e->forked) return false;
    for (int32_t i = e->first; i >= 0; i = s->sequences[i].next) {
        const spey_sequence *q = &s->sequences[i];
        if (q->n_known == e->job.n_prompt || q->n_known - q->n_done != 1) return false;
    }
    return true;
}

bool spey_scheduler_is_spent(const spey_scheduler *s, const spey_entry *e)
{
    if (e->first < 0) return false;
    const spey_sequence *q = &s->sequences[e->first];
    return q->n_untold > 0 && q->n_known == e->job.n_max;
}

int32_t spey_scheduler_find(const spey_scheduler *s, const spey_entry *e, int32_t index)
{
    int32_t i = e->first;
    while (i >= 0 && s->sequences[i].index != index)
        i = s->sequences[i].next;
    return i;
}

spey_kv_key spey_scheduler_key(const spey_scheduler *s, const spey_entry *e)
{
    spey_kv_key key = { .salt = e->job.salt, .ids = e->job.ids, .n = e->job.n_prompt };
    if (e->job.all_rows && !e->prompt_read)
        key.n = 0;
    else if (e->job.width == 1 && e->first >= 0)
        key.n = s->sequences[e->first].n_known;
    return key;
}

int32_t spey_scheduler_rows(const spey_entry *e, const spey_sequence *q, int64_t from, int64_t n)
{
    if (e->job.all_rows && !e->prompt_read) return (int32_t)n;
    return from + n == q->n_known; /* a trunk that computes again what is known gives nothing new */
}

/* ---- requests in and out ---- */

/* What it adds to the sums that pacing looks at. */
static void count_load(spey_scheduler *s, const spey_job *job, int sign)
{
    s->load.tickets += sign;
    s->load.sequences += sign * job->width;
    s->load.prompt_tokens += sign * job->n_prompt;
    s->load.output_tokens += sign * job->width * (job->n_max - job->n_prompt);
    for (int g = 0; g < s->limits.kv.n_groups; g++)
        s->load.blocks[g] += sign * spey_scheduler_blocks(s, job, g, job->n_max);
}

static spey_status too_large(const spey_scheduler *s, const spey_job *job, int g, int64_t blocks)
{
    const spey_kv_limits *kv = &s->limits.kv;
    if (kv->groups[g].kind == SPEY_KV_CROSS)
        return SPEY_FAIL(SPEY_LIMIT,
                         "the encoder's input of %lld tokens needs %lld KV blocks of %d tokens, "
                         "there are %d: shorten it",
                         (long long)job->n_source, (long long)blocks, kv->block_tokens,
                         kv->groups[g].n_blocks);
    return SPEY_FAIL(SPEY_LIMIT,
                     "the request may need %lld KV blocks of %d tokens (%lld tokens in each of %d "
                     "sequences), there are %d: ask for fewer tokens or raise the KV memory",
                     (long long)blocks, kv->block_tokens, (long long)job->n_max, job->width,
                     kv->groups[g].n_blocks);
}

static spey_status check_job(const spey_scheduler *s, const spey_job *job)
{
    SPEY_ASSERT(job->n_prompt >= 1 && job->n_max >= job->n_prompt);
    SPEY_ASSERT(job->width >= 1);
    SPEY_ASSERT(job->priority >= SPEY_PRIORITY_MIN && job->priority <= SPEY_PRIORITY_MAX);
    if (job->width > s->limits.sequences_max)
        return SPEY_FAIL(SPEY_LIMIT, "%d sequences wanted, %d may run at once", job->width,
                         s->limits.sequences_max);
    for (int g = 0; g < s->limits.kv.n_groups; g++) {
        int64_t blocks = spey_scheduler_blocks(s, job, g, job->n_max);
        if (blocks > s->limits.kv.groups[g].n_blocks) return too_large(s, job, g, blocks);
    }
    if (s->queue.n >= s->limits.queue_max)
        return SPEY_FAIL(SPEY_LIMIT, "the queue is full: %d requests wait", s->queue.n);
    return SPEY_OK;
}

spey_status spey_scheduler_submit(spey_scheduler *s, const spey_job *job, spey_ticket *out)
{
    SPEY_TRY(check_job(s, job));
    SPEY_ASSERT(s->n_free_tickets > 0);
    spey_ticket ticket = s->free_tickets[s->n_free_tickets - 1];
    s->entries[ticket] = (spey_entry){ .state = SPEY_TICKET_QUEUED,
                                       .job = *job,
                                       .submitted = ++s->n_submits,
                                       .first = -1,
                                       .fetches = job->fetch };
    SPEY_TRY(spey_queue_add(s, ticket));
    s->n_free_tickets--;
    count_load(s, job, 1);
    *out = ticket;
    return SPEY_OK;
}

void spey_scheduler_remove_from(int32_t *list, int32_t *n, int32_t ticket)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < *n; i++)
        if (list[i] != ticket) list[kept++] = list[i];
    *n = kept;
}

static int64_t close_sequences(spey_scheduler *s, spey_kv_cache *kv, spey_entry *e)
{
    int64_t longest = 0;
    while (e->first >= 0) {
        const spey_sequence *q = &s->sequences[e->first];
        int64_t told = q->n_known - q->n_untold;
        longest = told > longest ? told : longest;
        spey_scheduler_drop_sequence(s, kv, e, e->first);
    }
    return longest;
}

void spey_scheduler_drop_sequence(spey_scheduler *s, spey_kv_cache *kv, spey_entry *e,
                                  int32_t record)
{
    spey_sequence *q = &s->sequences[record];
    int32_t *link = &e->first;
    while (*link != record)
        link = &s->sequences[*link].next;
    *link = q->next;
    if (q->seq >= 0) spey_kv_close(kv, q->seq);
    *q = (spey_sequence){ .next = s->free_sequence, .seq = -1 };
    s->free_sequence = record;
    e->n_live--;
    s->n_sequences -= e->state == SPEY_TICKET_RUNNING;
}

void spey_scheduler_claim(spey_scheduler *s, const spey_job *job, int sign)
{
    for (int g = 0; g < s->limits.kv.n_groups; g++)
        s->claimed[g] += sign * spey_scheduler_blocks(s, job, g, job->n_max);
}

void spey_scheduler_end(spey_scheduler *s, spey_kv_cache *kv, spey_ticket ticket)
{
    SPEY_ASSERT(ticket >= 0 && ticket < s->tickets_max);
    spey_entry *e = &s->entries[ticket];
    int64_t longest = e->n_used > 0 ? e->n_used : 0;
    switch (e->state) {
    case SPEY_TICKET_QUEUED: spey_queue_remove(s, ticket); break;
    case SPEY_TICKET_RUNNING:
        spey_scheduler_remove_from(s->running, &s->n_running, ticket);
        spey_scheduler_claim(s, &e->job, -1);
        break;
    case SPEY_TICKET_PAUSED: spey_scheduler_remove_from(s->paused, &s->n_paused, ticket); break;
    case SPEY_TICKET_FREE: SPEY_ASSERT(e->state != SPEY_TICKET_FREE);
    }
    int64_t live = close_sequences(s, kv, e);
    longest = live > longest ? live : longest;
    count_load(s, &e->job, -1);
    if (s->fetching == ticket) s->fetching = -1;
    spey_queue_settle(s, ticket, longest);
    *e = (spey_entry){ .first = -1 };
    s->free_tickets[s->n_free_tickets++] = ticket;
}

/* ---- reading ---- */

spey_scheduler_counts spey_scheduler_count(const spey_scheduler *s)
{
    return (spey_scheduler_counts){ .queued = s->queue.n,
                                    .running = s->n_running,
                                    .paused = s->n_paused,
                                    .sequences = s->n_sequences,
                                    .admissions = s->n_admissions,
                                    .pauses = s->n_pauses,
                                    .kept_tokens = s->n_kept_tokens,
                                    .repeated_tokens = s->n_repeated_tokens };
}

spey_ticket_progress spey_scheduler_progress(const spey_scheduler *s, spey_ticket ticket)
{
    SPEY_ASSERT(ticket >= 0 && ticket < s->tickets_max);
    const spey_entry *e = &s->entries[ticket];
    return (spey_ticket_progress){ .begun = e->admitted > 0,
                                   .paused = e->state == SPEY_TICKET_PAUSED,
                                   .generates = spey_scheduler_decodes(s, e),
                                   .n_done = e->first >= 0 ? s->sequences[e->first].n_done -
                                                                 s->sequences[e->first].n_flying
                                                           : 0 };
}

bool spey_scheduler_serves(const spey_scheduler *s, const spey_schedule_item *item)
{
    const spey_entry *e = &s->entries[item->ticket];
    return e->state != SPEY_TICKET_FREE && e->submitted == item->request;
}

bool spey_scheduler_stores(const spey_scheduler *s, const spey_schedule_item *item)
{
    if (!spey_scheduler_serves(s, item)) return false;
    const spey_entry *e = &s->entries[item->ticket];
    int32_t i = spey_scheduler_find(s, e, item->index);
    return i >= 0 && s->sequences[i].n_flying > 0 && s->sequences[i].seq == item->seq;
}

void *spey_scheduler_owner(const spey_scheduler *s, spey_ticket ticket)
{
    SPEY_ASSERT(ticket >= 0 && ticket < s->tickets_max);
    return s->entries[ticket].job.owner;
}

static spey_status check_sequences(const spey_scheduler *s, const spey_kv_cache *kv, int32_t ticket,
                                   int32_t *n_records)
{
    const spey_entry *e = &s->entries[ticket];
    int32_t n = 0, last = -1;
    for (int32_t i = e->first; i >= 0; i = s->sequences[i].next) {
        const spey_sequence *q = &s->sequences[i];
        bool has_cache = e->state == SPEY_TICKET_RUNNING && (e->forked || i == e->first);
        if (q->index <= last || has_cache != (q->seq >= 0) || ++n > e->job.width)
            return SPEY_FAIL(SPEY_INTERNAL, "request %d: sequence %d is out of place", ticket,
                             q->index);
        last = q->index;
        if (q->n_known != s->sequences[e->first].n_known)
            return SPEY_FAIL(SPEY_INTERNAL, "request %d: sequences of %lld and %lld tokens", ticket,
                             (long long)q->n_known, (long long)s->sequences[e->first].n_known);
        if (q->n_known < e->job.n_prompt || q->n_known > e->job.n_max || q->n_done > q->n_known ||
            (q->seq >= 0 && q->n_done - q->n_flying != spey_kv_length(kv, q->seq)))
            return SPEY_FAIL(SPEY_INTERNAL, "request %d: sequence %d stores %lld of %lld tokens",
                             ticket, q->index, (long long)q->n_done, (long long)q->n_known);
    }
    if (n != e->n_live)
        return SPEY_FAIL(SPEY_INTERNAL, "request %d: %d of %d sequences", ticket, n, e->n_live);
    *n_records += n;
    return SPEY_OK;
}

spey_status spey_scheduler_check(const spey_scheduler *s, const spey_kv_cache *kv)
{
    int32_t by_state[4] = { 0 }, n_records = 0;
    int64_t claimed = 0;
    for (int32_t t = 0; t < s->tickets_max; t++) {
        const spey_entry *e = &s->entries[t];
        by_state[e->state]++;
        SPEY_TRY(check_sequences(s, kv, t, &n_records));
        if ((e->state == SPEY_TICKET_QUEUED) != (s->queue.at[t] >= 0))
            return SPEY_FAIL(SPEY_INTERNAL, "request %d: state %d and its queue differ", t,
                             e->state);
        if (e->state == SPEY_TICKET_RUNNING && s->limits.kv.n_groups)
            claimed += spey_scheduler_blocks(s, &e->job, 0, e->job.n_max);
    }
    for (int32_t i = 1; i < s->n_running; i++)
        if (!spey_scheduler_goes_first(s, s->running[i - 1], s->running[i]))
            return SPEY_FAIL(SPEY_INTERNAL, "running request %d is out of order", i);
    for (int32_t i = s->free_sequence; i >= 0; i = s->sequences[i].next)
        n_records++;
    if (by_state[SPEY_TICKET_FREE] != s->n_free_tickets ||
        by_state[SPEY_TICKET_QUEUED] != s->queue.n ||
        by_state[SPEY_TICKET_RUNNING] != s->n_running ||
        by_state[SPEY_TICKET_PAUSED] != s->n_paused || n_records != s->limits.sequences_max ||
        (s->limits.kv.n_groups && claimed != s->claimed[0]))
        return SPEY_FAIL(SPEY_INTERNAL,
                         "%d running, %d queued, %d paused, %d sequences, %lld blocks claimed: "
                         "the tables say otherwise",
                         s->n_running, s->queue.n, s->n_paused, n_records, (long long)claimed);
    return SPEY_OK;
}
