#include "graph/memplan.h"

#include <stdlib.h>

#include "base/alloc.h"

/* Three steps: when each value is last read; which values share storage; where each storage lies. The third is greedy,
 * into the tightest gap between storages that live at the same time, in several orders of which the best is kept. */

enum { ALIGN = 64 };

typedef struct storage {
    spey_value root;
    int32_t first, last; /* nodes between which it is in use */
    uint64_t bytes, offset, best_offset;
} storage;

typedef struct planner {
    const spey_graph *graph;
    const spey_memplan_limits *limits;
    spey_memplan *plan;
    int32_t *last_use; /* node that reads a value last; its own node when nobody does */
    int64_t *begin;    /* first column of a value inside its storage */
    spey_value *next;  /* chain of the values in one storage, from its root */
    storage *storages;
    storage *output;
    storage **list;      /* all others, in the order that is tried */
    storage **by_offset; /* those placed, in the order of offsets */
    int n_storages, n_list;
} planner;

/* ---- widths ---- */

/* Its result is its input, moved or seen elsewhere: both have one width. */
static bool is_transparent(spey_graph_op op)
{
    return op == SPEY_GRAPH_SLICE || op == SPEY_GRAPH_GATHER || op == SPEY_GRAPH_UNARY;
}

static bool reads_wide(spey_graph_op op)
{
    return op == SPEY_GRAPH_NORM || op == SPEY_GRAPH_ADD || op == SPEY_GRAPH_ADD_NORM ||
           op == SPEY_GRAPH_ROUTE;
}

/* Node n is a product that rounds its input to E4M3. */
static bool is_e4m3_product(const spey_graph *graph, const spey_node *node)
{
    return node->op == SPEY_GRAPH_LINEAR && graph->weights[node->weights[0]].dtype == SPEY_E4M3 &&
           graph->weights[node->weights[0]].input != SPEY_INPUT_AS_IS;
}

static bool writes_wide(const spey_graph *graph, const spey_memplan_limits *limits,
                        const spey_node *node)
{
    if (limits->rounds_inputs && is_e4m3_product(graph, node)) return false;
    return node->op == SPEY_GRAPH_EMBED || node->op == SPEY_GRAPH_LINEAR ||
           node->op == SPEY_GRAPH_NORM || node->op == SPEY_GRAPH_ADD ||
           node->op == SPEY_GRAPH_ADD_NORM;
}

/* Node n is a product whose matrix has 16 or 8 bits. */
static bool is_product(const spey_graph *graph, const spey_node *node)
{
    return node->op == SPEY_GRAPH_LINEAR && graph->weights[node->weights[0]].dtype != SPEY_F32;
}

static bool rounds(spey_graph_op op)
{
    return op == SPEY_GRAPH_NORM || op == SPEY_GRAPH_ADD_NORM || op == SPEY_GRAPH_GLU ||
           op == SPEY_GRAPH_ATTENTION;
}

/* The last result of nodes that round, unless anybody but products reads it. */
static void find_narrow(const spey_graph *graph, spey_placement *values)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        if (rounds(node->op)) values[node->outputs[node->n_outputs - 1]].width = SPEY_WIDTH_INPUT;
        for (int i = 0; i < node->n_inputs && !is_product(graph, node); i++)
            values[node->inputs[i]].width = SPEY_WIDTH_ACTIVATION;
    }
    values[graph->output].width = SPEY_WIDTH_ACTIVATION;
}

/* Backwards: `wide` says that all readers can. Forwards: and that the writer can. */
static void find_wide(const spey_graph *graph, const spey_memplan_limits *limits,
                      spey_placement *values)
{
    const spey_width wide = SPEY_WIDTH_WIDE, other = SPEY_WIDTH_ACTIVATION;
    for (int v = 0; v < graph->n_values; v++)
        values[v].width = wide;
    for (int n = graph->n_nodes - 1; n >= 0; n--) {
        const spey_node *node = &graph->nodes[n];
        bool good = reads_wide(node->op);
        if (is_transparent(node->op)) good = values[node->outputs[0]].width == wide;
        for (int i = 0; i < node->n_inputs && !good; i++)
            values[node->inputs[i]].width = other;
    }
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        for (int o = 0; o < node->n_outputs; o++) {
            spey_placement *out = &values[node->outputs[o]];
            if (spey_graph_is_table(graph, node->outputs[o]))
                out->width = wide;
            else if (is_transparent(node->op))
                out->width = values[node->inputs[0]].width;
            else if (!writes_wide(graph, limits, node))
                out->width = other;
        }
    }
}

