/* Where every activation of a step lies in one arena: offsets from liveness, views in place of copies.
 *
 * A value's storage is rows_max(value) * pitch elements; slice results are views into their input; ops that may work in
 * place (add, unary, glu, rope, norm's sum…) reuse a dying input. Offsets are multiples of 64 bytes. */
#ifndef SPEY_GRAPH_MEMPLAN_H
#define SPEY_GRAPH_MEMPLAN_H

#include "graph/graph.h"

typedef struct spey_memplan_limits {
    int64_t tokens_max;   /* rows of SPEY_ROWS_TOKENS values */
    int64_t outputs_max;  /* rows of SPEY_ROWS_OUTPUTS values */
    size_t element_bytes; /* of activations */
    bool in_place;        /* false: every value gets memory of its own while it lives (to bisect) */
} spey_memplan_limits;

typedef struct spey_placement {
    uint64_t offset;    /* bytes from the arena's start to element [0, 0] */
    int64_t pitch;      /* elements from one row to the next */
    spey_value storage; /* the value whose memory this is (itself unless a view or in place) */
} spey_placement;

typedef struct spey_memplan {
    spey_placement *values; /* one per value of the graph */
    int n_values;
    uint64_t arena_bytes;
    uint64_t peak_live_bytes; /* lower bound: the largest sum of live storage at one node */
} spey_memplan;

spey_status spey_memplan_new(const spey_graph *graph, const spey_memplan_limits *limits,
                             spey_memplan **out);
void spey_memplan_free(spey_memplan *plan);
/* Replay the graph against the plan and prove that no two storages that are live at the same node overlap and that all
 * lie inside the arena. Run at every load. */
spey_status spey_memplan_check(const spey_graph *graph, const spey_memplan_limits *limits,
                               const spey_memplan *plan);

#endif
