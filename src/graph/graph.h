/* The graph of one forward step: rank-free, precision-free, in single-assignment form.
 *
 * Every value is a matrix [rows, cols] of activations. `rows` is symbolic (how many tokens or outputs a step has is
 * known only when it runs), `cols` is a number. Weights are named constants; caches are declared groups. What a step
 * works on (ids, positions, sequences, block tables) is implicit: embed, rope_table, kv_append, attention and gather
 * read the ragged batch.
 *
 *   weight embed bf16 [8192,256]
 *   cache 0 kv layers=8 heads=2 k_dim=64 v_dim=64     (or: cache 0 state layers=8 elements=2048; cross; scratch)
 *   %0 = embed() embed : tokens 256
 *   %1 = norm(%0) layer.0.attn_norm : tokens 256 {kind=rms eps=1e-05}
 *   %2 = linear(%1) layer.0.attn.q : tokens 256
 *   …
 *   output %90
 *
 * A model with an encoder has two parts. The encoder's nodes have `source` rows and run in a step of their own, once for
 * each sequence and over all of its input; they leave keys and values in cross groups, which the decoder's nodes attend
 * to. No value goes from one part to the other.
 *
 * Nodes do not know of precision: a matrix that linear or expert_linear reads may be E4M3, and names its scales then; a
 * cache may name those that it has when it is kept in E4M3.
 *
 * The text form (graph_text.h) round-trips exactly and is what engine files hold. Nodes are in execution order. One
 * owner, no threads. */
#ifndef SPEY_GRAPH_GRAPH_H
#define SPEY_GRAPH_GRAPH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/limits.h"
#include "base/map.h"
#include "base/status.h"
#include "tensor/dtype.h"
#include "tensor/quant.h"

typedef int32_t spey_value; /* index into spey_graph.values */
enum {
    SPEY_NO_VALUE = -1,
    SPEY_NODE_INPUTS_MAX = 6,
    SPEY_NODE_WEIGHTS_MAX = 4,
    SPEY_NODE_OUTPUTS_MAX = 2
};

typedef enum spey_rows {
    SPEY_ROWS_TOKENS,  /* one per token of the step */
    SPEY_ROWS_OUTPUTS, /* one per token whose logits are wanted */
    SPEY_ROWS_SOURCE,  /* one per token of the encoder's input */
} spey_rows;

/* clang-format off */
/* X(name, kind): I integer, F number, S name from the list that the comment gives. */
#define SPEY_ATTR_LIST(X)                                                          \
    X(KIND,       kind,       S) /* norm: rms layer */                             \
    X(ACT,        act,        S) /* spey_activation by its text */                 \
    X(PAIRING,    pairing,    S) /* rope: half interleaved */                      \
    X(SCORING,    scoring,    S) /* route: softmax sigmoid */                      \
    X(SOURCE,     source,     S) /* embed: ids positions */                        \
    X(ENCODER,    encoder,    I) /* embed: of the encoder's input */               \
    X(EPS,        eps,        F)                                                   \
    X(OFFSET,     offset,     F) /* norm: added to the weight; glu: to up */       \
    X(SCALE,      scale,      F) /* embed, unary, add (of b), attention, route */  \
    X(SOFTCAP,    softcap,    F)                                                   \
    X(LIMIT,      limit,      F) /* glu: gate is cut above it, up on both sides */ \
    X(BEGIN,      begin,      I) /* slice: first column; embed: row of number 0 */  \
    X(COLS,       cols,       I) /* slice: columns of the result */                \
    X(GROUPS,     groups,     I) /* norm: pieces of a row; route: of experts */    \
    X(TOP_K,      top_k,      I) /* route: experts of a token */                   \
    X(TOP_GROUPS, top_groups, I) /* route: groups that they may come from */       \
    X(GROUP_BEST, group_best, I) /* route: best scores that a group's is the sum of */ \
    X(NORMALISE,  normalise,  I) /* route: weights are divided by their sum */     \
    X(SUM,        sum,        I) /* expert_linear: the slots' weighted sum */      \
    X(SHARED,     shared,     I) /* concat: every piece of a gets the same b */    \
    X(HEADS,      heads,      I)                                                   \
    X(KV_HEADS,   kv_heads,   I)                                                   \
    X(K_DIM,      k_dim,      I) /* head size of q and k */                        \
    X(V_DIM,      v_dim,      I)                                                   \
    X(ROTARY,     rotary,     I) /* rotated elements of a head */                  \
    X(MAGNITUDE,  magnitude,  F) /* rope_table */                                  \
    X(DYNAMIC,    dynamic,    F) /* rope_table: dynamic NTK factor, 0 off */       \
    X(BASE,       base,       F) /* rope_table: theta, for dynamic */              \
    X(ORIGINAL,   original,   I) /* rope_table: original positions */              \
    X(CACHE,      cache,      I) /* which cache group */                           \
    X(LAYER,      layer,      I) /* which layer of that group */                   \
    X(WINDOW,     window,     I) /* attention: 0 no limit */                       \
    X(CAUSAL,     causal,     I)                                                   \
    X(ALIBI,      alibi,      I) /* attention: the first weight holds slopes */    \
    X(RELATIVE,   relative,   I) /* attention: a weight behind the slopes holds [buckets, heads] */ \
    X(DISTANCE,   distance,   I) /* attention: from which on all have the last bucket */ \
    X(SINKS,      sinks,      I) /* attention: the last weight holds sinks */
