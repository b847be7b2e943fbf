/* Where every activation of a step lies in one arena: offsets from liveness, views in place of copies.
 *
 * A value's storage is rows_max(value) * pitch elements. A slice is a view into its input. An op whose kernel allows it
 * writes over an input that nobody reads later:
 *
 *   unary add glu rope norm   the result over an input
 *   add_norm                  the sum over residual or x, the normed rows over x if the sum is not there
 *   rope_append               the queries over the first columns of qkv
 *
 * Storage begins at a multiple of 64 bytes, and so does every row. The exceptions are rope_table and route: their results
 * are F32 whatever element_bytes says, and dense. Where elements have 2 bytes, values that only norms, sums and routers
 * read are F32 too ("wide"): the residual stream, what is added to it, and routers' logits keep their low bits. Where
 * elements have 4 bytes and products round their inputs to 2 anyway, norms, gates and attention round what only products
 * read ("narrow"): once, instead of in every product. Where products round their inputs to E4M3, norms and gates do that
 * for them, and attention does where the scale is static: one byte an element, and behind the last of rows_max rows the scale of each, F32. What E4M3 products make is
 * not wide: their own error is larger by far than what 16 bits lose. Values share memory only with others of their width.
 * The output lies behind everything else: who keeps the logits elsewhere ends the arena where they begin. */
#ifndef SPEY_GRAPH_MEMPLAN_H
#define SPEY_GRAPH_MEMPLAN_H

#include "graph/graph.h"

typedef struct spey_memplan_limits {
    int64_t
        tokens_max; /* rows of SPEY_ROWS_TOKENS and of SPEY_ROWS_SOURCE values: in steps apart */
    int64_t outputs_max;  /* rows of SPEY_ROWS_OUTPUTS values */
    size_t element_bytes; /* of activations: 2 or 4 (tests: 8) */
    /* Of inputs of products with matrices of 16 or fewer bits, when those may be stored rounded: 2. 0: as activations. */
    size_t input_bytes;
    bool rounds_inputs; /* products with E4M3 matrices that round their inputs take them rounded */
    bool
        in_place; /* false: every value but a slice has memory of its own while it lives (to bisect) */
} spey_memplan_limits;

typedef enum spey_width {
    SPEY_WIDTH_ACTIVATION, /* element_bytes */
    SPEY_WIDTH_WIDE,       /* F32 whatever element_bytes says */
    SPEY_WIDTH_INPUT,      /* input_bytes */
    SPEY_WIDTH_E4M3        /* 1, and a scale for each row */
} spey_width;

typedef struct spey_placement {
    uint64_t offset;    /* bytes from the arena's start to element [0, 0] */
    int64_t pitch;      /* elements from one row to the next */
    spey_value storage; /* the value whose memory this is (itself unless a view or in place) */
    spey_width width;
    int32_t rounded_for; /* SPEY_WIDTH_E4M3: a weight whose products read it, all of them alike */
} spey_placement;

typedef struct spey_memplan {
    spey_placement *values; /* one per value of the graph */
    int n_values;
    uint64_t arena_bytes;
    uint64_t
        peak_live_bytes; /* lower bound: the output, and the largest sum of other live storage at one node */
} spey_memplan;

/* Plan for a graph that obeys spey_graph_check. SPEY_LIMIT when sizes overflow. */
spey_status spey_memplan_new(const spey_graph *graph, const spey_memplan_limits *limits,
                             spey_memplan **out);
void spey_memplan_free(spey_memplan *plan);
/* Bytes of one element of a value that lies there. */
static inline size_t spey_memplan_element_bytes(const spey_memplan_limits *limits,
                                                const spey_placement *place)
{
    if (place->width == SPEY_WIDTH_WIDE) return sizeof(float);
    if (place->width == SPEY_WIDTH_E4M3) return 1;
    return place->width == SPEY_WIDTH_INPUT ? limits->input_bytes : limits->element_bytes;
}

/* Set `width` and `rounded_for` of every value. */
void spey_memplan_find_widths(const spey_graph *graph, const spey_memplan_limits *limits,
                              spey_placement *values);
/* Replay the graph against the plan, value by value, and prove that no node writes over anything that it or a later node
 * reads but where its kernel allows it, and that everything lies inside the arena. Knows nothing of how plans are made.
 * Run at every load. */
spey_status spey_memplan_check(const spey_graph *graph, const spey_memplan_limits *limits,
                               const spey_memplan *plan);

#endif