/* Two products that round an input in the same way. */
static bool round_alike(const spey_graph *graph, int32_t a, int32_t b)
{
    const spey_weight *x = &graph->weights[a], *y = &graph->weights[b];
    return x->input == y->input &&
           (x->input != SPEY_INPUT_STATIC || x->input_scale == y->input_scale);
}

/* May this node's last result be rounded to E4M3? One scale for a row: not in groups. */
static bool rounds_to_e4m3(const spey_node *node)
{
    return node->op == SPEY_GRAPH_GLU || node->op == SPEY_GRAPH_ATTENTION ||
           ((node->op == SPEY_GRAPH_NORM || node->op == SPEY_GRAPH_ADD_NORM) &&
            spey_node_int(node, SPEY_ATTR_GROUPS, 1) == 1);
}

/* What norms, gates and attention make, when only products that round it alike read it. Attention has a row's heads in
 * many places at once: its largest number is known too late, so it takes a static scale alone. */
static void find_e4m3(const spey_graph *graph, spey_placement *values)
{
    enum { NOBODY = -2 };
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        if (rounds_to_e4m3(node)) values[node->outputs[node->n_outputs - 1]].rounded_for = NOBODY;
        const int32_t weight = is_e4m3_product(graph, node) ? node->weights[0] : -1;
        for (int i = 0; i < node->n_inputs; i++) {
            int32_t *other = &values[node->inputs[i]].rounded_for;
            if (*other == NOBODY)
                *other = weight;
            else if (*other >= 0 && (weight < 0 || !round_alike(graph, *other, weight)))
                *other = -1;
        }
    }
    values[graph->output].rounded_for = -1;
    for (int v = 0; v < graph->n_values; v++) {
        const bool attends = graph->nodes[graph->values[v].node].op == SPEY_GRAPH_ATTENTION;
        if (attends && values[v].rounded_for >= 0 &&
            graph->weights[values[v].rounded_for].input != SPEY_INPUT_STATIC)
            values[v].rounded_for = -1;
        if (values[v].rounded_for >= 0) values[v].width = SPEY_WIDTH_E4M3;
        if (values[v].rounded_for < 0) values[v].rounded_for = -1;
    }
}

void spey_memplan_find_widths(const spey_graph *graph, const spey_memplan_limits *limits,
                              spey_placement *values)
{
    for (int v = 0; v < graph->n_values; v++) {
        values[v].width = spey_graph_is_table(graph, v) ? SPEY_WIDTH_WIDE : SPEY_WIDTH_ACTIVATION;
        values[v].rounded_for = -1;
    }
    if (limits->element_bytes < sizeof(float))
        find_wide(graph, limits, values);
    else if (limits->input_bytes)
        find_narrow(graph, values);
    if (limits->rounds_inputs) find_e4m3(graph, values);
}

/* ---- liveness ---- */

static void find_last_uses(planner *p)
{
    const spey_graph *graph = p->graph;
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        for (int i = 0; i < node->n_outputs; i++)
            p->last_use[node->outputs[i]] = n;
        for (int i = 0; i < node->n_inputs; i++)
            p->last_use[node->inputs[i]] = n;
    }
    p->last_use[graph->output] = graph->n_nodes; /* the caller reads it after the step */
}

/* Devices may compute a product and the glu of its result at once: what the product reads lives until then. */
static void extend_through_glu(planner *p)
{
    const spey_graph *graph = p->graph;
    const spey_node *product = NULL;
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        if (node->op == SPEY_GRAPH_GLU && product && p->last_use[product->inputs[0]] < n)
            p->last_use[product->inputs[0]] = n;
        if (node->op != SPEY_GRAPH_SLICE) product = node->op == SPEY_GRAPH_LINEAR ? node : NULL;
    }
}

/* ---- sharing ---- */

static bool overlap(int64_t a, int64_t a_cols, int64_t b, int64_t b_cols)
{
    return a < b + b_cols && b < a + a_cols;
}

/* May node `n` write over the first `cols` columns of its input `victim`? Yes when nothing that reaches into them is read
 * later, and no other input of the node does but at the very same place. */