/* clang-format on */

typedef enum spey_attr {
#define SPEY_ATTR_ENUM(name, text, kind) SPEY_ATTR_##name,
    SPEY_ATTR_LIST(SPEY_ATTR_ENUM)
#undef SPEY_ATTR_ENUM
        SPEY_ATTR_COUNT
} spey_attr;

typedef union spey_attr_value {
    int64_t i;
    double f;
    const char
        *s; /* a constant: spey_graph_add_node replaces it by its entry in the attribute's list */
} spey_attr_value;

/* Ops are listed in graph_ops.def with their numbers of operands, their attributes and what they mean. */
typedef enum spey_graph_op {
#define SPEY_GRAPH_OP(NAME, name, ...) SPEY_GRAPH_##NAME,
#include "graph/graph_ops.def"
#undef SPEY_GRAPH_OP
    SPEY_GRAPH_OP_COUNT,
    SPEY_GRAPH_REMOVED = SPEY_GRAPH_OP_COUNT /* by a pass; gone after spey_graph_clean */
} spey_graph_op;

typedef struct spey_node {
    spey_graph_op op;
    int n_inputs, n_weights, n_outputs;
    spey_value inputs[SPEY_NODE_INPUTS_MAX];
    int32_t weights[SPEY_NODE_WEIGHTS_MAX]; /* indices into spey_graph.weights */
    spey_value outputs[SPEY_NODE_OUTPUTS_MAX];
    uint64_t attrs_set; /* bit a: attrs[a] is given */
    spey_attr_value attrs[SPEY_ATTR_COUNT];
} spey_node;

typedef struct spey_value_info {
    spey_rows rows;
    int64_t cols;
    int32_t node; /* that makes it */
} spey_value_info;

/* How tensor parallelism may cut a weight; read by partitioning, not by single-rank runs. */
typedef enum spey_cut { SPEY_CUT_NONE, SPEY_CUT_ROWS, SPEY_CUT_COLS } spey_cut;

/* How a stack, a weight whose dimension 0 counts matrices (or vectors), lies in the checkpoint. */
typedef enum spey_stack {
    SPEY_STACK_NONE,
    SPEY_STACK_TENSORS, /* a tensor for each: its number is in place of the '*' in the name */
    SPEY_STACK_ONE,     /* one tensor, with that dimension too */
    SPEY_STACK_PIECES, /* one matrix: each piece of its rows is a matrix, turned when transpose is set */
} spey_stack;

