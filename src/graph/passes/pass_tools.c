#include "graph/passes/pass_tools.h"

#include <stdio.h>
#include <string.h>

spey_status spey_pass_append(spey_graph *graph, const spey_node *node, spey_value *out)
{
    int32_t index;
    SPEY_TRY(spey_graph_add_node(graph, node, &index));
    *out = graph->nodes[index].outputs[0];
    return SPEY_OK;
}

spey_node *spey_pass_find_attention(const spey_graph *graph, const spey_node *append)
{
    spey_node *found = NULL;
    for (int n = 0; n < graph->n_nodes; n++) {
        spey_node *node = &graph->nodes[n];
        if (node->op != SPEY_GRAPH_ATTENTION ||
            node->attrs[SPEY_ATTR_CACHE].i != append->attrs[SPEY_ATTR_CACHE].i ||
            node->attrs[SPEY_ATTR_LAYER].i != append->attrs[SPEY_ATTR_LAYER].i)
            continue;
        if (found) return NULL;
        found = node;
    }
    return found;
}

spey_value spey_pass_strip(const spey_graph *graph, spey_value value)
{
    for (;;) {
        const spey_node *node = spey_graph_producer(graph, value);
        if (node->op != SPEY_GRAPH_NORM && node->op != SPEY_GRAPH_ROPE &&
            node->op != SPEY_GRAPH_UNARY)
            return value;
        value = node->inputs[0];
    }
}

bool spey_pass_is_activation(const spey_node *node)
{
    return node->op == SPEY_GRAPH_UNARY && node->attrs_set == (uint64_t)1 << SPEY_ATTR_ACT;
}

static int count_weight_uses(const spey_graph *graph, int32_t weight)
{
    int uses = 0;
    for (int n = 0; n < graph->n_nodes; n++)
        for (int w = 0; w < graph->nodes[n].n_weights; w++)
            uses +=
                graph->nodes[n].op != SPEY_GRAPH_REMOVED && graph->nodes[n].weights[w] == weight;
    return uses;
}

/* Weight `w` of all nodes as one; `ending` makes its name from that of the first. False: they do not fit together. */
static bool describe_fold(const spey_graph *graph, const spey_node *const *linears, int n, int w,
                          spey_weight *out)
{
    const spey_weight *first = &graph->weights[linears[0]->weights[w]];
    *out = *first;
    out->source = (spey_weight_source){ 0 };
    out->dims[0] = 0;
    for (int i = 0; i < n; i++) {
        int32_t index = linears[i]->weights[w];
        const spey_weight *part = &graph->weights[index];
        if (part->n_parts || part->dtype != first->dtype || part->cut != first->cut ||
            count_weight_uses(graph, index) != 1)
            return false;
        out->parts[out->n_parts++] = index;
        out->dims[0] += part->dims[0];
    }
    return true;
}

/* "layer.0.attn.q.bias" and "qkv" give "layer.0.attn.qkv.bias". False: it is too long, or taken. */
static bool name_fold(const spey_graph *graph, const char *matrix, const char *name,
                      const char *ending, char out[SPEY_NAME_BYTES_MAX])
{
    const char *dot = strrchr(matrix, '.');
    int keep = dot ? (int)(dot + 1 - matrix) : 0;
    int n = snprintf(out, SPEY_NAME_BYTES_MAX, "%.*s%s%s", keep, matrix, name, ending);
    return n < SPEY_NAME_BYTES_MAX && spey_graph_find_weight(graph, out) < 0;
}

static bool can_fold(const spey_node *const *linears, int n)
{
    for (int i = 0; i < n; i++) {
        if (linears[i]->op != SPEY_GRAPH_LINEAR || linears[i]->attrs_set ||
            linears[i]->inputs[0] != linears[0]->inputs[0] ||
            linears[i]->n_weights != linears[0]->n_weights)
            return false;
        for (int j = 0; j < i; j++)
            if (linears[j] == linears[i]) return false;
    }
    return true;
}

/* The values' readers read columns of `whole`, side by side, instead. */
static spey_status replace_by_slices(spey_graph *graph, const spey_value *values, int n,
                                     spey_value whole)
{
    int64_t begin = 0;
    for (int i = 0; i < n; i++) {
        spey_value part;
        spey_node slice = { .op = SPEY_GRAPH_SLICE, .n_inputs = 1, .inputs = { whole } };
        spey_node_set_int(&slice, SPEY_ATTR_BEGIN, begin);
        spey_node_set_int(&slice, SPEY_ATTR_COLS, graph->values[values[i]].cols);
        begin += graph->values[values[i]].cols;
        SPEY_TRY(spey_pass_append(graph, &slice, &part));
        spey_graph_replace_uses(graph, values[i], part);
    }
    return SPEY_OK;
}

spey_status spey_pass_fold_linears(spey_graph *graph, const spey_value *values, int n,
                                   const char *name, bool *folded)
{
    static const char *const endings[] = { "", ".bias" };
    const spey_node *linears[SPEY_WEIGHT_PARTS_MAX] = { NULL };
    *folded = false;
    SPEY_ASSERT(n > 0 && n <= SPEY_WEIGHT_PARTS_MAX);
    for (int i = 0; i < n; i++)
        linears[i] = spey_graph_producer(graph, values[i]);
    if (!can_fold(linears, n)) return SPEY_OK;

    spey_node node = *linears[0];
    spey_weight weights[SPEY_NODE_WEIGHTS_MAX] = { 0 };
    char names[SPEY_NODE_WEIGHTS_MAX][SPEY_NAME_BYTES_MAX];
    const char *matrix = graph->weights[node.weights[0]].name;
    SPEY_ASSERT(node.n_weights <= 2);
    for (int w = 0; w < node.n_weights; w++) {
        if (!describe_fold(graph, linears, n, w, &weights[w]) ||
            !name_fold(graph, matrix, name, endings[w], names[w]))
            return SPEY_OK;
        weights[w].name = names[w];
    }
    for (int w = 0; w < node.n_weights; w++)
        SPEY_TRY(spey_graph_add_weight(graph, &weights[w], &node.weights[w]));
    spey_value whole;
    SPEY_TRY(spey_pass_append(graph, &node, &whole));
    *folded = true;
    return replace_by_slices(graph, values, n, whole);
}