static bool dies_here(const planner *p, int n, spey_value victim, int64_t cols)
{
    const spey_node *node = &p->graph->nodes[n];
    spey_value root = p->plan->values[victim].storage;
    int64_t begin = p->begin[victim];
    for (spey_value v = root; v != SPEY_NO_VALUE; v = p->next[v]) {
        int64_t v_cols = p->graph->values[v].cols;
        if (!overlap(begin, cols, p->begin[v], v_cols)) continue;
        if (p->last_use[v] > n) return false;
        bool same = v == victim || (p->begin[v] == begin && v_cols == cols);
        for (int i = 0; i < node->n_inputs; i++)
            if (node->inputs[i] == v && !same) return false;
    }
    return true;
}

/* Put `value` into the storage of `host`, `begin` columns to the right of it. */
static void share(planner *p, spey_value value, spey_value host, int64_t begin)
{
    spey_placement *place = &p->plan->values[value];
    place->storage = p->plan->values[host].storage;
    place->pitch = p->plan->values[host].pitch;
    p->begin[value] = p->begin[host] + begin;
    p->next[value] = p->next[place->storage];
    p->next[place->storage] = value;
}

static void own(planner *p, spey_value value)
{
    spey_placement *place = &p->plan->values[value];
    size_t bytes = spey_memplan_element_bytes(p->limits, place);
    SPEY_ASSERT(bytes > 0);
    int64_t step = spey_graph_is_table(p->graph, value) ? 1 : (int64_t)(ALIGN / bytes);
    place->storage = value;
    place->pitch = (p->graph->values[value].cols + step - 1) / step * step;
    /* Products read several rows at once: an odd number of cache lines apart they lie in different sets of a cache. */
    if (place->width == SPEY_WIDTH_INPUT && place->pitch / step % 2 == 0) place->pitch += step;
    p->begin[value] = 0;
    p->next[value] = SPEY_NO_VALUE;
}

static bool try_share(planner *p, int n, spey_value value, spey_value host)
{
    if (p->plan->values[value].width != p->plan->values[host].width) return false;
    if (!p->limits->in_place || !dies_here(p, n, host, p->graph->values[value].cols)) return false;
    share(p, value, host, 0);
    return true;
}

static void place_add_norm(planner *p, int n)
{
    const spey_node *node = &p->graph->nodes[n];
    spey_value x = node->inputs[0], residual = node->inputs[1];
    spey_value sum = node->outputs[0], normed = node->outputs[1];
    bool shared = try_share(p, n, sum, residual) || try_share(p, n, sum, x);
    if (!shared) own(p, sum);
    bool sum_on_x =
        p->plan->values[sum].storage == p->plan->values[x].storage &&
        overlap(p->begin[sum], p->graph->values[sum].cols, p->begin[x], p->graph->values[x].cols);
    if (sum_on_x || !try_share(p, n, normed, x)) own(p, normed);
}

static void place_outputs(planner *p, int n)
{
    const spey_node *node = &p->graph->nodes[n];
    if (node->n_outputs == 0) return;
    spey_value out = node->outputs[0];
    bool shared = false;
    switch (node->op) {
    case SPEY_GRAPH_SLICE:
        share(p, out, node->inputs[0], spey_node_int(node, SPEY_ATTR_BEGIN, 0));
        return;
    case SPEY_GRAPH_ADD_NORM: place_add_norm(p, n); return;
    case SPEY_GRAPH_ADD:
    case SPEY_GRAPH_GLU:
        shared = try_share(p, n, out, node->inputs[0]) || try_share(p, n, out, node->inputs[1]);
        break;
    case SPEY_GRAPH_UNARY:
    case SPEY_GRAPH_NORM:
    case SPEY_GRAPH_ROPE:
    case SPEY_GRAPH_ROPE_APPEND: shared = try_share(p, n, out, node->inputs[0]); break;
    default: break;
    }
    if (!shared) own(p, out);
}

/* ---- offsets ---- */

