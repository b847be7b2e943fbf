#include "random_graph.h"

#include <stdio.h>

#include "base/rng.h"

enum { LAYERS = 4, HEAD_DIM = 4, ROTARY = 4, MAX_LIVE = 256 };

typedef struct maker {
    spey_graph *graph;
    spey_rng rng;
    spey_value table;
    spey_value values[MAX_LIVE]; /* token rows, to choose from; late ones are chosen more */
    int n_values;
    int n_weights, n_layers;
} maker;

static int64_t below(maker *m, int64_t n)
{
    return (int64_t)spey_rng_below(&m->rng, (uint64_t)n);
}

static int64_t cols_of(const maker *m, spey_value value)
{
    return m->graph->values[value].cols;
}

static spey_value pick(maker *m)
{
    int64_t back =
        below(m, 2) ? below(m, m->n_values < 4 ? m->n_values : 4) : below(m, m->n_values);
    return m->values[m->n_values - 1 - back];
}

/* A value with as many columns as `value`: there is at least itself. */
static spey_value pick_like(maker *m, spey_value value)
{
    for (int tries = 0; tries < 20; tries++) {
        spey_value other = pick(m);
        if (cols_of(m, other) == cols_of(m, value)) return other;
    }
    return value;
}

static spey_value append(maker *m, const spey_node *node)
{
    int32_t index;
    spey_status status = spey_graph_add_node(m->graph, node, &index);
    if (status) fprintf(stderr, "random graph: %s\n", spey_last_error());
    SPEY_ASSERT(status == SPEY_OK);
    spey_value out = m->graph->nodes[index].outputs[0];
    if (out >= 0 && m->graph->values[out].rows == SPEY_ROWS_TOKENS && m->n_values < MAX_LIVE)
        m->values[m->n_values++] = out;
    return out;
}

static int32_t add_weight(maker *m, int64_t rows, int64_t cols)
{
    char name[32];
    int32_t index = -1;
    snprintf(name, sizeof name, "w.%d", m->n_weights++);
    spey_weight weight = {
        .name = name, .dtype = SPEY_F32, .n_dims = cols ? 2 : 1, .dims = { rows, cols }
    };
    SPEY_ASSERT(spey_graph_add_weight(m->graph, &weight, &index) == SPEY_OK);
    return index;
}

static spey_node node_of(spey_graph_op op, spey_value x)
{
    return (spey_node){ .op = op, .n_inputs = 1, .inputs = { x } };
}

/* ---- single ops ---- */

static spey_value linear(maker *m, spey_value x, int64_t outputs, bool bias)
{
    spey_node node = node_of(SPEY_GRAPH_LINEAR, x);
    node.weights[node.n_weights++] = add_weight(m, outputs, cols_of(m, x));
    if (bias) node.weights[node.n_weights++] = add_weight(m, outputs, 0);
    return append(m, &node);
}

static spey_value norm(maker *m, spey_value x)
{
    spey_node node = node_of(SPEY_GRAPH_NORM, x);
    int64_t cols = cols_of(m, x), groups = cols % 2 == 0 && below(m, 3) == 0 ? 2 : 1;
    spey_node_set_text(&node, SPEY_ATTR_KIND, below(m, 2) ? "rms" : "layer");
    spey_node_set_number(&node, SPEY_ATTR_EPS, 1e-3);
    if (groups > 1) spey_node_set_int(&node, SPEY_ATTR_GROUPS, groups);
    for (int64_t n = below(m, 3); n > 0; n--)
        node.weights[node.n_weights++] = add_weight(m, cols / groups, 0);
    return append(m, &node);
}

static spey_value unary(maker *m, spey_value x)
{
    static const char *const acts[] = { "silu", "gelu", "gelu_tanh", "relu", "tanh", "sigmoid" };
    spey_node node = node_of(SPEY_GRAPH_UNARY, x);
    spey_node_set_text(&node, SPEY_ATTR_ACT, acts[below(m, 6)]);
    if (below(m, 4) == 0) spey_node_set_number(&node, SPEY_ATTR_SCALE, 0.5);
    if (below(m, 4) == 0) spey_node_set_number(&node, SPEY_ATTR_SOFTCAP, 3);
    return append(m, &node);
}

static spey_value add(maker *m, spey_value x, spey_value y)
{
    spey_node node = { .op = SPEY_GRAPH_ADD, .n_inputs = 2, .inputs = { x, y } };
    if (below(m, 4) == 0) spey_node_set_number(&node, SPEY_ATTR_SCALE, 0.25);
    return append(m, &node);
}

