/* Who waits: a heap in fair order, a heap of deadlines, and what each tenant was charged. */
#include "base/status.h"
#include "runtime/scheduler_impl.h"

/* ---- a heap ---- */

static void put(spey_heap *h, int32_t i, int32_t item)
{
    h->items[i] = item;
    if (h->at) h->at[item] = i;
}

static void sift_up(spey_heap *h, int32_t i)
{
    int32_t item = h->items[i];
    for (; i > 0 && h->before(h->context, item, h->items[(i - 1) / 2]); i = (i - 1) / 2)
        put(h, i, h->items[(i - 1) / 2]);
    put(h, i, item);
}

static void sift_down(spey_heap *h, int32_t i)
{
    int32_t item = h->items[i];
    for (int32_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->before(h->context, h->items[child + 1], h->items[child]))
            child++;
        if (!h->before(h->context, h->items[child], item)) break;
        put(h, i, h->items[child]);
    }
    put(h, i, item);
}

void spey_heap_push(spey_heap *h, int32_t item)
{
    put(h, h->n++, item);
    sift_up(h, h->n - 1);
}

static void remove_at(spey_heap *h, int32_t i)
{
    int32_t last = h->items[--h->n];
    if (h->at) h->at[h->items[i]] = -1;
    if (i == h->n) return;
    put(h, i, last);
    sift_up(h, i);
    sift_down(h, i);
}

int32_t spey_heap_pop(spey_heap *h)
{
    int32_t first = h->items[0];
    remove_at(h, 0);
    return first;
}

void spey_heap_remove(spey_heap *h, int32_t item)
{
    remove_at(h, h->at[item]);
}

/* ---- orders ---- */

static bool waits_before(const void *context, int32_t a, int32_t b)
{
    const spey_scheduler *s = context;
    const spey_entry *x = &s->entries[a], *y = &s->entries[b];
    if (x->job.priority != y->job.priority) return x->job.priority > y->job.priority;
    if (x->tag < y->tag || y->tag < x->tag) return x->tag < y->tag;
    return x->submitted < y->submitted;
}

static bool expires_before(const void *context, int32_t a, int32_t b)
{
    const spey_scheduler *s = context;
    return s->entries[a].job.deadline_ns < s->entries[b].job.deadline_ns;
}

/* The frontier holds positions of the queue's heap. */
static bool position_before(const void *context, int32_t a, int32_t b)
{
    const spey_scheduler *s = context;
    return waits_before(s, s->queue.items[a], s->queue.items[b]);
}

void spey_queue_init(spey_scheduler *s)
{
    s->queue.before = waits_before;
    s->deadlines.before = expires_before;
    s->queue.context = s->deadlines.context = s;
    for (int32_t i = 0; i < s->tickets_max; i++)
        s->queue.at[i] = s->deadlines.at[i] = -1;
}

/* ---- tenants ---- */

/* The tenant's place, or one that nobody uses: of those, the one that was charged least. -1: all are in use. */
static int32_t find_tenant(spey_scheduler *s, uint64_t id)
{
    int32_t unused = -1;
    for (int32_t i = 0; i < SPEY_TENANTS_MAX; i++) {
        const spey_tenant *t = &s->tenants[i];
        if (t->id == id) return i;
        if (t->n_tickets) continue;
        if (unused < 0 ||
            t->last_tag[-SPEY_PRIORITY_MIN] < s->tenants[unused].last_tag[-SPEY_PRIORITY_MIN])
            unused = i;
    }
    if (unused >= 0) s->tenants[unused] = (spey_tenant){ .id = id };
    return unused;
}

static double cost(const spey_job *job, int64_t n_tokens)
{
    return (double)job->n_prompt + (double)job->width * (double)(n_tokens - job->n_prompt);
}

spey_status spey_queue_add(spey_scheduler *s, int32_t ticket)
{
    spey_entry *e = &s->entries[ticket];
    int level = e->job.priority - SPEY_PRIORITY_MIN;
    e->tenant = find_tenant(s, e->job.tenant);
    if (e->tenant < 0)
        return SPEY_FAIL(SPEY_LIMIT, "requests of %d tenants wait or run, no more are kept apart",
                         SPEY_TENANTS_MAX);
    spey_tenant *tenant = &s->tenants[e->tenant];
    double start = tenant->last_tag[level];
    start = start > s->served[level] ? start : s->served[level];
    e->tag = tenant->last_tag[level] = start + cost(&e->job, e->job.n_max);
    tenant->n_tickets++;
    spey_heap_push(&s->queue, ticket);
    if (e->job.deadline_ns) spey_heap_push(&s->deadlines, ticket);
    return SPEY_OK;
}

void spey_queue_remove(spey_scheduler *s, int32_t ticket)
{
    spey_heap_remove(&s->queue, ticket);
}

void spey_queue_settle(spey_scheduler *s, int32_t ticket, int64_t n_used)
{
    const spey_entry *e = &s->entries[ticket];
    spey_tenant *tenant = &s->tenants[e->tenant];
    int level = e->job.priority - SPEY_PRIORITY_MIN;
    tenant->last_tag[level] -= cost(&e->job, e->job.n_max);
    if (n_used > 0) tenant->last_tag[level] += cost(&e->job, n_used);
    tenant->n_tickets--;
    if (s->deadlines.at[ticket] >= 0) spey_heap_remove(&s->deadlines, ticket);
}

/* ---- reading in order ---- */

void spey_queue_walk_init(spey_queue_walk *walk, const spey_scheduler *s, int32_t *memory)
{
    *walk = (spey_queue_walk){ s, { .before = position_before, .context = s } };
    walk->frontier.items = memory;
    if (s->queue.n > 0) spey_heap_push(&walk->frontier, 0);
}

int32_t spey_queue_walk_peek(const spey_queue_walk *walk)
{
    return walk->frontier.n > 0 ? walk->s->queue.items[walk->frontier.items[0]] : -1;
}

/* What comes after a heap's item is its sibling's or its child: only children of those taken can be next. */
void spey_queue_walk_next(spey_queue_walk *walk)
{
    int32_t child = 2 * spey_heap_pop(&walk->frontier) + 1;
    for (int i = 0; i < 2; i++)
        if (child + i < walk->s->queue.n) spey_heap_push(&walk->frontier, child + i);
}
