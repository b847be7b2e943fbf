#include "text/guide_run.h"

#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/map.h"

enum {
    STATES = SPEY_GUIDE_STATES_MAX,
    STATE_SLOTS = 2 * STATES,
    PLACES = 1 << 17,
    STACKS = 1 << 16,
    STACK_SLOTS = 2 * STACKS,
    VISITS_MAX = 1 << 13, /* places that one step may pass through */
    VISIT_SLOTS = 2 * VISITS_MAX,
    ENTRIES = 1 << 12,
    BOTTOM = 0, /* the empty stack */
};

/* `node` is a BYTE node; the rule it is in comes back to what `stack` says. */
typedef struct place {
    int32_t node, stack;
} place;

typedef struct stack {
    int32_t back, below; /* node to come back to; the stack under it, which was stored earlier */
} stack;

typedef struct state {
    int32_t first, n; /* of `places` */
    int32_t holders;
    bool used, can_end;
} state;

struct spey_guide_run {
    spey_guide_edges edges; /* first: guide_run.h */
    const spey_guide_automaton *a;
    int32_t start;
    state states[STATES];
    int32_t state_slots[STATE_SLOTS]; /* state + 1, 0: free */
    int32_t n_states;
    int32_t free_hint;
    place *places; /* of all states */
    int32_t n_places;
    stack stacks[STACKS];
    int32_t stack_slots[STACK_SLOTS];
    int32_t n_stacks;
    /* One step's work. */
    place found[SPEY_GUIDE_PLACES_MAX];
    int32_t n_found;
    bool can_end, too_big;
    place pending[VISITS_MAX];
    int32_t n_pending;
    struct {
        place at;
        uint32_t stamp;
    } visited[VISIT_SLOTS];
    uint32_t stamp;
    int32_t n_visited;
    /* The states of places that were entered alone: the ends of a character's many forms lead to one. */
    struct {
        place at;
        int32_t state; /* + 1, 0: free */
    } entries[ENTRIES];
    int32_t moved[STACKS]; /* collect: the new place of each stack */
};

static uint32_t hash_of(const void *bytes, size_t n)
{
    return (uint32_t)spey_hash_bytes(bytes, n, 0);
}

/* ---- stacks ---- */

/* The stack of `back` on `below`; -1 when the table is full. */
static int32_t push(spey_guide_run *r, int32_t back, int32_t below)
{
    stack wanted = { back, below };
    uint32_t slot = hash_of(&wanted, sizeof wanted) % STACK_SLOTS;
    for (; r->stack_slots[slot]; slot = (slot + 1) % STACK_SLOTS) {
        const stack *s = &r->stacks[r->stack_slots[slot]];
        if (s->back == back && s->below == below) return r->stack_slots[slot];
    }
    if (r->n_stacks == STACKS) return -1;
    r->stacks[r->n_stacks] = wanted;
    r->stack_slots[slot] = r->n_stacks;
    return r->n_stacks++;
}

/* ---- from a place to all that are reached without a byte ---- */

static void begin_closure(spey_guide_run *r)
{
    r->n_found = r->n_pending = r->n_visited = 0;
    r->can_end = r->too_big = false;
    r->stamp++;
}

static void enter(spey_guide_run *r, int32_t node, int32_t at_stack)
{
    if (at_stack < 0 || r->n_visited == VISITS_MAX) {
        r->too_big = true;
        return;
    }
    place p = { node, at_stack };
    uint32_t slot = hash_of(&p, sizeof p) % VISIT_SLOTS;
    for (; r->visited[slot].stamp == r->stamp; slot = (slot + 1) % VISIT_SLOTS)
        if (r->visited[slot].at.node == node && r->visited[slot].at.stack == at_stack) return;
    r->visited[slot].at = p;
    r->visited[slot].stamp = r->stamp;
    r->n_visited++;
    r->pending[r->n_pending++] = p;
}

static void leave_rule(spey_guide_run *r, int32_t at_stack)
{
    if (at_stack == BOTTOM)
        r->can_end = true;
    else
        enter(r, r->stacks[at_stack].back, r->stacks[at_stack].below);
}

