#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/graph.h"
#include "graph/graph_infer.h"

/* ---- queries and edits ---- */

spey_node *spey_graph_producer(const spey_graph *graph, spey_value value)
{
    SPEY_ASSERT(value >= 0 && value < graph->n_values);
    return &graph->nodes[graph->values[value].node];
}

int spey_graph_count_uses(const spey_graph *graph, spey_value value)
{
    int uses = graph->output == value;
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        for (int i = 0; node->op != SPEY_GRAPH_REMOVED && i < node->n_inputs; i++)
            uses += node->inputs[i] == value;
    }
    return uses;
}

int32_t spey_graph_only_user(const spey_graph *graph, spey_value value)
{
    if (graph->output == value) return -1;
    int32_t user = -1;
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        for (int i = 0; node->op != SPEY_GRAPH_REMOVED && i < node->n_inputs; i++) {
            if (node->inputs[i] != value) continue;
            if (user >= 0) return -1;
            user = n;
        }
    }
    return user;
}

void spey_graph_replace_uses(spey_graph *graph, spey_value from, spey_value to)
{
    if (graph->output == from) graph->output = to;
    for (int n = 0; n < graph->n_nodes; n++)
        for (int i = 0; i < graph->nodes[n].n_inputs; i++)
            if (graph->nodes[n].inputs[i] == from) graph->nodes[n].inputs[i] = to;
}

void spey_graph_remove_node(spey_graph *graph, int32_t index)
{
    SPEY_ASSERT(index >= 0 && index < graph->n_nodes);
    graph->nodes[index].op = SPEY_GRAPH_REMOVED;
}

/* ---- cache slots: one number per layer of each cache group ---- */

static int64_t n_slots(const spey_graph *graph)
{
    int64_t n = 0;
    for (int c = 0; c < graph->n_caches; c++)
        n += graph->caches[c].layers;
    return n;
}

/* -1: the op has to do with no cache. */
static int64_t slot_of(const spey_graph *graph, const spey_node *node)
{
    if (!spey_graph_op_appends(node->op) && node->op != SPEY_GRAPH_ATTENTION) return -1;
    int64_t slot = spey_node_int(node, SPEY_ATTR_LAYER, 0);
    for (int c = 0; c < spey_node_int(node, SPEY_ATTR_CACHE, 0); c++)
        slot += graph->caches[c].layers;
    return slot;
}

/* ---- cleaning ---- */

enum { UNSEEN, LIVE, OPEN, DONE };

typedef struct cleaner {
    spey_graph *graph;
    uint8_t *state;     /* of each node */
    int32_t *stack;     /* nodes still to visit; each is pushed at most once per state */
    int32_t *order;     /* the nodes that stay, as they will stand */
    int32_t *appender;  /* which node fills a cache slot, -1 none */
    spey_value *number; /* new number of each value */
    spey_node *nodes;   /* the new arrays, taken by the graph in the end */
    spey_value_info *values;
    int n_order;
} cleaner;

static spey_status cleaner_init(cleaner *c, spey_graph *graph)
{
    c->graph = graph;
    size_t nodes = (size_t)graph->n_nodes, values = (size_t)graph->n_values;
    c->state = spey_new_array(SPEY_PURPOSE_GRAPH, uint8_t, nodes);
    c->stack = spey_new_array(SPEY_PURPOSE_GRAPH, int32_t, nodes);
    c->order = spey_new_array(SPEY_PURPOSE_GRAPH, int32_t, nodes);
    c->appender = spey_new_array(SPEY_PURPOSE_GRAPH, int32_t, n_slots(graph));
    c->number = spey_new_array(SPEY_PURPOSE_GRAPH, spey_value, values);
    c->nodes = spey_new_array(SPEY_PURPOSE_GRAPH, spey_node, nodes);
    c->values = spey_new_array(SPEY_PURPOSE_GRAPH, spey_value_info, values);
    if (!c->state || !c->stack || !c->order || !c->appender || !c->number || !c->nodes ||
        !c->values)
        return SPEY_NOMEM;
    for (int64_t s = 0; s < n_slots(graph); s++)
        c->appender[s] = -1;
    return SPEY_OK;
}

