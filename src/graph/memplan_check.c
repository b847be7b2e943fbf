/* The proof that a plan is safe, by replay. Written without looking at the planner: it knows only what kernels allow. */
#include <stdlib.h>

#include "base/alloc.h"
#include "graph/memplan.h"

typedef struct replay {
    const spey_graph *graph;
    const spey_memplan_limits *limits;
    const spey_memplan *plan;
    int32_t *last_use;
    spey_value *live; /* values that some later node reads */
    int n_live;
} replay;

static const spey_placement *place_of(const replay *r, spey_value v)
{
    return &r->plan->values[v];
}

static int64_t rows_of(const replay *r, spey_value v)
{
    bool outputs = r->graph->values[v].rows == SPEY_ROWS_OUTPUTS;
    return outputs ? r->limits->outputs_max : r->limits->tokens_max;
}

static uint64_t bytes_of(const replay *r, spey_value v)
{
    return spey_memplan_element_bytes(r->limits, place_of(r, v));
}

/* ---- geometry ---- */

/* One byte past the last element; false on overflow. */
static bool end_of(const replay *r, spey_value v, uint64_t *out)
{
    const spey_placement *place = place_of(r, v);
    size_t span;
    if (!spey_mul_size((size_t)(rows_of(r, v) - 1), (size_t)place->pitch, &span) ||
        !spey_add_size(span, (size_t)r->graph->values[v].cols, &span) ||
        !spey_mul_size(span, bytes_of(r, v), &span) || !spey_add_size(span, place->offset, &span))
        return false;
    if (place->width == SPEY_WIDTH_E4M3) /* scales behind whole rows */
        return spey_mul_size((size_t)place->pitch + sizeof(float), (size_t)rows_of(r, v), &span) &&
               spey_add_size(span, place->offset, out);
    *out = span;
    return true;
}

/* Do the two touch a byte in common? Rows of equal pitch that belong to one storage may lie side by side. */
static bool touch(const replay *r, spey_value a, spey_value b)
{
    const spey_placement *x = place_of(r, a), *y = place_of(r, b);
    uint64_t x_end = 0, y_end = 0;
    if (!end_of(r, a, &x_end) || !end_of(r, b, &y_end)) return true;
    if (x->offset >= y_end || y->offset >= x_end) return false;
    if (x->storage != y->storage || x->pitch != y->pitch) return true;
    uint64_t base = place_of(r, x->storage)->offset, row = (uint64_t)x->pitch * bytes_of(r, a);
    uint64_t x_left = x->offset - base,
             x_right = x_left + (uint64_t)r->graph->values[a].cols * bytes_of(r, a);
    uint64_t y_left = y->offset - base,
             y_right = y_left + (uint64_t)r->graph->values[b].cols * bytes_of(r, b);
    if (x_right > row || y_right > row) return true; /* not a column range of one row */
    return x_left < y_right && y_left < x_right;
}

static bool same_place(const replay *r, spey_value a, spey_value b)
{
    return place_of(r, a)->offset == place_of(r, b)->offset &&
           place_of(r, a)->pitch == place_of(r, b)->pitch &&
           r->graph->values[a].cols == r->graph->values[b].cols &&
           r->graph->values[a].rows == r->graph->values[b].rows && bytes_of(r, a) == bytes_of(r, b);
}

static spey_status check_place(const replay *r, spey_value v)
{
    const spey_placement *place = place_of(r, v);
    uint64_t end;
    if (place->storage < 0 || place->storage >= r->plan->n_values ||
        place_of(r, place->storage)->storage != place->storage)
        return SPEY_FAIL(SPEY_INTERNAL, "plan: %%%d lies in no storage", v);
    const spey_placement *base = place_of(r, place->storage);
    if (place->pitch < r->graph->values[v].cols || place->offset < base->offset ||
        place->offset % bytes_of(r, v) || base->offset % 64)
        return SPEY_FAIL(SPEY_INTERNAL, "plan: %%%d: offset %llu, pitch %lld", v,
                         (unsigned long long)place->offset, (long long)place->pitch);
    if (place->width == SPEY_WIDTH_E4M3 && (place->storage != v || place->pitch % 64))
        return SPEY_FAIL(SPEY_INTERNAL, "plan: %%%d has no place for its scales", v);
    if (!end_of(r, v, &end) || end > r->plan->arena_bytes)
        return SPEY_FAIL(SPEY_INTERNAL, "plan: %%%d ends beyond the arena of %llu bytes", v,
                         (unsigned long long)r->plan->arena_bytes);
    return SPEY_OK;
}

/* ---- what kernels allow: the result `out` (number `o` of the node) over input `in` (number `i`) ---- */

