/* What the next step computes. Every decode goes first, one token each; what is left of the step is filled with prompts, in
 * the order in which requests run, then with those of newly admitted ones. */
#include <string.h>

#include "runtime/scheduler_impl.h"

/* ---- deadlines ---- */

static bool is_expired(const spey_planning *p, int32_t ticket)
{
    uint64_t deadline = p->s->entries[ticket].job.deadline_ns;
    return deadline && deadline <= p->now_ns;
}

/* The heap's items before `now`, parents before children: the list is its own work queue. */
static void find_expired(spey_planning *p)
{
    const spey_heap *heap = &p->s->deadlines;
    spey_schedule *out = p->out;
    if (heap->n > 0 && is_expired(p, heap->items[0]))
        out->expired[out->n_expired++] = heap->items[0];
    for (int32_t i = 0; i < out->n_expired; i++)
        for (int32_t c = 1; c <= 2; c++) {
            int32_t child = 2 * heap->at[out->expired[i]] + c;
            if (child < heap->n && out->n_expired < SPEY_EXPIRED_MAX &&
                is_expired(p, heap->items[child]))
                out->expired[out->n_expired++] = heap->items[child];
        }
}

/* ---- blocks ---- */

static bool fits(const spey_planning *p, const int64_t *missing)
{
    for (int g = 0; g < p->s->limits.kv.n_groups; g++)
        if (missing[g] > p->room[g]) return false;
    return true;
}

/* What a sequence without a cache would take. */
static void add_fresh(const spey_planning *p, int64_t n_tokens, int64_t *missing)
{
    const spey_kv_limits *kv = &p->s->limits.kv;
    for (int g = 0; g < kv->n_groups; g++)
        missing[g] += kv->groups[g].kind == SPEY_KV_STATE ? 1
                      : kv->groups[g].kind == SPEY_KV_CROSS
                          ? 0
                          : spey_kv_blocks_for(p->kv, g, n_tokens);
}

static void find_missing(const spey_planning *p, const spey_sequence *q, int64_t n_tokens,
                         int64_t *missing)
{
    memset(missing, 0, sizeof(int64_t) * SPEY_CACHE_GROUPS_MAX);
    if (q->seq >= 0)
        spey_kv_add_missing(p->kv, q->seq, n_tokens, missing);
    else
        add_fresh(p, n_tokens, missing);
}

/* Pause the last request that runs. What it gives back is an estimate, as others may share its blocks: commit sees. */
static void pause_last(spey_planning *p)
{
    int32_t ticket = p->s->running[--p->n_kept];
    const spey_entry *e = &p->s->entries[ticket];
    for (int32_t i = e->first; i >= 0; i = p->s->sequences[i].next)
        if (p->s->sequences[i].seq >= 0)
            for (int g = 0; g < p->s->limits.kv.n_groups; g++) {
                spey_job one = { .n_prompt = 1, .width = 1 };
                p->room[g] += spey_scheduler_blocks(p->s, &one, g, p->s->sequences[i].n_done);
            }
    p->sequences -= e->n_live;
    p->out->pauses[p->out->n_pauses++] = ticket;
}

/* Shorten n until the blocks for from + n tokens are there; pauses requests behind `place` first where the policy may. 0: not
 * even one token fits. */
static int64_t fit(spey_planning *p, const spey_sequence *q, int64_t from, int64_t n, int32_t place,
                   int64_t *missing)
{
    find_missing(p, q, from + n, missing);
    while (!fits(p, missing)) {
        if (p->s->limits.policy == SPEY_MAX_UTILIZATION && p->n_kept > place + 1)
            pause_last(p);
        else if (n > 1)
            n /= 2;
        else
            return 0;
        find_missing(p, q, from + n, missing);
    }
    return n;
}

/* ---- items ---- */

/* A cut prompt ends with a block, so that the block can be shared and the next chunk begins evenly. */
static int64_t round_chunk(const spey_planning *p, int64_t from, int64_t n, int64_t wanted)
{
    int64_t end = (from + n) / p->s->limits.kv.block_tokens * p->s->limits.kv.block_tokens;
    return n < wanted && end > from ? end - from : n;
}