static spey_status measure(planner *p, spey_value root, storage *out)
{
    const spey_value_info *info = &p->graph->values[root];
    int64_t rows = info->rows == SPEY_ROWS_OUTPUTS ? p->limits->outputs_max : p->limits->tokens_max;
    size_t bytes = spey_memplan_element_bytes(p->limits, &p->plan->values[root]), scales = 0;
    if (p->plan->values[root].width == SPEY_WIDTH_E4M3 &&
        !spey_mul_size(sizeof(float), (size_t)rows, &scales))
        scales = SIZE_MAX;
    if (!spey_mul_size(bytes, (size_t)p->plan->values[root].pitch, &bytes) ||
        !spey_mul_size(bytes, (size_t)rows, &bytes) || !spey_add_size(bytes, scales, &bytes) ||
        bytes > (size_t)1 << 56)
        return SPEY_FAIL(SPEY_LIMIT, "activations of %lld rows by %lld columns do not fit memory",
                         (long long)rows, (long long)info->cols);
    out->root = root;
    out->bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    out->first = info->node;
    out->last = info->node;
    for (spey_value v = root; v != SPEY_NO_VALUE; v = p->next[v])
        if (p->last_use[v] > out->last) out->last = p->last_use[v];
    return SPEY_OK;
}

/* Orders in which to place storages. None is best for all graphs, all are cheap, so each is tried. */

static int by_root(const storage *x, const storage *y)
{
    return x->root < y->root ? -1 : x->root > y->root;
}

static int larger_first(const void *a, const void *b)
{
    const storage *x = *(storage *const *)a, *y = *(storage *const *)b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return by_root(x, y);
}

static int longer_first(const void *a, const void *b)
{
    const storage *x = *(storage *const *)a, *y = *(storage *const *)b;
    int32_t x_nodes = x->last - x->first, y_nodes = y->last - y->first;
    if (x_nodes != y_nodes) return x_nodes < y_nodes ? 1 : -1;
    return larger_first(a, b);
}

static int earlier_first(const void *a, const void *b)
{
    return by_root(*(storage *const *)a, *(storage *const *)b);
}

static int (*const orders[])(const void *, const void *) = { larger_first, longer_first,
                                                             earlier_first };

/* The tightest gap between placed storages that live while `s` does; else the place behind them. */
static uint64_t best_offset(const planner *p, int n_placed, const storage *s)
{
    uint64_t top = 0, best = UINT64_MAX, best_gap = UINT64_MAX;
    for (int i = 0; i < n_placed; i++) {
        const storage *other = p->by_offset[i];
        if (other->last < s->first || other->first > s->last) continue;
        if (other->offset > top && other->offset - top >= s->bytes &&
            other->offset - top < best_gap) {
            best_gap = other->offset - top;
            best = top;
        }
        if (other->offset + other->bytes > top) top = other->offset + other->bytes;
    }
    return best == UINT64_MAX ? top : best;
}

/* Place all storages in the order of `list`; the end of the last one. */
static uint64_t place_in_order(planner *p)
{
    uint64_t arena_bytes = 0;
    for (int i = 0; i < p->n_list; i++) {
        storage *s = p->list[i];
        s->offset = best_offset(p, i, s);
        if (s->offset + s->bytes > arena_bytes) arena_bytes = s->offset + s->bytes;
        int at = i;
        for (; at > 0 && p->by_offset[at - 1]->offset > s->offset; at--)
            p->by_offset[at] = p->by_offset[at - 1];
        p->by_offset[at] = s;
    }
    return arena_bytes;
}

/* Try the orders until one needs no more than the lower bound; keep the best. The output goes behind everything. */
static void place_storages(planner *p, uint64_t peak_live_bytes)
{
    p->plan->arena_bytes = UINT64_MAX;
    for (size_t o = 0; o < sizeof orders / sizeof *orders; o++) {
        qsort(p->list, (size_t)p->n_list, sizeof *p->list, orders[o]);
        uint64_t arena_bytes = place_in_order(p);
        if (arena_bytes >= p->plan->arena_bytes) continue;
        p->plan->arena_bytes = arena_bytes;
        for (int i = 0; i < p->n_storages; i++)
            p->storages[i].best_offset = p->storages[i].offset;
        if (arena_bytes == peak_live_bytes) break;
    }
    SPEY_ASSERT(p->output);
    p->output->best_offset = p->plan->arena_bytes;
    p->plan->arena_bytes += p->output->bytes;
    p->plan->peak_live_bytes = peak_live_bytes + p->output->bytes;
}

/* The largest sum of storage in use at one node, but for the output's. */
static spey_status find_peak(const planner *p, uint64_t *peak_live_bytes)
{
    size_t n = (size_t)p->graph->n_nodes + 2;
    int64_t *change = spey_new_array(SPEY_PURPOSE_GRAPH, int64_t, n);
    if (!change) return SPEY_NOMEM;
    for (int i = 0; i < p->n_list; i++) {
        change[p->list[i]->first] += (int64_t)p->list[i]->bytes;
        change[p->list[i]->last + 1] -= (int64_t)p->list[i]->bytes;
    }
    int64_t live = 0;
    for (size_t i = 0; i < n; i++) {
        live += change[i];
        if ((uint64_t)live > *peak_live_bytes) *peak_live_bytes = (uint64_t)live;
    }
    spey_free(change);
    return SPEY_OK;
}

