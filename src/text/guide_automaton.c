#include "text/guide_automaton.h"

#include <string.h>

#include "base/alloc.h"
#include "base/limits.h"
#include "base/map.h"

/* A repeated part larger than COPY_NODES becomes a rule of its own, so that nested counts add up instead of multiplying. */
enum { COPY_NODES = 2, NO_NODE = -1 };

typedef struct compiler {
    spey_guide_automaton *a;
    const spey_guide_builder *b;
    int32_t nodes_cap;
    int32_t *rule_first; /* [n_rules] */
    spey_map sets;       /* bits → index */
    int32_t sets_cap;
    spey_map
        bytes; /* BYTE node → index: characters of one class end in the same bytes, and are so few states */
    int64_t work;
    spey_status status;
} compiler;

static int32_t emit(compiler *c, const spey_guide_expr *e, int32_t next);

static int32_t fail(compiler *c, spey_status status)
{
    if (!c->status) c->status = status;
    return 0;
}

/* Room for one more item. */
static bool grow(compiler *c, void **items, int32_t n, int32_t *cap, size_t item_bytes)
{
    if (n < *cap) return true;
    int32_t wanted = *cap ? 2 * *cap : 64;
    void *larger = spey_realloc(SPEY_PURPOSE_TEXT, *items, (size_t)wanted * item_bytes);
    if (!larger) {
        fail(c, SPEY_NOMEM);
        return false;
    }
    *items = larger;
    *cap = wanted;
    return true;
}

static int32_t add_node(compiler *c, spey_guide_node_kind kind, int32_t next, int32_t x)
{
    if (c->status) return 0;
    if (c->a->n_nodes == SPEY_GUIDE_NODES_MAX)
        return fail(
            c, SPEY_FAIL(SPEY_LIMIT, "the guide has more than %d states", SPEY_GUIDE_NODES_MAX));
    void *nodes = c->a->nodes;
    bool room = grow(c, &nodes, c->a->n_nodes, &c->nodes_cap, sizeof *c->a->nodes);
    c->a->nodes = nodes;
    if (!room) return 0;
    c->a->nodes[c->a->n_nodes] = (spey_guide_node){ .kind = (uint8_t)kind, .next = next, .x = x };
    return c->a->n_nodes++;
}

static int32_t add_set(compiler *c, const uint64_t bits[4])
{
    int64_t found;
    if (c->status) return 0;
    if (spey_map_get(&c->sets, (const char *)bits, 32, &found)) return (int32_t)found;
    if (c->a->n_sets == SPEY_GUIDE_SETS_MAX)
        return fail(c, SPEY_FAIL(SPEY_LIMIT, "the guide has more than %d sets of bytes",
                                 SPEY_GUIDE_SETS_MAX));
    void *sets = c->a->sets;
    bool room = grow(c, &sets, c->a->n_sets, &c->sets_cap, sizeof *c->a->sets);
    c->a->sets = sets;
    if (!room) return 0;
    memcpy(c->a->sets[c->a->n_sets].bits, bits, 32);
    spey_status status = spey_map_put(&c->sets, (const char *)bits, 32, c->a->n_sets);
    if (status) return fail(c, status);
    return c->a->n_sets++;
}

/* ---- expressions to nodes, from the end to the beginning ---- */

static int32_t emit_set(compiler *c, const uint64_t bits[4], int32_t next)
{
    const int32_t key[2] = { add_set(c, bits), next };
    int64_t found;
    if (c->status) return 0;
    if (spey_map_get(&c->bytes, (const char *)key, sizeof key, &found)) return (int32_t)found;
    int32_t node = add_node(c, SPEY_GUIDE_NODE_BYTE, next, key[0]);
    if (c->status) return 0;
    spey_status status = spey_map_put(&c->bytes, (const char *)key, sizeof key, node);
    return status ? fail(c, status) : node;
}

static int32_t emit_byte(compiler *c, unsigned char byte, int32_t next)
{
    uint64_t bits[4] = { 0 };
    bits[byte >> 6] = (uint64_t)1 << (byte & 63);
    return emit_set(c, bits, next);
}

