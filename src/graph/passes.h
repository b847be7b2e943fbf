/* Rewrites of the graph, in the order of passes.def. Each keeps the result within rounding and can be switched off. */
#ifndef SPEY_GRAPH_PASSES_H
#define SPEY_GRAPH_PASSES_H

#include "graph/graph.h"

/* Adds the number of places it changed to *n_changes. After a failure the graph is only good for freeing. */
typedef spey_status spey_pass_run(spey_graph *graph, int *n_changes);

typedef struct spey_pass {
    const char *name; /* "fold_qkv" */
    const char *what; /* one line for --help */
    spey_pass_run *run;
} spey_pass;

/* All passes in order; *n their number. */
const spey_pass *spey_passes(int *n);

/* Run all passes but those named in `disabled` (comma-separated, "all" for every one, NULL for none; an unknown name is
 * SPEY_INVALID and lists the known ones). */
spey_status spey_passes_run(spey_graph *graph, const char *disabled);

#endif