/* Products are normed at once, lest numbers grow without bound. */
static spey_value glu(maker *m, spey_value x, spey_value y)
{
    spey_node node = { .op = SPEY_GRAPH_GLU, .n_inputs = 2, .inputs = { x, y } };
    if (below(m, 4) == 0) spey_node_set_text(&node, SPEY_ATTR_ACT, "silu");
    return norm(m, append(m, &node));
}

static spey_value slice_of(maker *m, spey_value x, int64_t begin, int64_t cols)
{
    spey_node node = node_of(SPEY_GRAPH_SLICE, x);
    spey_node_set_int(&node, SPEY_ATTR_BEGIN, begin);
    spey_node_set_int(&node, SPEY_ATTR_COLS, cols);
    return append(m, &node);
}

static spey_value slice(maker *m, spey_value x)
{
    int64_t all = cols_of(m, x), cols = below(m, 3) ? (all + 1) / 2 : 1 + below(m, all);
    return slice_of(m, x, below(m, all - cols + 1), cols);
}

static spey_value rope(maker *m, spey_value x)
{
    if (cols_of(m, x) % HEAD_DIM) return x;
    spey_node node = { .op = SPEY_GRAPH_ROPE, .n_inputs = 2, .inputs = { x, m->table } };
    spey_node_set_int(&node, SPEY_ATTR_HEADS, cols_of(m, x) / HEAD_DIM);
    spey_node_set_int(&node, SPEY_ATTR_K_DIM, HEAD_DIM);
    spey_node_set_int(&node, SPEY_ATTR_ROTARY, ROTARY);
    if (below(m, 4) == 0) spey_node_set_text(&node, SPEY_ATTR_PAIRING, "interleaved");
    return append(m, &node);
}

/* ---- blocks ---- */

static void attention(maker *m, spey_value x)
{
    if (m->n_layers == LAYERS) return;
    bool bias = below(m, 2), fused = below(m, 3) == 0;
    spey_value q, k, v, qkv = fused ? linear(m, x, 4 * HEAD_DIM, bias) : SPEY_NO_VALUE;
    q = fused ? slice_of(m, qkv, 0, 2 * HEAD_DIM) : linear(m, x, 2 * HEAD_DIM, bias);
    k = fused ? slice_of(m, qkv, 2 * HEAD_DIM, HEAD_DIM) : linear(m, x, HEAD_DIM, bias);
    v = fused ? slice_of(m, qkv, 3 * HEAD_DIM, HEAD_DIM) : linear(m, x, HEAD_DIM, bias);
    if (below(m, 4) == 0) k = norm(m, k);
    if (below(m, 5)) q = rope(m, q);
    if (below(m, 5)) k = rope(m, k);
    spey_node keep = { .op = SPEY_GRAPH_KV_APPEND, .n_inputs = 2, .inputs = { k, v } };
    spey_node node = node_of(SPEY_GRAPH_ATTENTION, q);
    for (int i = 0; i < 2; i++) {
        spey_node *both = i ? &keep : &node;
        spey_node_set_int(both, SPEY_ATTR_CACHE, 0);
        spey_node_set_int(both, SPEY_ATTR_LAYER, m->n_layers);
        spey_node_set_int(both, SPEY_ATTR_HEADS, i ? 1 : 2);
        spey_node_set_int(both, SPEY_ATTR_K_DIM, HEAD_DIM);
        spey_node_set_int(both, SPEY_ATTR_V_DIM, HEAD_DIM);
    }
    spey_node_set_int(&node, SPEY_ATTR_KV_HEADS, 1);
    spey_node_set_number(&node, SPEY_ATTR_SCALE, 0.5);
    if (below(m, 3) == 0) spey_node_set_int(&node, SPEY_ATTR_WINDOW, 3);
    m->n_layers++;
    append(m, &keep);
    if (below(m, 3) == 0) unary(m, pick(m)); /* something between */
    add(m, x, linear(m, append(m, &node), cols_of(m, x), false));
}

static void mlp(maker *m, spey_value x)
{
    int64_t inner = 4 + below(m, 12);
    bool bias = below(m, 2);
    spey_value gate = linear(m, x, inner, bias), up = linear(m, x, inner, bias);
    spey_value act = unary(m, gate);
    spey_value product = below(m, 2) ? glu(m, act, up) : glu(m, up, act);
    norm(m, add(m, x, linear(m, product, cols_of(m, x), bias)));
}

static int32_t add_stack(maker *m, int64_t n, int64_t rows, int64_t cols)
{
    char name[32];
    int32_t index = -1;
    snprintf(name, sizeof name, "s.%d", m->n_weights++);
    spey_weight weight = {
        .name = name, .dtype = SPEY_F32, .n_dims = 3, .dims = { n, rows, cols }
    };
    SPEY_ASSERT(spey_graph_add_weight(m->graph, &weight, &index) == SPEY_OK);
    return index;
}