static bool is_small(const spey_guide_expr *e)
{
    return e->kind == SPEY_GUIDE_BYTES || e->kind == SPEY_GUIDE_RULE ||
           (e->kind == SPEY_GUIDE_LITERAL && e->n <= COPY_NODES);
}

/* A part as often as wanted: calls of `first` when that is a rule's node, else copies. */
static int32_t emit_copy(compiler *c, const spey_guide_expr *e, int32_t first, int32_t next)
{
    return first == NO_NODE ? emit(c, e, next) : add_node(c, SPEY_GUIDE_NODE_CALL, next, first);
}

static int32_t emit_repeat(compiler *c, const spey_guide_expr *e, int32_t next)
{
    const spey_guide_expr *child = e->children[0];
    int32_t optional = e->max == SPEY_GUIDE_UNBOUNDED ? 0 : e->max - e->min;
    int32_t first = NO_NODE;
    if (e->min + optional > 1 && !is_small(child)) first = emit(c, child, 0);
    if (e->max == SPEY_GUIDE_UNBOUNDED) {
        int32_t loop = add_node(c, SPEY_GUIDE_NODE_SPLIT, next, next);
        int32_t body = emit_copy(c, child, first, loop);
        if (!c->status) c->a->nodes[loop].next = body;
        next = loop;
    }
    int32_t end = next;
    for (int32_t i = 0; i < optional && !c->status; i++)
        next = add_node(c, SPEY_GUIDE_NODE_SPLIT, emit_copy(c, child, first, next), end);
    for (int32_t i = 0; i < e->min && !c->status; i++)
        next = emit_copy(c, child, first, next);
    return next;
}

static int32_t emit_alt(compiler *c, const spey_guide_expr *e, int32_t next)
{
    static const uint64_t none[4] = { 0 };
    if (e->n == 0) return emit_set(c, none, next);
    int32_t node = emit(c, e->children[e->n - 1], next);
    for (size_t i = e->n - 1; i-- > 0 && !c->status;)
        node = add_node(c, SPEY_GUIDE_NODE_SPLIT, emit(c, e->children[i], next), node);
    return node;
}

/* The node from which `e` is matched and then `next` entered. */
static int32_t emit(compiler *c, const spey_guide_expr *e, int32_t next)
{
    if (c->status) return 0;
    switch (e->kind) {
    case SPEY_GUIDE_BYTES: return emit_set(c, e->set, next);
    case SPEY_GUIDE_LITERAL:
        for (size_t i = e->n; i-- > 0 && !c->status;)
            next = emit_byte(c, (unsigned char)e->text[i], next);
        return next;
    case SPEY_GUIDE_SEQ:
        for (size_t i = e->n; i-- > 0 && !c->status;)
            next = emit(c, e->children[i], next);
        return next;
    case SPEY_GUIDE_ALT: return emit_alt(c, e, next);
    case SPEY_GUIDE_REPEAT: return emit_repeat(c, e, next);
    case SPEY_GUIDE_RULE: break;
    }
    /* The rule's first node is known when all are emitted. */
    return add_node(c, SPEY_GUIDE_NODE_CALL, next, -1 - e->rule);
}

static void emit_rules(compiler *c)
{
    const spey_guide_builder *b = c->b;
    add_node(c, SPEY_GUIDE_NODE_RETURN, 0, 0);
    for (int32_t i = 0; i < b->n_rules && !c->status; i++) {
        SPEY_ASSERT(b->rules[i].body);
        int32_t first = emit(c, b->rules[i].body, 0);
        /* A rule that is its end alone still needs a node to call. */
        c->rule_first[i] = first ? first : add_node(c, SPEY_GUIDE_NODE_SPLIT, 0, 0);
    }
    if (c->status) return;
    for (int32_t i = 0; i < c->a->n_nodes; i++) {
        spey_guide_node *node = &c->a->nodes[i];
        if (node->kind == SPEY_GUIDE_NODE_CALL && node->x < 0)
            node->x = c->rule_first[-1 - node->x];
    }
    c->a->first = c->rule_first[0];
}

/* ---- checks ---- */

static bool spend(compiler *c, int64_t work)
{
    c->work += work;
    if (c->work > SPEY_GUIDE_WORK_MAX)
        fail(c, SPEY_FAIL(SPEY_LIMIT, "the guide is too large to compile"));
    return !c->status;
}