/* ---- the whole ---- */

static spey_status make_plan(planner *p)
{
    uint64_t total = 0, peak_live_bytes = 0;
    spey_memplan_find_widths(p->graph, p->limits, p->plan->values);
    find_last_uses(p);
    if (p->limits->rounds_inputs) extend_through_glu(p);
    for (int n = 0; n < p->graph->n_nodes; n++)
        place_outputs(p, n);
    for (spey_value v = 0; v < p->graph->n_values; v++) {
        if (p->plan->values[v].storage != v) continue;
        storage *s = &p->storages[p->n_storages++];
        SPEY_TRY(measure(p, v, s));
        /* All of them side by side must be addressable: then every placement is. */
        total += s->bytes;
        if (total > (uint64_t)1 << 60)
            return SPEY_FAIL(SPEY_LIMIT, "activations exceed 2^60 bytes");
        if (v == p->plan->values[p->graph->output].storage)
            p->output = s;
        else
            p->list[p->n_list++] = s;
    }
    SPEY_TRY(find_peak(p, &peak_live_bytes));
    place_storages(p, peak_live_bytes);
    for (int i = 0; i < p->n_storages; i++) {
        size_t bytes = spey_memplan_element_bytes(p->limits, &p->plan->values[p->storages[i].root]);
        for (spey_value v = p->storages[i].root; v != SPEY_NO_VALUE; v = p->next[v])
            p->plan->values[v].offset = p->storages[i].best_offset + (uint64_t)p->begin[v] * bytes;
    }
    return SPEY_OK;
}

static spey_status check_limits(const spey_memplan_limits *limits)
{
    size_t bytes = limits->element_bytes;
    if (limits->tokens_max < 1 || limits->outputs_max < 1 ||
        (bytes != 1 && bytes != 2 && bytes != 4 && bytes != 8) ||
        (limits->input_bytes && limits->input_bytes != 2))
        return SPEY_FAIL(
            SPEY_INVALID,
            "a plan for %lld tokens, %lld outputs, elements of %zu bytes, inputs of %zu",
            (long long)limits->tokens_max, (long long)limits->outputs_max, bytes,
            limits->input_bytes);
    return SPEY_OK;
}

spey_status spey_memplan_new(const spey_graph *graph, const spey_memplan_limits *limits,
                             spey_memplan **out)
{
    *out = NULL;
    SPEY_TRY(check_limits(limits));
    int n = graph->n_values;
    planner p = { .graph = graph, .limits = limits };
    p.plan = spey_new(SPEY_PURPOSE_GRAPH, spey_memplan);
    if (!p.plan) return SPEY_NOMEM;
    p.plan->n_values = n;
    p.plan->values = spey_new_array(SPEY_PURPOSE_GRAPH, spey_placement, n);
    p.last_use = spey_new_array(SPEY_PURPOSE_GRAPH, int32_t, n);
    p.begin = spey_new_array(SPEY_PURPOSE_GRAPH, int64_t, n);
    p.next = spey_new_array(SPEY_PURPOSE_GRAPH, spey_value, n);
    p.storages = spey_new_array(SPEY_PURPOSE_GRAPH, storage, n);
    p.list = spey_new_array(SPEY_PURPOSE_GRAPH, storage *, n);
    p.by_offset = spey_new_array(SPEY_PURPOSE_GRAPH, storage *, n);
    bool memory =
        p.plan->values && p.last_use && p.begin && p.next && p.storages && p.list && p.by_offset;
    spey_status status = memory ? make_plan(&p) : SPEY_NOMEM;
    spey_free(p.last_use);
    spey_free(p.begin);
    spey_free(p.next);
    spey_free(p.storages);
    spey_free(p.list);
    spey_free(p.by_offset);
    if (status)
        spey_memplan_free(p.plan);
    else
        *out = p.plan;
    return status;
}

void spey_memplan_free(spey_memplan *plan)
{
    if (!plan) return;
    spey_free(plan->values);
    spey_free(plan);
}
