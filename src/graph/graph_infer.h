/* What each op demands of its operands and attributes, and what comes out. */
#ifndef SPEY_GRAPH_GRAPH_INFER_H
#define SPEY_GRAPH_GRAPH_INFER_H

#include "graph/graph.h"

enum { SPEY_VALUE_COLS_MAX = SPEY_VOCAB_MAX }; /* columns of an activation */

const char *spey_rows_name(spey_rows rows);
/* How many outputs nodes of this op have. */
int spey_graph_op_outputs(spey_graph_op op);
/* 'I', 'F' or 'S', as in SPEY_ATTR_LIST. */
char spey_attr_kind(spey_attr attr);
/* The constant that equals the n bytes of `text` in the list of an S attribute; NULL when it is not in it. */
const char *spey_attr_find_text(spey_attr attr, const char *text, size_t n);

/* Check everything about `node` but where it stands, point its text attributes at constants, and fill in rows and cols
 * of its outputs (not which node makes them). The message names the op, the operand and both shapes. */
spey_status spey_graph_infer(const spey_graph *graph, spey_node *node,
                             spey_value_info outputs[SPEY_NODE_OUTPUTS_MAX]);

#endif
