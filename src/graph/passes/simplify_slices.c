/* Slices cost nothing at run time, but they hide shapes and hold storage alive.
 *
 *   %2 = slice(%1) {begin=4 cols=8}         %2 = slice(%1) {begin=6 cols=2}
 *   %3 = slice(%2) {begin=2 cols=2}    →    readers of %4 read %1
 *   %4 = slice(%1) all of it */
#include "graph/passes/pass_tools.h"

spey_status spey_pass_simplify_slices(spey_graph *graph, int *n_changes)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        spey_node *slice = &graph->nodes[n];
        if (slice->op != SPEY_GRAPH_SLICE) continue;
        /* Nodes are in order: a base that is a slice has been simplified, so one step is enough. */
        const spey_node *base = spey_graph_producer(graph, slice->inputs[0]);
        if (base->op == SPEY_GRAPH_SLICE) {
            slice->inputs[0] = base->inputs[0];
            slice->attrs[SPEY_ATTR_BEGIN].i += base->attrs[SPEY_ATTR_BEGIN].i;
            ++*n_changes;
        }
        if (slice->attrs[SPEY_ATTR_COLS].i == graph->values[slice->inputs[0]].cols) {
            spey_graph_replace_uses(graph, slice->outputs[0], slice->inputs[0]);
            ++*n_changes;
        }
    }
    return spey_graph_clean(graph);
}
