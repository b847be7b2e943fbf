/* What changes the tables: a plan applied, a step's results taken. */
#include "base/status.h"
#include "runtime/scheduler_impl.h"

/* ---- pausing and admitting ---- */

/* Insert where it belongs; lists are short of disorder at their ends. */
static void insert(const spey_scheduler *s, int32_t *list, int32_t *n, int32_t ticket)
{
    int32_t i = (*n)++;
    for (; i > 0 && spey_scheduler_goes_first(s, ticket, list[i - 1]); i--)
        list[i] = list[i - 1];
    list[i] = ticket;
}

static void pause(spey_scheduler *s, spey_kv_cache *kv, int32_t ticket)
{
    spey_entry *e = &s->entries[ticket];
    e->n_stored = s->sequences[e->first].n_done;
    for (int32_t i = e->first; i >= 0; i = s->sequences[i].next) {
        spey_sequence *q = &s->sequences[i];
        if (q->seq >= 0) spey_kv_close(kv, q->seq);
        q->seq = -1;
        q->n_done = q->n_flying = 0;
    }
    e->forked = false;
    e->fetches = spey_kv_has_file(kv);
    e->state = SPEY_TICKET_PAUSED;
    s->n_sequences -= e->n_live;
    s->n_pauses++;
    spey_scheduler_claim(s, &e->job, -1);
    spey_scheduler_remove_from(s->running, &s->n_running, ticket);
    insert(s, s->paused, &s->n_paused, ticket);
}

static void take_records(spey_scheduler *s, spey_entry *e)
{
    int32_t *link = &e->first;
    for (int32_t i = 0; i < e->job.width; i++) {
        int32_t record = s->free_sequence;
        SPEY_ASSERT(record >= 0);
        s->free_sequence = s->sequences[record].next;
        s->sequences[record] =
            (spey_sequence){ .next = -1, .index = i, .seq = -1, .n_known = e->job.n_prompt };
        *link = record;
        link = &s->sequences[record].next;
    }
    e->n_live = e->job.width;
}

static void begin(spey_scheduler *s, int32_t ticket)
{
    spey_entry *e = &s->entries[ticket];
    int level = e->job.priority - SPEY_PRIORITY_MIN;
    spey_queue_remove(s, ticket);
    if (e->tag > s->served[level]) s->served[level] = e->tag;
    e->admitted = ++s->n_admissions;
    take_records(s, e);
}

static void note_resumed(spey_scheduler *s, spey_entry *e, int64_t n_found)
{
    int64_t kept = n_found < e->n_stored ? n_found : e->n_stored;
    s->n_kept_tokens += (uint64_t)kept;
    s->n_repeated_tokens += (uint64_t)(e->n_stored - kept);
    e->n_stored = 0;
}

static void admit(spey_scheduler *s, spey_kv_cache *kv, int32_t ticket)
{
    spey_entry *e = &s->entries[ticket];
    if (e->state == SPEY_TICKET_PAUSED)
        spey_scheduler_remove_from(s->paused, &s->n_paused, ticket);
    else
        begin(s, ticket);
    e->state = SPEY_TICKET_RUNNING;
    e->forked = e->job.width == 1;
    s->n_sequences += e->n_live;
    spey_scheduler_claim(s, &e->job, 1);
    insert(s, s->running, &s->n_running, ticket);
    spey_status status = spey_kv_open(kv, &s->sequences[e->first].seq);
    SPEY_ASSERT(status == SPEY_OK); /* it has as many slots as there are sequences */
    spey_kv_key key = spey_scheduler_key(s, e);
    spey_sequence *q = &s->sequences[e->first];
    if (key.n) status = spey_kv_match(kv, q->seq, &key, &q->n_done);
    SPEY_ASSERT(status == SPEY_OK); /* it is new */
    note_resumed(s, e, q->n_done);
    if (!key.n) return;
    if (e->job.n_retention)
        spey_kv_set_retention_ranges(kv, q->seq, e->job.retention, e->job.n_retention);
}

/* Begin where the cache ends, which may be elsewhere than when the plan was made: others have come and gone since. */
static void move_to_cache(const spey_scheduler *s, spey_schedule_item *item)
{
    const spey_entry *e = &s->entries[item->ticket];
    const spey_sequence *q = &s->sequences[spey_scheduler_find(s, e, item->index)];
    item->seq = q->seq;
    if (item->from == q->n_done) return;
    int64_t left = spey_scheduler_goal(e, q) - q->n_done;
    item->from = q->n_done;
    item->n_tokens = item->n_tokens < left ? item->n_tokens : (int32_t)left;
    item->n_outputs = spey_scheduler_rows(e, q, item->from, item->n_tokens);
}

