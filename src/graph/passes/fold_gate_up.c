/* The two projections of a gated MLP read the same rows and become one product.
 *
 *   %2 = linear(%1) gate              %2 = linear(%1) gate_up
 *   %3 = linear(%1) up          →     %3 = slice(%2)
 *   %4 = unary(%2)                    %4 = slice(%2)
 *   %5 = glu(%4, %3)                  %5 = unary(%3)
 *                                     %6 = glu(%5, %4) */
#include "graph/passes/pass_tools.h"

spey_status spey_pass_fold_gate_up(spey_graph *graph, int *n_changes)
{
    int n_nodes = graph->n_nodes;
    for (int n = 0; n < n_nodes; n++) {
        const spey_node *glu = &graph->nodes[n];
        if (glu->op != SPEY_GRAPH_GLU) continue;
        const spey_value values[] = { spey_pass_strip(graph, glu->inputs[0]),
                                      spey_pass_strip(graph, glu->inputs[1]) };
        bool folded;
        SPEY_TRY(spey_pass_fold_linears(graph, values, 2, "gate_up", &folded));
        *n_changes += folded;
    }
    return spey_graph_clean(graph);
}