static void add_item(spey_planning *p, int32_t ticket, const spey_sequence *q, int64_t from,
                     int64_t n)
{
    const spey_entry *e = &p->s->entries[ticket];
    p->out->items[p->out->n_items++] =
        (spey_schedule_item){ .ticket = ticket,
                              .owner = e->job.owner,
                              .index = q->index,
                              .seq = q->seq,
                              .from = from,
                              .n_tokens = (int32_t)n,
                              .n_outputs = spey_scheduler_rows(e, q, from, n),
                              .request = e->submitted };
    p->out->n_tokens += n;
}

/* The part of a prompt that the step has room for, or 0. */
static int64_t choose_chunk(const spey_planning *p, const spey_entry *e, int64_t from, int64_t goal)
{
    int64_t n = goal - from;
    n = n < p->prefill ? n : p->prefill;
    if (p->outputs < 1) return 0;
    if (e->job.all_rows && !e->prompt_read && n > p->outputs) n = p->outputs;
    return round_chunk(p, from, n, goal - from);
}

static void add_prefill(spey_planning *p, int32_t ticket, const spey_sequence *q, int64_t from,
                        int64_t n)
{
    add_item(p, ticket, q, from, n);
    p->prefill -= n;
    p->outputs -= p->out->items[p->out->n_items - 1].n_outputs;
    p->out->n_prefill_tokens += n;
}

/* The items of one sequence of the request at `place`. False: the request itself was paused. */
static bool plan_sequence(spey_planning *p, int32_t place, const spey_sequence *q, bool decode)
{
    int32_t ticket = p->s->running[place];
    const spey_entry *e = &p->s->entries[ticket];
    int64_t missing[SPEY_CACHE_GROUPS_MAX];
    int64_t wanted = decode ? 1 : choose_chunk(p, e, q->n_done, spey_scheduler_goal(e, q));
    if (wanted < 1) return true;
    int64_t n = fit(p, q, q->n_done, wanted, place, missing);
    if (!n) {
        /* The last one steps back; the first must go on, and commit knows better what can be had. */
        if (p->s->limits.policy == SPEY_MAX_UTILIZATION && place > 0) {
            while (p->out->n_items > 0 && p->out->items[p->out->n_items - 1].ticket == ticket)
                p->out->n_tokens -= p->out->items[--p->out->n_items].n_tokens;
            pause_last(p);
            return false;
        }
        if (!decode && place > 0) return true;
        n = 1;
    }
    for (int g = 0; g < p->s->limits.kv.n_groups; g++)
        p->room[g] -= missing[g];
    if (decode)
        add_item(p, ticket, q, q->n_done, 1);
    else
        add_prefill(p, ticket, q, q->n_done, n < wanted ? round_chunk(p, q->n_done, n, wanted) : n);
    return true;
}

/* What the request will take until all that it knows is stored. */
static void add_owed(spey_planning *p, const spey_entry *e)
{
    int64_t known = p->s->sequences[e->first].n_known, done = INT64_MAX;
    for (int32_t i = e->first; i >= 0; i = p->s->sequences[i].next) {
        const spey_sequence *q = &p->s->sequences[i];
        done = q->n_done < done && q->seq >= 0 ? q->n_done : done;
    }
    for (int g = 0; g < p->s->limits.kv.n_groups; g++)
        p->owed[g] += spey_scheduler_blocks(p->s, &e->job, g, known) -
                      spey_scheduler_blocks(p->s, &e->job, g, done);
}

static void plan_running(spey_planning *p)
{
    for (int32_t place = 0; place < p->n_kept; place++) {
        int32_t ticket = p->s->running[place];
        const spey_entry *e = &p->s->entries[ticket];
        if (is_expired(p, ticket) || spey_scheduler_is_spent(p->s, e)) continue;
        bool stays = true, decode = spey_scheduler_decodes(p->s, e);
        for (int32_t i = e->first; i >= 0 && stays; i = p->s->sequences[i].next)
            if (p->s->sequences[i].seq >= 0)
                stays = plan_sequence(p, place, &p->s->sequences[i], decode);
        if (stays && !decode) add_owed(p, e);
    }
}

/* ---- admission ---- */

