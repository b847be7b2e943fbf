/* The residual sum is normed at once, while the row is in cache: one pass over memory in place of three.
 *
 *   %3 = add(%1, %2)              %3, %4 = add_norm(%2, %1) w      sum, normed
 *   %4 = norm(%3) w          →
 *   %9 = add(%3, %8)              %9 = add(%3, %8)                 the sum goes on as the residual
 *
 * The branch is x, the stream is the residual: the sum then lies in place of the stream. A sum that several norms read is
 * fused with the first. A scaled sum stays. */
#include "graph/passes/pass_tools.h"

static const spey_node *first_norm_of(const spey_graph *graph, spey_value sum)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        if (node->op == SPEY_GRAPH_NORM && node->inputs[0] == sum) return node;
    }
    return NULL;
}

spey_status spey_pass_fuse_add_norm(spey_graph *graph, int *n_changes)
{
    int n_nodes = graph->n_nodes;
    for (int n = 0; n < n_nodes; n++) {
        spey_node add = graph->nodes[n];
        if (add.op != SPEY_GRAPH_ADD || add.attrs_set) continue;
        const spey_node *norm = first_norm_of(graph, add.outputs[0]);
        if (!norm) continue;
        spey_node fused = *norm;
        spey_value normed = norm->outputs[0];
        fused.op = SPEY_GRAPH_ADD_NORM;
        fused.n_inputs = 2;
        fused.inputs[0] = add.inputs[1];
        fused.inputs[1] = add.inputs[0];
        int32_t index;
        SPEY_TRY(spey_graph_add_node(graph, &fused, &index));
        spey_graph_replace_uses(graph, add.outputs[0], graph->nodes[index].outputs[0]);
        spey_graph_replace_uses(graph, normed, graph->nodes[index].outputs[1]);
        ++*n_changes;
    }
    return spey_graph_clean(graph);
}