static void follow(spey_guide_run *r)
{
    while (r->n_pending && !r->too_big) {
        place p = r->pending[--r->n_pending];
        const spey_guide_node *n = &r->a->nodes[p.node];
        if (!n->alive) continue;
        switch ((spey_guide_node_kind)n->kind) {
        case SPEY_GUIDE_NODE_RETURN: leave_rule(r, p.stack); break;
        case SPEY_GUIDE_NODE_SPLIT:
            enter(r, n->next, p.stack);
            enter(r, n->x, p.stack);
            break;
        case SPEY_GUIDE_NODE_CALL:
            enter(r, n->x, n->next == 0 ? p.stack : push(r, n->next, p.stack));
            break;
        case SPEY_GUIDE_NODE_BYTE:
            if (r->n_found == SPEY_GUIDE_PLACES_MAX)
                r->too_big = true;
            else
                r->found[r->n_found++] = p;
            break;
        }
    }
}

/* ---- states ---- */

/* Equal sets in one order. Insertion: sets are small, and nearly in order. */
static void sort_found(spey_guide_run *r)
{
    for (int32_t i = 1; i < r->n_found; i++) {
        place p = r->found[i];
        int32_t at = i;
        for (; at > 0; at--) {
            place q = r->found[at - 1];
            if (q.node < p.node || (q.node == p.node && q.stack < p.stack)) break;
            r->found[at] = q;
        }
        r->found[at] = p;
    }
}

static uint32_t slot_of(const place *places, int32_t n, bool can_end)
{
    return (hash_of(places, (size_t)n * sizeof *places) ^ (can_end ? 0x9e3779b9u : 0)) %
           STATE_SLOTS;
}

/* No step from here was taken yet; those that no place can take are dead. */
static void forget_edges(spey_guide_run *r, int32_t id)
{
    const state *s = &r->states[id];
    spey_guide_set any = { { 0 } };
    for (int32_t i = 0; i < s->n; i++) {
        const spey_guide_set *set = &r->a->sets[r->a->nodes[r->places[s->first + i].node].x];
        for (int k = 0; k < 4; k++)
            any.bits[k] |= set->bits[k];
    }
    int32_t *next = r->edges.next + (int64_t)id * r->a->n_classes;
    for (int32_t c = 0; c < r->a->n_classes; c++)
        next[c] = spey_guide_set_has(&any, (uint32_t)c) ? SPEY_GUIDE_UNKNOWN : SPEY_GUIDE_DEAD;
}

static int32_t take_state(spey_guide_run *r)
{
    while (r->states[r->free_hint].used)
        r->free_hint = (r->free_hint + 1) % STATES;
    r->n_states++;
    return r->free_hint;
}

/* The state of the places found. */
static int32_t store_state(spey_guide_run *r)
{
    if (r->too_big) return SPEY_GUIDE_TOO_BIG;
    if (r->n_found == 0 && !r->can_end) return SPEY_GUIDE_DEAD;
    sort_found(r);
    size_t bytes = (size_t)r->n_found * sizeof *r->found;
    uint32_t slot = slot_of(r->found, r->n_found, r->can_end);
    for (; r->state_slots[slot]; slot = (slot + 1) % STATE_SLOTS) {
        const state *s = &r->states[r->state_slots[slot] - 1];
        if (s->n == r->n_found && s->can_end == r->can_end &&
            !memcmp(r->places + s->first, r->found, bytes))
            return r->state_slots[slot] - 1;
    }
    if (r->n_states == STATES || r->n_places + r->n_found > PLACES) return SPEY_GUIDE_TOO_BIG;
    int32_t id = take_state(r);
    r->states[id] =
        (state){ .first = r->n_places, .n = r->n_found, .used = true, .can_end = r->can_end };
    memcpy(r->places + r->n_places, r->found, bytes);
    r->n_places += r->n_found;
    r->state_slots[slot] = id + 1;
    forget_edges(r, id);
    return id;
}

/* The places behind those that take the class. */
static int32_t find_entries(const spey_guide_run *r, int32_t from, uint32_t class, place *only)
{
    int32_t n = 0;
    for (int32_t i = 0; i < r->states[from].n; i++) {
        place p = r->places[r->states[from].first + i];
        const spey_guide_node *node = &r->a->nodes[p.node];
        if (!spey_guide_set_has(&r->a->sets[node->x], class)) continue;
        *only = (place){ node->next, p.stack };
        n++;
    }
    return n;
}