/* ---- the step's blocks ---- */

static spey_status reserve_for_first(spey_scheduler *s, spey_kv_cache *kv, spey_schedule *schedule,
                                     spey_seq_id seq, int64_t n_tokens)
{
    spey_status status;
    while ((status = spey_kv_reserve(kv, seq, n_tokens)) == SPEY_LIMIT && s->n_running > 1) {
        int32_t last = s->running[s->n_running - 1];
        pause(s, kv, last);
        schedule->pauses[schedule->n_pauses++] = last;
    }
    return status;
}

/* Blocks for the items of one request, all or SPEY_LIMIT. */
static spey_status reserve_request(spey_scheduler *s, spey_kv_cache *kv, spey_schedule *schedule,
                                   int32_t begin, int32_t end)
{
    int32_t ticket = schedule->items[begin].ticket;
    const spey_entry *e = &s->entries[ticket];
    if (e->state != SPEY_TICKET_RUNNING) return SPEY_LIMIT; /* paused for the first */
    for (int32_t i = begin; i < end; i++) {
        spey_schedule_item *item = &schedule->items[i];
        move_to_cache(s, item);
        spey_status status = spey_kv_reserve(kv, item->seq, item->from + item->n_tokens);
        if (status == SPEY_LIMIT && ticket == s->running[0]) {
            status = reserve_for_first(s, kv, schedule, item->seq, item->from + item->n_tokens);
            if (status == SPEY_LIMIT)
                return SPEY_FAIL(SPEY_INTERNAL, "a request alone does not get its blocks: %s",
                                 spey_last_error());
        }
        SPEY_TRY(status);
    }
    return SPEY_OK;
}

static bool is_decode(const spey_scheduler *s, const spey_schedule_item *item)
{
    return spey_scheduler_decodes(s, &s->entries[item->ticket]);
}

/* Whose blocks have come may begin; the next one's are asked for. */
static void fetch(spey_scheduler *s, spey_kv_cache *kv, spey_ticket next)
{
    if (spey_kv_is_fetching(kv)) return;
    if (s->fetching >= 0) s->entries[s->fetching].fetches = false;
    s->fetching = -1;
    if (next < 0 || !s->entries[next].fetches) return;
    spey_entry *e = &s->entries[next];
    const spey_kv_key key = spey_scheduler_key(s, e);
    e->fetches = key.n && spey_kv_fetch(kv, &key);
    if (e->fetches) s->fetching = next;
}

spey_status spey_scheduler_commit(spey_scheduler *s, spey_kv_cache *kv, spey_schedule *schedule)
{
    s->credit = schedule->scratch->credit;
    /* Expired requests may have ended since the plan was made. */
    for (int32_t i = 0; i < schedule->n_pauses; i++)
        if (s->entries[schedule->pauses[i]].state == SPEY_TICKET_RUNNING)
            pause(s, kv, schedule->pauses[i]);
    for (int32_t i = 0; i < schedule->n_admits; i++)
        admit(s, kv, schedule->admits[i]);
    fetch(s, kv, schedule->fetch);
    int32_t kept = 0;
    for (int32_t i = 0, end; i < schedule->n_items; i = end) {
        for (end = i + 1;
             end < schedule->n_items && schedule->items[end].ticket == schedule->items[i].ticket;)
            end++;
        spey_status status = reserve_request(s, kv, schedule, i, end);
        if (status == SPEY_LIMIT) continue; /* it waits */
        if (status) return status;
        while (i < end)
            schedule->items[kept++] = schedule->items[i++];
    }
    schedule->n_items = kept;
    schedule->n_tokens = schedule->n_prefill_tokens = 0;
    for (int32_t i = 0; i < kept; i++) {
        schedule->n_tokens += schedule->items[i].n_tokens;
        if (!is_decode(s, &schedule->items[i]))
            schedule->n_prefill_tokens += schedule->items[i].n_tokens;
    }
    return SPEY_OK;
}

/* ---- under way ---- */

void spey_scheduler_launch(spey_scheduler *s, spey_schedule *schedule)
{
    for (int32_t i = 0; i < schedule->n_items; i++) {
        spey_schedule_item *item = &schedule->items[i];
        const spey_entry *e = &s->entries[item->ticket];
        spey_sequence *q = &s->sequences[spey_scheduler_find(s, e, item->index)];
        bool gives = item->n_outputs && item->from + item->n_tokens == q->n_known;
        q->n_done += item->n_tokens;
        q->n_flying += item->n_tokens;
        item->counts_token = gives && e->job.width == 1 && q->n_known < e->job.n_max;
        q->n_known += item->counts_token;
        q->n_untold += item->counts_token;
    }
}

/* ---- results ---- */