/* Least fixpoint of "the end of its rule can be reached from here", taking bytes or not. */
static void mark_reaching(compiler *c, bool takes_bytes, bool *marks)
{
    const spey_guide_automaton *a = c->a;
    static const spey_guide_set none = { { 0 } };
    marks[0] = true;
    for (bool changed = true; changed && spend(c, a->n_nodes);) {
        changed = false;
        for (int32_t i = 1; i < a->n_nodes; i++) {
            const spey_guide_node *n = &a->nodes[i];
            if (marks[i]) continue;
            bool mark = marks[n->next];
            if (n->kind == SPEY_GUIDE_NODE_SPLIT) mark = mark || marks[n->x];
            if (n->kind == SPEY_GUIDE_NODE_CALL) mark = mark && marks[n->x];
            if (n->kind == SPEY_GUIDE_NODE_BYTE)
                mark = mark && takes_bytes && memcmp(&a->sets[n->x], &none, sizeof none) != 0;
            marks[i] = mark;
            changed = changed || mark;
        }
    }
}

/* Nodes that are entered from `from` without taking a byte; -1 ends the list. */
static void successors(const spey_guide_automaton *a, const bool *nullable, int32_t from,
                       int32_t out[2])
{
    const spey_guide_node *n = &a->nodes[from];
    out[0] = out[1] = -1;
    if (n->kind == SPEY_GUIDE_NODE_SPLIT) {
        out[0] = n->next;
        out[1] = n->x;
    } else if (n->kind == SPEY_GUIDE_NODE_CALL) {
        out[0] = n->x;
        out[1] = nullable[n->x] ? n->next : -1;
    }
}

/* Strongly connected parts (Tarjan, 1972), without recursion: nodes of one part have one number in `low`. */
typedef struct components {
    int32_t *order, *low, *path, *turn, *open; /* [n_nodes] */
    int32_t n_path, n_open, clock;
} components;

enum { CLOSED = INT32_MAX };

static void visit(components *t, int32_t node)
{
    t->order[node] = t->low[node] = ++t->clock;
    t->turn[node] = 0;
    t->path[t->n_path++] = t->open[t->n_open++] = node;
}

/* The node on top of the path has no more successors. */
static void leave(components *t)
{
    int32_t node = t->path[--t->n_path];
    if (t->low[node] == t->order[node]) {
        int32_t member;
        do {
            member = t->open[--t->n_open];
            t->low[member] = t->low[node];
            t->order[member] = CLOSED;
        } while (member != node);
    }
    if (t->n_path) {
        int32_t parent = t->path[t->n_path - 1];
        if (t->order[node] != CLOSED && t->low[node] < t->low[parent])
            t->low[parent] = t->low[node];
    }
}

static void find_components(const spey_guide_automaton *a, const bool *nullable, components *t)
{
    for (int32_t root = 1; root < a->n_nodes; root++) {
        if (t->order[root]) continue;
        visit(t, root);
        while (t->n_path) {
            int32_t node = t->path[t->n_path - 1], next[2];
            successors(a, nullable, node, next);
            if (t->turn[node] == 2) {
                leave(t);
                continue;
            }
            int32_t to = next[t->turn[node]++];
            if (to <= 0) continue;
            if (!t->order[to])
                visit(t, to);
            else if (t->order[to] < t->low[node])
                t->low[node] = t->order[to];
        }
    }
}

static void report_left_recursion(compiler *c, int32_t node)
{
    const char *name = "a repetition";
    int32_t best = -1;
    for (int32_t i = 0; i < c->b->n_rules; i++) {
        int32_t first = c->rule_first[i];
        if (first >= node && (best < 0 || first < best)) {
            best = first;
            name = c->b->rules[i].name;
        }
    }
    fail(c, SPEY_FAIL(SPEY_FORMAT, "%s can call itself before it takes a character", name));
}

