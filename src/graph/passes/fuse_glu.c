/* Models draw act(gate) * up as two nodes; the glu kernel does both while the values are in registers.
 *
 *   %3 = unary(%1) {act=silu}        %3 = glu(%1, %2) {act=silu}
 *   %4 = glu(%3, %2)            →
 *
 * The activation must have no other reader. The product commutes, so act may stand on either side. */
#include "graph/passes/pass_tools.h"

/* Is input `i` of the glu an activation that it alone reads? */
static bool fits(const spey_graph *graph, const spey_node *glu, int i)
{
    return spey_pass_is_activation(spey_graph_producer(graph, glu->inputs[i])) &&
           spey_graph_only_user(graph, glu->inputs[i]) >= 0;
}

spey_status spey_pass_fuse_glu(spey_graph *graph, int *n_changes)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        spey_node *glu = &graph->nodes[n];
        if (glu->op != SPEY_GRAPH_GLU || glu->attrs_set) continue;
        int gate = fits(graph, glu, 0) ? 0 : 1;
        if (!fits(graph, glu, gate)) continue;
        const spey_node *unary = spey_graph_producer(graph, glu->inputs[gate]);
        spey_value up = glu->inputs[1 - gate];
        glu->inputs[0] = unary->inputs[0];
        glu->inputs[1] = up;
        spey_node_set_text(glu, SPEY_ATTR_ACT, unary->attrs[SPEY_ATTR_ACT].s);
        ++*n_changes;
    }
    return spey_graph_clean(graph);
}
