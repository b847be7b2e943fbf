/* What several passes need. */
#ifndef SPEY_GRAPH_PASSES_PASS_TOOLS_H
#define SPEY_GRAPH_PASSES_PASS_TOOLS_H

#include "graph/passes.h"

/* Declared here so that each pass is checked against the list. */
#define SPEY_PASS(name, what) spey_pass_run spey_pass_##name;
#include "graph/passes.def"
#undef SPEY_PASS

/* The first output of a new node; the node goes to the end, spey_graph_clean moves it. */
spey_status spey_pass_append(spey_graph *graph, const spey_node *node, spey_value *out);

/* The attention that reads what `append` (a kv_append) writes; NULL when there is none or are several. */
spey_node *spey_pass_find_attention(const spey_graph *graph, const spey_node *append);

/* The value that remains when norms, ropes and unaries are taken off `value`: where a projection may stand. */
spey_value spey_pass_strip(const spey_graph *graph, spey_value value);

/* Is the node a unary that does nothing but an activation? */
bool spey_pass_is_activation(const spey_node *node);

/* The linears that make values[0…n) become one, if they read one input, have no activation, and their weights are leaves
 * of one type that nothing else uses; else nothing happens. The weight is named after the first: the part before its last
 * component, then `name`. The values' readers read slices instead. *folded tells. */
spey_status spey_pass_fold_linears(spey_graph *graph, const spey_value *values, int n,
                                   const char *name, bool *folded);

#endif
