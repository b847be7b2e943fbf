/* An activation right behind a linear moves into the end of its product, where the bias (if any) already is.
 *
 *   %2 = linear(%1) up up.bias            %2 = linear(%1) up up.bias {act=gelu}
 *   %3 = unary(%2) {act=gelu}        →
 *
 * The linear's rows must have no other reader. */
#include "graph/passes/pass_tools.h"

spey_status spey_pass_fuse_bias_activation(spey_graph *graph, int *n_changes)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *unary = &graph->nodes[n];
        if (!spey_pass_is_activation(unary)) continue;
        spey_node *linear = spey_graph_producer(graph, unary->inputs[0]);
        if (linear->op != SPEY_GRAPH_LINEAR || linear->attrs_set ||
            spey_graph_only_user(graph, unary->inputs[0]) < 0)
            continue;
        spey_node_set_text(linear, SPEY_ATTR_ACT, unary->attrs[SPEY_ATTR_ACT].s);
        spey_graph_replace_uses(graph, unary->outputs[0], linear->outputs[0]);
        ++*n_changes;
    }
    return spey_graph_clean(graph);
}