static int32_t find_next(spey_guide_run *r, int32_t from, uint32_t class)
{
    place only;
    int32_t n = find_entries(r, from, class, &only);
    uint32_t slot = n == 1 ? hash_of(&only, sizeof only) % ENTRIES : 0;
    if (n == 1 && r->entries[slot].state && r->entries[slot].at.node == only.node &&
        r->entries[slot].at.stack == only.stack)
        return r->entries[slot].state - 1;
    begin_closure(r);
    for (int32_t i = 0; i < r->states[from].n && !r->too_big; i++) {
        place p = r->places[r->states[from].first + i];
        const spey_guide_node *node = &r->a->nodes[p.node];
        if (!spey_guide_set_has(&r->a->sets[node->x], class)) continue;
        enter(r, node->next, p.stack);
        follow(r);
    }
    int32_t next = store_state(r);
    if (n == 1 && next >= 0) {
        r->entries[slot].at = only;
        r->entries[slot].state = next + 1;
    }
    return next;
}

int32_t spey_guide_run_step_first(spey_guide_run *r, int32_t from, unsigned char byte)
{
    uint32_t class = r->a->class_of[byte];
    int32_t next = find_next(r, from, class);
    if (next != SPEY_GUIDE_TOO_BIG) /* there may be room another time */
        r->edges.next[(int64_t)from * r->a->n_classes + class] = next;
    return next;
}

/* Where one of the first bytes takes the only place that it can go to, and the other bytes all of theirs. */
static bool follow_bytes(const spey_guide_run *r, int32_t from, unsigned char first,
                         const spey_guide_choices *rest, int32_t n, place *out)
{
    if (find_entries(r, from, r->a->class_of[first], out) != 1) return false;
    for (int32_t i = 0; i < n; i++) {
        const spey_guide_node *node = &r->a->nodes[out->node];
        if (node->kind != SPEY_GUIDE_NODE_BYTE) return false;
        for (int32_t k = 0; k < rest[i].n; k++)
            if (!spey_guide_set_has(&r->a->sets[node->x], r->a->class_of[rest[i].bytes[k]]))
                return false;
        out->node = node->next;
    }
    return true;
}

bool spey_guide_run_agrees(const spey_guide_run *r, int32_t from, unsigned char byte,
                           const spey_guide_choices *choices, int32_t n)
{
    place wanted, found;
    if (!follow_bytes(r, from, byte, NULL, 0, &wanted)) return false;
    for (int32_t k = 0; k < choices[0].n; k++)
        if (!follow_bytes(r, from, choices[0].bytes[k], choices + 1, n - 1, &found) ||
            found.node != wanted.node || found.stack != wanted.stack)
            return false;
    return true;
}

bool spey_guide_run_can_end(const spey_guide_run *r, int32_t at)
{
    return r->states[at].can_end;
}

bool spey_guide_run_must_end(spey_guide_run *r, int32_t at)
{
    return r->states[at].can_end && r->states[at].n == 0;
}

/* ---- life ---- */

spey_status spey_guide_run_new(const spey_guide_automaton *automaton, spey_guide_run **out)
{
    *out = NULL;
    spey_guide_run *r = spey_new(SPEY_PURPOSE_TEXT, spey_guide_run);
    if (!r) return SPEY_NOMEM;
    r->a = automaton;
    r->edges.class_of = automaton->class_of;
    r->edges.n_classes = automaton->n_classes;
    r->n_stacks = 1; /* BOTTOM */
    r->places = spey_new_array(SPEY_PURPOSE_TEXT, place, PLACES);
    r->edges.next =
        spey_new_array(SPEY_PURPOSE_TEXT, int32_t, (int64_t)STATES * automaton->n_classes);
    spey_status status = r->places && r->edges.next ? SPEY_OK : SPEY_NOMEM;
    if (!status) {
        begin_closure(r);
        enter(r, automaton->first, BOTTOM);
        follow(r);
        r->start = store_state(r);
        if (r->start == SPEY_GUIDE_TOO_BIG)
            status = SPEY_FAIL(SPEY_LIMIT, "the guide begins in more than %d ways at once",
                               SPEY_GUIDE_PLACES_MAX);
    }
    if (status) {
        spey_guide_run_free(r);
        return status;
    }
    SPEY_ASSERT(r->start >= 0);
    spey_guide_run_hold(r, r->start);
    *out = r;
    return SPEY_OK;
}