static spey_value experts(maker *m, spey_value x, spey_value routing, int64_t rows, bool sum)
{
    int64_t n = cols_of(m, m->graph->nodes[m->graph->values[routing].node].inputs[0]);
    int64_t slots = cols_of(m, routing) / 2, cols = cols_of(m, x);
    spey_node node = { .op = SPEY_GRAPH_EXPERT_LINEAR, .n_inputs = 2, .inputs = { x, routing } };
    bool pieces = cols % slots == 0 && below(m, 2);
    node.weights[node.n_weights++] = add_stack(m, n, rows, pieces ? cols / slots : cols);
    if (below(m, 2)) node.weights[node.n_weights++] = add_weight(m, n, rows);
    if (sum) spey_node_set_int(&node, SPEY_ATTR_SUM, 1);
    return append(m, &node);
}

static void moe(maker *m, spey_value x)
{
    int64_t n = 2 + below(m, 4), inner = 2 + below(m, 6);
    spey_node route = node_of(SPEY_GRAPH_ROUTE, linear(m, norm(m, x), n, true));
    spey_node_set_int(&route, SPEY_ATTR_TOP_K, 1 + below(m, n));
    if (below(m, 2)) spey_node_set_int(&route, SPEY_ATTR_NORMALISE, 1);
    if (below(m, 2)) spey_node_set_text(&route, SPEY_ATTR_SCORING, "sigmoid");
    spey_value routing = append(m, &route);
    m->n_values--; /* no op but expert_linear may read it */
    spey_value up = experts(m, x, routing, inner, false);
    norm(m, add(m, x, experts(m, unary(m, up), routing, cols_of(m, x), true)));
}

static void concat(maker *m, spey_value x, spey_value y)
{
    spey_node node = { .op = SPEY_GRAPH_CONCAT, .n_inputs = 2, .inputs = { x, y } };
    int64_t heads = cols_of(m, x) % 2 == 0 ? 2 : 1;
    if (cols_of(m, x) + heads * cols_of(m, y) > 64) return;
    spey_node_set_int(&node, SPEY_ATTR_HEADS, heads);
    if (cols_of(m, y) % heads || below(m, 2)) spey_node_set_int(&node, SPEY_ATTR_SHARED, 1);
    append(m, &node);
}

static void random_node(maker *m)
{
    spey_value x = pick(m);
    switch (below(m, 12)) {
    case 0: attention(m, x); break;
    case 1: mlp(m, x); break;
    case 2: norm(m, x); break;
    case 3: linear(m, x, 1 + below(m, 20), below(m, 2)); break;
    case 4: unary(m, x); break;
    case 5: add(m, x, pick_like(m, x)); break;
    case 6: glu(m, x, pick_like(m, x)); break;
    case 7: slice(m, x); break;
    case 8: rope(m, x); break;
    case 9: moe(m, x); break;
    case 10: concat(m, x, pick(m)); break;
    default: norm(m, add(m, x, pick_like(m, x))); break;
    }
}

/* The logits depend on several values, so that much of the graph is in use. */
static void finish(maker *m)
{
    spey_value logits = SPEY_NO_VALUE;
    for (int i = 0; i < 3; i++) {
        spey_node gather = node_of(SPEY_GRAPH_GATHER, norm(m, pick(m)));
        spey_value head = linear(m, append(m, &gather), 7, false);
        logits = i ? add(m, logits, head) : head;
    }
    m->graph->output = logits;
    SPEY_ASSERT(spey_graph_check(m->graph) == SPEY_OK);
}

spey_graph *random_graph(uint64_t seed)
{
    maker m = { .rng = { .seed = seed } };
    int cache;
    spey_cache_group group = { .layers = LAYERS, .heads = 1, .k_dim = HEAD_DIM, .v_dim = HEAD_DIM };
    SPEY_ASSERT(spey_graph_new(&m.graph) == SPEY_OK);
    SPEY_ASSERT(spey_graph_add_cache(m.graph, &group, &cache) == SPEY_OK);
    spey_node embed = { .op = SPEY_GRAPH_EMBED, .n_weights = 1 };
    embed.weights[0] = add_weight(&m, 10, 4 + 4 * below(&m, 4));
    append(&m, &embed);
    spey_node table = { .op = SPEY_GRAPH_ROPE_TABLE, .n_weights = 1 };
    table.weights[0] = add_weight(&m, ROTARY / 2, 0);
    spey_node_set_int(&table, SPEY_ATTR_ROTARY, ROTARY);
    m.table = append(&m, &table);
    m.n_values--; /* no op but rope may read it */
    for (int64_t n = 3 + below(&m, 25); n > 0; n--)
        random_node(&m);
    finish(&m);
    return m.graph;
}
