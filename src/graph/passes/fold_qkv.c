/* The three projections of attention read the same rows: as one matrix they are one product, with one pass over x and
 * enough columns to fill a machine.
 *
 *   %2 = linear(%1) q              %2 = linear(%1) qkv        qkv = q over k over v
 *   %3 = linear(%1) k        →     %3 = slice(%2)             views, no copies
 *   %4 = linear(%1) v              %4 = slice(%2)
 *                                  %5 = slice(%2)
 *
 * Found from the cache: K and V are what kv_append stores, Q is what the attention over that layer reads, each seen
 * through norms and ropes. */
#include "graph/passes/pass_tools.h"

spey_status spey_pass_fold_qkv(spey_graph *graph, int *n_changes)
{
    int n_nodes = graph->n_nodes;
    for (int n = 0; n < n_nodes; n++) {
        const spey_node *append = &graph->nodes[n];
        if (append->op != SPEY_GRAPH_KV_APPEND) continue;
        const spey_node *attention = spey_pass_find_attention(graph, append);
        if (!attention) continue;
        const spey_value values[] = { spey_pass_strip(graph, attention->inputs[0]),
                                      spey_pass_strip(graph, append->inputs[0]),
                                      spey_pass_strip(graph, append->inputs[1]) };
        bool folded;
        SPEY_TRY(spey_pass_fold_linears(graph, values, 3, "qkv", &folded));
        *n_changes += folded;
    }
    return spey_graph_clean(graph);
}
