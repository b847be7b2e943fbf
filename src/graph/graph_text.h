/* The graph as text: written, parsed, equal after a round trip. The format is described in docs/engine-format.md. */
#ifndef SPEY_GRAPH_GRAPH_TEXT_H
#define SPEY_GRAPH_GRAPH_TEXT_H

#include "base/strbuf.h"
#include "graph/graph.h"

/* Append the text form (begins with the line "spey-graph 1"). Leaves that only serve as parts are written inside the
 * folded weight ("parts=q:256,k:128,v:128"), so that cuts stay known. */
spey_status spey_graph_write(const spey_graph *graph, spey_strbuf *out);
/* Parse and check. `where` names the source; errors give the line. Hostile text is an error, never a crash. */
spey_status spey_graph_parse(const char *where, const char *text, size_t n, spey_graph **out);

#endif