/* Where the rows of a leaf weight come from in the checkpoint: n_pieces runs of row_piece rows, the first at row_begin,
 * row_stride apart; transpose: the checkpoint holds [in, out] (Conv1D), rows are its columns. A 1-D tensor counts as one
 * column. Of a stack, that is said of each matrix. Build time only, not in the text form. */
typedef struct spey_weight_source {
    const char *tensor; /* name in the checkpoint; NULL: `values` below */
    spey_stack stack;
    bool transpose;
    bool as_row; /* a vector that the checkpoint holds as [1, n] */
    int64_t row_begin, row_piece, row_stride, n_pieces; /* n_pieces 0: the whole tensor */
    const float
        *values; /* computed by the model (RoPE frequencies, ALiBi slopes), or known scales */
} spey_weight_source;

enum { SPEY_WEIGHT_PARTS_MAX = 8 };

typedef struct spey_weight {
    const char *name;
    spey_dtype
        dtype; /* as stored in the engine: F32 for norms, biases and tables; the build's dtype for matrices */
    int n_dims;
    int64_t dims[SPEY_DIMS_MAX]; /* of a matrix [outputs, inputs], of a stack one more in front */
    spey_cut cut;
    /* A folded weight is its parts one below the other (dimension 0); a leaf has none. */
    int n_parts;
    int32_t parts
        [SPEY_WEIGHT_PARTS_MAX]; /* indices of leaf weights; they stay in the table, unused by nodes */
    spey_weight_source source; /* of a leaf */
    /* Of an E4M3 matrix that nodes read, not of its parts: */
    int32_t
        scale; /* weight: f32 [outputs], or [1] for all of them; of a stack [matrices, outputs] */
    spey_input_quant input; /* what happens to the input before the product */
    int32_t input_scale;    /* weight: f32 [1], with SPEY_INPUT_STATIC */
} spey_weight;

/* What sequences leave behind for their next tokens: K and V of every token, or a state, whose size does not grow.
 *
 * Source groups hold K and V of the encoder's tokens: scratch ones those that the encoder's own layers attend to one
 * after the other, so that all layers may lie in the same memory; others (cross) what the decoder attends to. */
typedef struct spey_cache_group {
    int64_t layers;
    int64_t state; /* > 0: F32 numbers of a layer's state, and no field below is set */
    int64_t heads; /* KV heads */
    int64_t k_dim, v_dim;
    int64_t window; /* 0: the whole sequence is kept */
    bool source, scratch;
    bool scaled;    /* K and V have scales, for caches of E4M3: */
    int32_t scales; /* weight: f32 [layers, 2, heads], of a layer those of K, then of V */
} spey_cache_group;

typedef struct spey_graph {
    spey_arena
        arena; /* owns names and computed weights; nodes, values and weights are heap arrays */
    spey_node *nodes;
    int n_nodes, cap_nodes;
    spey_value_info *values;
    int n_values, cap_values;
    spey_weight *weights;
    int n_weights, cap_weights;
    spey_map weight_index; /* name → index */
    spey_cache_group caches[SPEY_CACHE_GROUPS_MAX];
    int n_caches;
    spey_value output; /* the logits; set by who draws */
} spey_graph;

spey_status spey_graph_new(spey_graph **out);
void spey_graph_free(spey_graph *graph);

/* ---- building ---- */

/* Declare a leaf, or with n_parts > 0 a folded weight of leaves that have its dtype, its cut and, but for dimension 0,
 * its dims. Names (letters, digits and "._-/"), source.tensor and source.values are copied; the same name twice is
 * SPEY_INVALID. */
spey_status spey_graph_add_weight(spey_graph *graph, const spey_weight *weight, int32_t *out_index);
/* How a matrix becomes E4M3. */
typedef struct spey_weight_quant {
    bool one_scale;      /* for all outputs; stacks have one for each */
    const float *scales; /* copied; NULL: whoever makes the weight finds them */
    spey_input_quant input;
    float input_scale; /* with SPEY_INPUT_STATIC */
} spey_weight_quant;