/* A cycle through a call that takes no byte would push for ever. (One of SPLITs alone is a loop over nothing.) */
static void check_left_recursion(compiler *c, const bool *nullable)
{
    const spey_guide_automaton *a = c->a;
    int32_t *memory = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, 5 * (int64_t)a->n_nodes);
    if (!memory) {
        fail(c, SPEY_NOMEM);
        return;
    }
    components t = { .order = memory,
                     .low = memory + a->n_nodes,
                     .path = memory + 2 * (int64_t)a->n_nodes,
                     .turn = memory + 3 * (int64_t)a->n_nodes,
                     .open = memory + 4 * (int64_t)a->n_nodes };
    find_components(a, nullable, &t);
    for (int32_t i = 1; i < a->n_nodes && !c->status; i++)
        if (a->nodes[i].kind == SPEY_GUIDE_NODE_CALL && a->nodes[i].x > 0 &&
            t.low[i] == t.low[a->nodes[i].x])
            report_left_recursion(c, i);
    spey_free(memory);
}

static void check(compiler *c)
{
    bool *alive = spey_new_array(SPEY_PURPOSE_TEXT, bool, c->a->n_nodes);
    bool *nullable = spey_new_array(SPEY_PURPOSE_TEXT, bool, c->a->n_nodes);
    if (!alive || !nullable) fail(c, SPEY_NOMEM);
    if (!c->status) mark_reaching(c, true, alive);
    if (!c->status) mark_reaching(c, false, nullable);
    if (!c->status) check_left_recursion(c, nullable);
    for (int32_t i = 0; i < c->a->n_nodes && !c->status; i++)
        c->a->nodes[i].alive = alive[i];
    if (!c->status && !alive[c->a->first])
        fail(c, SPEY_FAIL(SPEY_FORMAT, "the guide matches nothing"));
    spey_free(alive);
    spey_free(nullable);
}

/* ---- classes of bytes ---- */

static void find_classes(compiler *c)
{
    spey_guide_automaton *a = c->a;
    a->n_classes = 1;
    for (int32_t s = 0; s < a->n_sets && a->n_classes < 256; s++) {
        int16_t inside[256]; /* the part of each class that the set holds */
        bool outside[256] = { false };
        memset(inside, -1, sizeof inside);
        for (unsigned byte = 0; byte < 256; byte++)
            if (!spey_guide_set_has(&a->sets[s], byte)) outside[a->class_of[byte]] = true;
        for (unsigned byte = 0; byte < 256; byte++) {
            uint8_t old = a->class_of[byte];
            if (!spey_guide_set_has(&a->sets[s], byte) || !outside[old]) continue;
            if (inside[old] < 0) inside[old] = (int16_t)a->n_classes++;
            a->class_of[byte] = (uint8_t)inside[old];
        }
    }
    for (int32_t s = 0; s < a->n_sets; s++) {
        spey_guide_set bytes = a->sets[s];
        a->sets[s] = (spey_guide_set){ { 0 } };
        for (unsigned byte = 0; byte < 256; byte++)
            if (spey_guide_set_has(&bytes, byte))
                a->sets[s].bits[a->class_of[byte] >> 6] |= (uint64_t)1 << (a->class_of[byte] & 63);
    }
}

spey_status spey_guide_automaton_init(spey_guide_automaton *a, const spey_guide_builder *b)
{
    *a = (spey_guide_automaton){ 0 };
    if (b->status) return b->status;
    SPEY_ASSERT(b->n_rules > 0);
    compiler c = { .a = a, .b = b };
    spey_map_init(&c.sets, SPEY_PURPOSE_TEXT);
    spey_map_init(&c.bytes, SPEY_PURPOSE_TEXT);
    c.rule_first = spey_new_array(SPEY_PURPOSE_TEXT, int32_t, b->n_rules);
    if (!c.rule_first) fail(&c, SPEY_NOMEM);
    if (!c.status) emit_rules(&c);
    if (!c.status) check(&c);
    if (!c.status) find_classes(&c);
    spey_free(c.rule_first);
    spey_map_deinit(&c.sets);
    spey_map_deinit(&c.bytes);
    if (c.status) spey_guide_automaton_deinit(a);
    return c.status;
}

void spey_guide_automaton_deinit(spey_guide_automaton *a)
{
    spey_free(a->nodes);
    spey_free(a->sets);
    *a = (spey_guide_automaton){ 0 };
}