/* False: neither this request nor one behind it begins now. */
static bool admit(spey_planning *p, int32_t ticket)
{
    const spey_entry *e = &p->s->entries[ticket];
    spey_sequence fresh = { .seq = -1, .n_known = e->job.n_prompt };
    if (e->first >= 0) {
        fresh.index = p->s->sequences[e->first].index;
        fresh.n_known = p->s->sequences[e->first].n_known;
    }
    int64_t goal = e->job.width > 1 ? e->job.n_prompt : fresh.n_known;
    int64_t missing[SPEY_CACHE_GROUPS_MAX];
    int32_t width = e->first >= 0 ? e->n_live : e->job.width;
    if (p->prefill < 1 || p->outputs < 1 || p->sequences + width > p->s->limits.sequences_max ||
        !spey_policy_admits(p, &e->job, fresh.n_known))
        return false;
    spey_kv_key key = spey_scheduler_key(p->s, e);
    int64_t from = key.n ? spey_kv_match_length(p->kv, &key) : 0;
    int64_t wanted = choose_chunk(p, e, from, goal);
    int64_t n = fit(p, &fresh, from, wanted, p->n_kept, missing);
    if (!n && p->out->n_items > 0) return false;
    n = n ? n : 1;
    spey_policy_admitted(p, &e->job, fresh.n_known);
    for (int g = 0; g < p->s->limits.kv.n_groups; g++) {
        p->room[g] -= missing[g];
        p->owed[g] -= missing[g] < p->owed[g] ? missing[g] : p->owed[g];
    }
    p->out->admits[p->out->n_admits++] = ticket;
    add_prefill(p, ticket, &fresh, from, n < wanted ? round_chunk(p, from, n, wanted) : n);
    return true;
}

/* Blocks of its beginning are coming, or are to be asked for; it is passed over, as this takes no longer than a few steps. */
static bool waits_for_blocks(spey_planning *p, int32_t ticket)
{
    bool waits = p->s->entries[ticket].fetches;
    if (waits && p->out->fetch < 0) p->out->fetch = ticket;
    return waits;
}

/* Paused requests before new ones: so the tables for sequences never overflow, and nobody is overtaken who has begun. */
static void admit_waiting(spey_planning *p)
{
    for (int32_t i = 0; i < p->s->n_paused; i++)
        if (is_expired(p, p->s->paused[i]) || waits_for_blocks(p, p->s->paused[i]) ||
            !admit(p, p->s->paused[i]))
            return;
    spey_queue_walk walk;
    spey_queue_walk_init(&walk, p->s, p->out->scratch->frontier);
    for (int32_t t; (t = spey_queue_walk_peek(&walk)) >= 0; spey_queue_walk_next(&walk))
        if (!is_expired(p, t) && !waits_for_blocks(p, t) && !admit(p, t)) return;
}

static int32_t count_decodes(const spey_scheduler *s)
{
    int32_t n = 0;
    for (int32_t r = 0; r < s->n_running; r++) {
        const spey_entry *e = &s->entries[s->running[r]];
        n += spey_scheduler_decodes(s, e) && !spey_scheduler_is_spent(s, e) ? e->n_live : 0;
    }
    return n;
}

void spey_scheduler_plan(const spey_scheduler *s, const spey_kv_cache *kv, uint64_t now_ns,
                         spey_schedule *out)
{
    int32_t n_decodes = count_decodes(s);
    spey_planning p = { .s = s,
                        .kv = kv,
                        .now_ns = now_ns,
                        .out = out,
                        .n_kept = s->n_running,
                        .sequences = s->n_sequences,
                        .prefill = s->limits.step_tokens_max - n_decodes,
                        .outputs = s->limits.step_outputs_max - n_decodes,
                        .peak = -1 };
    int64_t bound = s->limits.step_prefill_max;
    if (n_decodes && bound && p.prefill > bound) p.prefill = bound;
    for (int g = 0; g < s->limits.kv.n_groups; g++) {
        p.room[g] = spey_kv_group_free_blocks(kv, g);
        p.claimed[g] = s->claimed[g];
    }
    out->n_expired = out->n_pauses = out->n_admits = out->n_items = 0;
    out->n_tokens = out->n_prefill_tokens = 0;
    out->fetch = -1;
    out->scratch->credit = spey_policy_credit(s);
    find_expired(&p);
    plan_running(&p);
    if (!out->n_pauses) admit_waiting(&p);
}