/* Make a matrix or stack that nodes read E4M3, with its parts: adds NAME.scale and, for static inputs,
 * NAME.input_scale. */
spey_status spey_graph_quantize_weight(spey_graph *graph, int32_t index,
                                       const spey_weight_quant *quant);
/* The weights that reading weight `index` reads beside it, at most 2; returns how many. */
int spey_graph_scales(const spey_graph *graph, int32_t index, int32_t out[2]);
/* -1 when there is no such weight. */
int32_t spey_graph_find_weight(const spey_graph *graph, const char *name);
spey_status spey_graph_add_cache(spey_graph *graph, const spey_cache_group *group, int *out_index);
/* Give the K and V of a group scales (copied): adds the weight cache.N.scales. */
spey_status spey_graph_scale_cache(spey_graph *graph, int cache, const float *scales);
/* Append a node (copied; its outputs are filled in): checks operands and attributes, infers rows and cols of the
 * outputs. The message names the op, the operand and both shapes. *out_node may be NULL. */
spey_status spey_graph_add_node(spey_graph *graph, const spey_node *node, int32_t *out_node);

/* ---- reading ---- */

const char *spey_graph_op_name(spey_graph_op op);
const char *spey_attr_name(spey_attr attr);
/* The rows that a node works on: those of its first result, or else of its first input. */
spey_rows spey_graph_node_rows(const spey_graph *graph, const spey_node *node);
/* Does some part of the graph encode? */
bool spey_graph_has_encoder(const spey_graph *graph);
/* The ops that write a cache: kv_append, rope_append, and those that carry a state on. */
bool spey_graph_op_appends(spey_graph_op op);
/* used[i] (n_weights of them): some node reads weight i, or it holds scales of one that is read or of a cache. An engine stores those; a part of a used weight is stored inside
 * it. */
void spey_graph_mark_weights(const spey_graph *graph, bool *used);
int64_t spey_node_int(const spey_node *node, spey_attr attr, int64_t missing);
double spey_node_number(const spey_node *node, spey_attr attr, double missing);
const char *spey_node_text(const spey_node *node, spey_attr attr, const char *missing);
void spey_node_set_int(spey_node *node, spey_attr attr, int64_t value);
void spey_node_set_number(spey_node *node, spey_attr attr, double value);
/* `value` must outlive the node until it is added. */
void spey_node_set_text(spey_node *node, spey_attr attr, const char *value);

/* ---- rewriting, for passes ---- */

/* Tables (of rope_table, of route) are F32 and dense whatever the activations are. */
bool spey_graph_is_table(const spey_graph *graph, spey_value value);
/* The node that makes `value`. */
spey_node *spey_graph_producer(const spey_graph *graph, spey_value value);
/* The node that alone reads `value`, once; -1 when there is none or several, or when it is the output. */
int32_t spey_graph_only_user(const spey_graph *graph, spey_value value);
/* Take node `index` out, effects and all; its outputs must have no readers when spey_graph_clean runs. */
void spey_graph_remove_node(spey_graph *graph, int32_t index);
/* How many inputs of nodes (and the output) read `value`. */
int spey_graph_count_uses(const spey_graph *graph, spey_value value);
/* Every reader of `from` reads `to` instead. */
void spey_graph_replace_uses(spey_graph *graph, spey_value from, spey_value to);
/* Drop nodes whose results nobody reads (nodes with effects on a cache stay), sort by dependency keeping the order
 * otherwise, renumber values densely, infer again. Every pass ends with it. */
spey_status spey_graph_clean(spey_graph *graph);
/* The whole graph obeys every rule of this header. For tests, parsed text and after passes. */
spey_status spey_graph_check(const spey_graph *graph);

#endif