/* Let every named sequence that lives continue its parent's cache: the first to come keeps it, others fork. A cache that
 * nobody continues is closed before the forks, which may need its slot. */
static void hand_over(spey_scheduler *s, spey_kv_cache *kv, const spey_growth *growths, int32_t n)
{
    struct spey_handover *caches = s->caches;
    for (int32_t i = 0; i < n; i++) {
        struct spey_handover *parent = &caches[growths[i].parent];
        caches[growths[i].index].now = -1;
        if (growths[i].ended || parent->taken || growths[i].parent != growths[i].index) continue;
        parent->taken = true;
        caches[growths[i].index].now = parent->old;
    }
    for (int32_t i = 0; i < n; i++) {
        struct spey_handover *parent = &caches[growths[i].parent];
        if (growths[i].ended || parent->taken) continue;
        parent->taken = true;
        caches[growths[i].index].now = parent->old;
    }
    for (int32_t i = 0; i < n; i++) {
        struct spey_handover *own = &caches[growths[i].index];
        if (!own->taken && own->old >= 0) spey_kv_close(kv, own->old);
    }
    for (int32_t i = 0; i < n; i++) {
        struct spey_handover *own = &caches[growths[i].index];
        if (growths[i].ended || own->now >= 0) continue;
        spey_status status = spey_kv_fork(kv, caches[growths[i].parent].old, &own->now);
        SPEY_ASSERT(status == SPEY_OK);
    }
}

static void note_caches(spey_scheduler *s, const spey_entry *e)
{
    for (int32_t i = e->first; i >= 0; i = s->sequences[i].next) {
        const spey_sequence *q = &s->sequences[i];
        s->caches[q->index] = (struct spey_handover){ i, q->seq, q->n_known, q->n_done, -1, false };
    }
}

static void settle_sequence(spey_scheduler *s, spey_kv_cache *kv, spey_entry *e,
                            const spey_growth *growth)
{
    const struct spey_handover *own = &s->caches[growth->index];
    spey_sequence *q = &s->sequences[own->record];
    q->seq = own->now;
    q->n_done = s->caches[growth->parent].n_done;
    q->n_known = s->caches[growth->parent].n_known + 1;
    if (!growth->ended) return;
    e->n_used = q->n_known > e->n_used ? q->n_known : e->n_used;
    spey_scheduler_drop_sequence(s, kv, e, own->record);
}

static void take_growths(spey_scheduler *s, spey_kv_cache *kv, const spey_growth *growths,
                         int32_t n)
{
    spey_entry *e = &s->entries[growths[0].ticket];
    if (e->job.width == 1) {
        if (!growths[0].ended) return; /* counted at launch */
        const spey_sequence *q = &s->sequences[e->first];
        e->n_used = q->n_known - q->n_untold;
        spey_scheduler_drop_sequence(s, kv, e, e->first);
        return;
    }
    note_caches(s, e);
    hand_over(s, kv, growths, n);
    for (int32_t i = 0; i < n; i++)
        settle_sequence(s, kv, e, &growths[i]);
    e->forked = true;
}

/* A request that was paused has its prompt again: its other sequences go on from there with what they know. */
static void fork_again(spey_scheduler *s, spey_kv_cache *kv, spey_entry *e)
{
    const spey_sequence *trunk = &s->sequences[e->first];
    for (int32_t i = trunk->next; i >= 0; i = s->sequences[i].next) {
        spey_status status = spey_kv_fork(kv, trunk->seq, &s->sequences[i].seq);
        SPEY_ASSERT(status == SPEY_OK);
        s->sequences[i].n_done = trunk->n_done;
    }
    e->forked = true;
}

void spey_scheduler_take(spey_scheduler *s, spey_kv_cache *kv, const spey_schedule *schedule,
                         const spey_growth *growths, int32_t n)
{
    for (int32_t i = 0; i < schedule->n_items; i++) {
        const spey_schedule_item *item = &schedule->items[i];
        if (!spey_scheduler_serves(s, item)) continue;
        spey_entry *e = &s->entries[item->ticket];
        spey_sequence *q = &s->sequences[spey_scheduler_find(s, e, item->index)];
        q->n_untold -= item->counts_token;
        if (item->from + item->n_tokens >= e->job.n_prompt) e->prompt_read = true;
        if (!spey_scheduler_stores(s, item)) continue; /* paused since: computed in vain */
        q->n_flying -= item->n_tokens;
        if (!e->forked && q->n_done - q->n_flying == e->job.n_prompt &&
            q->n_known > e->job.n_prompt)
            fork_again(s, kv, e);
    }
    for (int32_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && growths[end].ticket == growths[i].ticket;)
            end++;
        take_growths(s, kv, growths + i, end - i);
    }
}
