/* Logits are wanted of few rows, of a prompt's usually one. What the last layer does behind its attention is done for those
 * rows alone.
 *
 *   %3 = linear(%2) down               %3 = gather(%2)
 *   %4 = add(%1, %3)            →      %4 = linear(%3) down
 *   %5 = gather(%4)                    %5 = gather(%1)
 *                                      %6 = add(%5, %4)
 *
 * A gather moves before the op that makes its rows while that op works row by row and nothing else reads the result;
 * attention and what fills caches need every row. */
#include "graph/passes/pass_tools.h"

static bool is_row_wise(spey_graph_op op)
{
    switch (op) {
    case SPEY_GRAPH_NORM:
    case SPEY_GRAPH_LINEAR:
    case SPEY_GRAPH_UNARY:
    case SPEY_GRAPH_ADD:
    case SPEY_GRAPH_GLU:
    case SPEY_GRAPH_SLICE: return true;
    default: return false;
    }
}

/* The gather of `value`, a new one if there is none. */
static spey_status gathered(spey_graph *graph, spey_value value, spey_value *out)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        if (node->op == SPEY_GRAPH_GATHER && node->inputs[0] == value) {
            *out = node->outputs[0];
            return SPEY_OK;
        }
    }
    spey_node gather = { .op = SPEY_GRAPH_GATHER, .n_inputs = 1, .inputs = { value } };
    return spey_pass_append(graph, &gather, out);
}

/* Exchange gather `n` with the op before it. */
static spey_status hoist(spey_graph *graph, int32_t n)
{
    spey_value before = graph->nodes[n].inputs[0], after = graph->nodes[n].outputs[0], moved;
    spey_node op = *spey_graph_producer(graph, before);
    spey_graph_remove_node(graph, n);
    spey_graph_remove_node(graph, graph->values[before].node);
    for (int i = 0; i < op.n_inputs; i++)
        SPEY_TRY(gathered(graph, op.inputs[i], &op.inputs[i]));
    SPEY_TRY(spey_pass_append(graph, &op, &moved));
    spey_graph_replace_uses(graph, after, moved);
    return SPEY_OK;
}

spey_status spey_pass_hoist_gather(spey_graph *graph, int *n_changes)
{
    /* New gathers go to the end of the list, where the loop comes to them; one that others still shared is met again after
     * they have gone. */
    for (int before = -1; before != *n_changes;) {
        before = *n_changes;
        for (int n = 0; n < graph->n_nodes; n++) {
            const spey_node *gather = &graph->nodes[n];
            if (gather->op != SPEY_GRAPH_GATHER ||
                spey_graph_only_user(graph, gather->inputs[0]) != n ||
                !is_row_wise(spey_graph_producer(graph, gather->inputs[0])->op))
                continue;
            SPEY_TRY(hoist(graph, n));
            ++*n_changes;
        }
        SPEY_TRY(spey_graph_clean(graph));
    }
    return SPEY_OK;
}