static bool may_overwrite(const replay *r, const spey_node *node, int o, int i)
{
    spey_value out = node->outputs[o], in = node->inputs[i];
    switch (node->op) {
    case SPEY_GRAPH_ADD:
    case SPEY_GRAPH_GLU:
    case SPEY_GRAPH_UNARY:
    case SPEY_GRAPH_NORM: return same_place(r, out, in);
    case SPEY_GRAPH_ROPE: return i == 0 && same_place(r, out, in);
    case SPEY_GRAPH_ADD_NORM:
        if (!same_place(r, out, in)) return false;
        return o == 0 || (i == 0 && !touch(r, node->outputs[0], in)) ||
               (i == 1 && same_place(r, node->inputs[0], in) && !touch(r, node->outputs[0], in));
    case SPEY_GRAPH_ROPE_APPEND:
        return i == 0 && place_of(r, out)->offset == place_of(r, in)->offset &&
               place_of(r, out)->pitch == place_of(r, in)->pitch;
    default: return false;
    }
}

static spey_status check_slice(const replay *r, const spey_node *node)
{
    const spey_placement *view = place_of(r, node->outputs[0]);
    const spey_placement *base = place_of(r, node->inputs[0]);
    uint64_t shift =
        (uint64_t)spey_node_int(node, SPEY_ATTR_BEGIN, 0) * bytes_of(r, node->inputs[0]);
    if (view->offset != base->offset + shift || view->pitch != base->pitch ||
        view->storage != base->storage || view->width != base->width)
        return SPEY_FAIL(SPEY_INTERNAL, "plan: slice %%%d is not a view of %%%d", node->outputs[0],
                         node->inputs[0]);
    return SPEY_OK;
}

/* Output `o` of node `n` is about to be written. */
static spey_status check_write(const replay *r, int n, int o)
{
    const spey_node *node = &r->graph->nodes[n];
    spey_value out = node->outputs[o];
    for (int l = 0; l < r->n_live; l++)
        if (r->last_use[r->live[l]] > n && touch(r, out, r->live[l]))
            return SPEY_FAIL(SPEY_INTERNAL, "plan: node %d (%s) writes %%%d over %%%d, still read",
                             n, spey_graph_op_name(node->op), out, r->live[l]);
    for (int i = 0; i < node->n_inputs; i++)
        if (touch(r, out, node->inputs[i]) && !may_overwrite(r, node, o, i))
            return SPEY_FAIL(SPEY_INTERNAL, "plan: node %d (%s) writes %%%d over its input %%%d", n,
                             spey_graph_op_name(node->op), out, node->inputs[i]);
    for (int other = 0; other < o; other++)
        if (touch(r, out, node->outputs[other]))
            return SPEY_FAIL(SPEY_INTERNAL, "plan: node %d (%s) writes %%%d over %%%d", n,
                             spey_graph_op_name(node->op), out, node->outputs[other]);
    return SPEY_OK;
}

static spey_status step(replay *r, int n)
{
    const spey_node *node = &r->graph->nodes[n];
    for (int o = 0; o < node->n_outputs; o++)
        SPEY_TRY(check_place(r, node->outputs[o]));
    if (node->op == SPEY_GRAPH_SLICE) SPEY_TRY(check_slice(r, node));
    for (int o = 0; o < node->n_outputs && node->op != SPEY_GRAPH_SLICE; o++)
        SPEY_TRY(check_write(r, n, o));
    int kept = 0;
    for (int l = 0; l < r->n_live; l++)
        if (r->last_use[r->live[l]] > n) r->live[kept++] = r->live[l];
    r->n_live = kept;
    for (int o = 0; o < node->n_outputs; o++)
        if (r->last_use[node->outputs[o]] > n) r->live[r->n_live++] = node->outputs[o];
    return SPEY_OK;
}

spey_status spey_memplan_check(const spey_graph *graph, const spey_memplan_limits *limits,
                               const spey_memplan *plan)
{
    if (plan->n_values != graph->n_values)
        return SPEY_FAIL(SPEY_INTERNAL, "plan: %d values, the graph has %d", plan->n_values,
                         graph->n_values);
    replay r = { .graph = graph, .limits = limits, .plan = plan };
    r.last_use = spey_new_array(SPEY_PURPOSE_GRAPH, int32_t, graph->n_values);
    r.live = spey_new_array(SPEY_PURPOSE_GRAPH, spey_value, graph->n_values);
    spey_status status = r.last_use && r.live ? SPEY_OK : SPEY_NOMEM;
    if (!status) {
        for (int n = 0; n < graph->n_nodes; n++)
            for (int i = 0; i < graph->nodes[n].n_inputs; i++)
                r.last_use[graph->nodes[n].inputs[i]] = n;
        r.last_use[graph->output] = graph->n_nodes;
    }
    for (int n = 0; !status && n < graph->n_nodes; n++)
        status = step(&r, n);
    spey_free(r.last_use);
    spey_free(r.live);
    return status;
}