size_t spey_guide_run_bytes(const spey_guide_automaton *automaton)
{
    return sizeof(spey_guide_run) + PLACES * sizeof(place) +
           (size_t)STATES * (size_t)automaton->n_classes * sizeof(int32_t);
}

void spey_guide_run_free(spey_guide_run *r)
{
    if (!r) return;
    spey_free(r->places);
    spey_free(r->edges.next);
    spey_free(r);
}

int32_t spey_guide_run_start(const spey_guide_run *r)
{
    return r->start;
}

/* ---- forgetting ---- */

void spey_guide_run_hold(spey_guide_run *r, int32_t at)
{
    r->states[at].holders++;
}

void spey_guide_run_drop(spey_guide_run *r, int32_t at)
{
    SPEY_ASSERT(r->states[at].holders > 0);
    r->states[at].holders--;
}

bool spey_guide_run_is_held(const spey_guide_run *r, int32_t at)
{
    return r->states[at].holders > 0;
}

/* Keep the stacks that held states need. A stack lies above those under it, so one pass down finds them all. */
static void collect_stacks(spey_guide_run *r)
{
    memset(r->moved, 0, sizeof r->moved);
    r->moved[BOTTOM] = 1;
    for (int32_t i = 0; i < STATES; i++)
        for (int32_t k = 0; r->states[i].used && k < r->states[i].n; k++)
            r->moved[r->places[r->states[i].first + k].stack] = 1;
    for (int32_t i = r->n_stacks - 1; i > 0; i--)
        if (r->moved[i]) r->moved[r->stacks[i].below] = 1;
    int32_t n_old = r->n_stacks;
    memset(r->stack_slots, 0, sizeof r->stack_slots);
    r->n_stacks = 1;
    r->moved[BOTTOM] = BOTTOM;
    for (int32_t i = 1; i < n_old; i++)
        if (r->moved[i]) r->moved[i] = push(r, r->stacks[i].back, r->moved[r->stacks[i].below]);
}

/* Close the gaps that forgotten states left. States were stored in any order of ids, so the held ones, few, are moved in order
 * of where they lie. */
static void collect_places(spey_guide_run *r)
{
    int32_t end = 0;
    r->n_places = 0;
    for (;;) {
        int32_t best = -1;
        for (int32_t i = 0; i < STATES; i++)
            if (r->states[i].used && r->states[i].first >= end && r->states[i].n > 0 &&
                (best < 0 || r->states[i].first < r->states[best].first))
                best = i;
        if (best < 0) return;
        state *s = &r->states[best];
        end = s->first + s->n;
        memmove(r->places + r->n_places, r->places + s->first, (size_t)s->n * sizeof(place));
        s->first = r->n_places;
        r->n_places += s->n;
    }
}

bool spey_guide_run_collect(spey_guide_run *r)
{
    if (r->n_states < STATES / 2 && r->n_places < PLACES / 2 && r->n_stacks < STACKS / 2)
        return false;
    r->n_states = 0;
    for (int32_t i = 0; i < STATES; i++) {
        r->states[i].used = r->states[i].used && r->states[i].holders > 0;
        r->n_states += r->states[i].used;
    }
    collect_stacks(r);
    collect_places(r);
    memset(r->state_slots, 0, sizeof r->state_slots);
    memset(r->entries, 0, sizeof r->entries);
    for (int32_t i = 0; i < STATES; i++) {
        state *s = &r->states[i];
        if (!s->used) continue;
        place *places = r->places + s->first;
        for (int32_t k = 0; k < s->n; k++)
            places[k].stack = r->moved[places[k].stack];
        uint32_t slot = slot_of(places, s->n, s->can_end);
        while (r->state_slots[slot])
            slot = (slot + 1) % STATE_SLOTS;
        r->state_slots[slot] = i + 1;
        forget_edges(r, i);
    }
    return true;
}