static void cleaner_deinit(cleaner *c)
{
    spey_free(c->state);
    spey_free(c->stack);
    spey_free(c->order);
    spey_free(c->appender);
    spey_free(c->number);
    spey_free(c->nodes);
    spey_free(c->values);
}

/* LIVE: the output's maker, nodes with effects, and whatever those need. */
static spey_status mark_live(cleaner *c)
{
    const spey_graph *graph = c->graph;
    int depth = 0;
    for (int n = 0; n < graph->n_nodes; n++) {
        bool root = graph->output >= 0 && graph->values[graph->output].node == n;
        if (!root && !spey_graph_op_appends(graph->nodes[n].op)) continue;
        c->state[n] = LIVE;
        c->stack[depth++] = n;
        int64_t slot = slot_of(graph, &graph->nodes[n]);
        if (slot >= 0 && spey_graph_op_appends(graph->nodes[n].op)) c->appender[slot] = n;
    }
    while (depth) {
        const spey_node *node = &graph->nodes[c->stack[--depth]];
        if (node->op == SPEY_GRAPH_REMOVED)
            return SPEY_FAIL(SPEY_INTERNAL, "a removed node's result is still read");
        for (int i = 0; i < node->n_inputs; i++) {
            int32_t maker = graph->values[node->inputs[i]].node;
            if (c->state[maker] != UNSEEN) continue;
            c->state[maker] = LIVE;
            c->stack[depth++] = maker;
        }
    }
    return SPEY_OK;
}

/* A live node that must stand before `n` and does not yet; -1 when all do. */
static int32_t missing_before(const cleaner *c, int32_t n)
{
    const spey_graph *graph = c->graph;
    const spey_node *node = &graph->nodes[n];
    for (int i = 0; i < node->n_inputs; i++) {
        int32_t maker = graph->values[node->inputs[i]].node;
        if (c->state[maker] != DONE) return maker;
    }
    if (node->op == SPEY_GRAPH_ATTENTION) {
        int32_t filler = c->appender[slot_of(graph, node)];
        if (filler >= 0 && c->state[filler] != DONE) return filler;
    }
    return -1;
}

/* The old order, but each node pulls what it needs before itself. */
static spey_status sort(cleaner *c)
{
    for (int n = 0; n < c->graph->n_nodes; n++) {
        if (c->state[n] != LIVE) continue;
        int depth = 0;
        c->stack[depth++] = n;
        c->state[n] = OPEN;
        while (depth) {
            int32_t top = c->stack[depth - 1], before = missing_before(c, top);
            if (before < 0) {
                c->state[top] = DONE;
                c->order[c->n_order++] = top;
                depth--;
            } else if (c->state[before] == OPEN) {
                return SPEY_FAIL(SPEY_INTERNAL, "the graph has a cycle through %s",
                                 spey_graph_op_name(c->graph->nodes[before].op));
            } else {
                c->state[before] = OPEN;
                c->stack[depth++] = before;
            }
        }
    }
    return SPEY_OK;
}

/* Nodes and values anew, in order; inference sees the new arrays through `fresh`. */
static spey_status rebuild(cleaner *c, spey_graph *fresh)
{
    fresh->nodes = c->nodes;
    fresh->values = c->values;
    fresh->n_nodes = fresh->n_values = 0;
    for (int o = 0; o < c->n_order; o++) {
        spey_node *node = &c->nodes[o];
        *node = c->graph->nodes[c->order[o]];
        for (int i = 0; i < node->n_inputs; i++)
            node->inputs[i] = c->number[node->inputs[i]];
        spey_value_info outputs[SPEY_NODE_OUTPUTS_MAX];
        SPEY_TRY(spey_graph_infer(fresh, node, outputs));
        for (int i = 0; i < node->n_outputs; i++) {
            outputs[i].node = o;
            c->values[fresh->n_values] = outputs[i];
            c->number[node->outputs[i]] = fresh->n_values;
            node->outputs[i] = fresh->n_values++;
        }
        fresh->n_nodes++;
    }
    if (fresh->output >= 0) fresh->output = c->number[fresh->output];
    return SPEY_OK;
}

