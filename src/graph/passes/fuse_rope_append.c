/* Rotating Q, rotating K and storing K and V read one fused row; one kernel does all three and K never goes to memory
 * outside the cache.
 *
 *   %2 = slice(%1)  Q                   %5 = rope_append(%1, %0)
 *   %3 = slice(%1)  K
 *   %4 = slice(%1)  V
 *   %5 = rope(%2, %0)              →
 *   %6 = rope(%3, %0)
 *   kv_append(%6, %4)
 *   %7 = attention(%5)                  %7 = attention(%5)
 *
 * Wants exactly [Q heads | K heads | V heads], K and V heads of one size, one table. */
#include "graph/passes/pass_tools.h"

/* Is `value` the slice [begin, begin + cols) of *base? SPEY_NO_VALUE in *base takes any. */
static bool is_slice(const spey_graph *graph, spey_value value, int64_t begin, spey_value *base)
{
    const spey_node *slice = spey_graph_producer(graph, value);
    if (slice->op != SPEY_GRAPH_SLICE || slice->attrs[SPEY_ATTR_BEGIN].i != begin) return false;
    if (*base == SPEY_NO_VALUE) *base = slice->inputs[0];
    return *base == slice->inputs[0];
}

static bool same_rotation(const spey_node *a, const spey_node *b)
{
    return a->op == SPEY_GRAPH_ROPE && b->op == SPEY_GRAPH_ROPE && a->inputs[1] == b->inputs[1] &&
           a->attrs[SPEY_ATTR_ROTARY].i == b->attrs[SPEY_ATTR_ROTARY].i &&
           a->attrs[SPEY_ATTR_K_DIM].i == b->attrs[SPEY_ATTR_K_DIM].i &&
           spey_node_text(a, SPEY_ATTR_PAIRING, NULL) == spey_node_text(b, SPEY_ATTR_PAIRING, NULL);
}

/* The node that takes the place of `append` and the two ropes; false when the pattern does not hold. */
static bool match(const spey_graph *graph, const spey_node *append, spey_node *fused,
                  spey_value *rotated_q)
{
    const spey_node *attention = spey_pass_find_attention(graph, append);
    if (!attention) return false;
    const spey_node *q = spey_graph_producer(graph, attention->inputs[0]);
    const spey_node *k = spey_graph_producer(graph, append->inputs[0]);
    int64_t heads = attention->attrs[SPEY_ATTR_HEADS].i,
            kv_heads = append->attrs[SPEY_ATTR_HEADS].i;
    int64_t k_dim = append->attrs[SPEY_ATTR_K_DIM].i;
    spey_value qkv = SPEY_NO_VALUE;
    if (!same_rotation(q, k) || append->attrs[SPEY_ATTR_V_DIM].i != k_dim ||
        q->attrs[SPEY_ATTR_K_DIM].i != k_dim || !is_slice(graph, q->inputs[0], 0, &qkv) ||
        !is_slice(graph, k->inputs[0], heads * k_dim, &qkv) ||
        !is_slice(graph, append->inputs[1], (heads + kv_heads) * k_dim, &qkv) ||
        graph->values[qkv].cols != (heads + 2 * kv_heads) * k_dim)
        return false;
    *fused =
        (spey_node){ .op = SPEY_GRAPH_ROPE_APPEND, .n_inputs = 2, .inputs = { qkv, q->inputs[1] } };
    spey_node_set_int(fused, SPEY_ATTR_CACHE, append->attrs[SPEY_ATTR_CACHE].i);
    spey_node_set_int(fused, SPEY_ATTR_LAYER, append->attrs[SPEY_ATTR_LAYER].i);
    spey_node_set_int(fused, SPEY_ATTR_HEADS, heads);
    spey_node_set_int(fused, SPEY_ATTR_KV_HEADS, kv_heads);
    spey_node_set_int(fused, SPEY_ATTR_K_DIM, k_dim);
    spey_node_set_int(fused, SPEY_ATTR_ROTARY, q->attrs[SPEY_ATTR_ROTARY].i);
    const char *pairing = spey_node_text(q, SPEY_ATTR_PAIRING, NULL);
    if (pairing) spey_node_set_text(fused, SPEY_ATTR_PAIRING, pairing);
    *rotated_q = q->outputs[0];
    return true;
}

spey_status spey_pass_fuse_rope_append(spey_graph *graph, int *n_changes)
{
    int n_nodes = graph->n_nodes;
    for (int n = 0; n < n_nodes; n++) {
        spey_node fused;
        spey_value rotated_q, q_out;
        if (graph->nodes[n].op != SPEY_GRAPH_KV_APPEND ||
            !match(graph, &graph->nodes[n], &fused, &rotated_q))
            continue;
        spey_graph_remove_node(graph, n);
        SPEY_TRY(spey_pass_append(graph, &fused, &q_out));
        spey_graph_replace_uses(graph, rotated_q, q_out);
        ++*n_changes;
    }
    return spey_graph_clean(graph);
}