spey_status spey_graph_clean(spey_graph *graph)
{
    cleaner c = { 0 };
    spey_graph fresh = *graph;
    spey_status status = cleaner_init(&c, graph);
    if (!status) status = mark_live(&c);
    if (!status) status = sort(&c);
    if (!status) status = rebuild(&c, &fresh);
    if (!status) {
        c.nodes = graph->nodes;
        c.values = graph->values;
        fresh.cap_nodes = graph->n_nodes;
        fresh.cap_values = graph->n_values;
        *graph = fresh;
    }
    cleaner_deinit(&c);
    return status;
}

/* ---- checking ---- */

static spey_status check_node(const spey_graph *graph, int n, int *n_values)
{
    spey_node node = graph->nodes[n];
    for (int i = 0; i < node.n_inputs; i++)
        if (node.inputs[i] >= *n_values)
            return SPEY_FAIL(SPEY_INVALID, "node %d reads %%%d before it is made", n,
                             node.inputs[i]);
    spey_value_info outputs[SPEY_NODE_OUTPUTS_MAX];
    SPEY_TRY_CTX(spey_graph_infer(graph, &node, outputs), "node %d", n);
    if (node.n_outputs != spey_graph_op_outputs(node.op))
        return SPEY_FAIL(SPEY_INVALID, "node %d: %s has %d outputs", n, spey_graph_op_name(node.op),
                         node.n_outputs);
    for (int i = 0; i < node.n_outputs; i++) {
        if (node.outputs[i] != *n_values || *n_values >= graph->n_values)
            return SPEY_FAIL(SPEY_INVALID, "node %d makes %%%d, expected %%%d", n, node.outputs[i],
                             *n_values);
        const spey_value_info *value = &graph->values[(*n_values)++];
        if (value->node != n || value->rows != outputs[i].rows || value->cols != outputs[i].cols)
            return SPEY_FAIL(SPEY_INVALID, "%%%d does not have the shape that %s gives it",
                             node.outputs[i], spey_graph_op_name(node.op));
    }
    return SPEY_OK;
}

static spey_status check_caches(const spey_graph *graph, bool *filled)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        int64_t slot = slot_of(graph, node);
        if (slot < 0) continue;
        bool appends = spey_graph_op_appends(node->op);
        if (filled[slot] == appends)
            return SPEY_FAIL(SPEY_INVALID, "node %d: cache %lld, layer %lld is %s", n,
                             (long long)spey_node_int(node, SPEY_ATTR_CACHE, 0),
                             (long long)spey_node_int(node, SPEY_ATTR_LAYER, 0),
                             appends ? "appended to twice" : "read before it is appended to");
        filled[slot] = true;
    }
    return SPEY_OK;
}

spey_status spey_graph_check(const spey_graph *graph)
{
    int n_values = 0;
    for (int n = 0; n < graph->n_nodes; n++)
        SPEY_TRY(check_node(graph, n, &n_values));
    if (n_values != graph->n_values)
        return SPEY_FAIL(SPEY_INVALID, "%d values, but nodes make %d", graph->n_values, n_values);
    if (graph->output < 0 || graph->output >= graph->n_values)
        return SPEY_FAIL(SPEY_INVALID, "the graph has no output");
    if (graph->values[graph->output].rows != SPEY_ROWS_OUTPUTS)
        return SPEY_FAIL(SPEY_INVALID, "output %%%d has %s rows, expected outputs", graph->output,
                         spey_rows_name(graph->values[graph->output].rows));
    bool *filled = spey_new_array(SPEY_PURPOSE_GRAPH, bool, n_slots(graph));
    if (!filled) return SPEY_NOMEM;
    spey_status status = check_caches(graph, filled);
    spey_free(filled);
    return status;
}
