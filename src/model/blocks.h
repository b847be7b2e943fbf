/* Building blocks of models. They declare weights, append nodes and return values, so that an architecture reads much
 * like a PyTorch module:
 *
 *   spey_value a = spey_block_norm(b, x, "attn_norm", "input_layernorm", &norm);
 *   x = spey_block_add(b, x, spey_block_attention(b, a, &attention), 1);
 *
 * Two names for each weight: ours ("layer.3.attn.q") and the checkpoint's ("model.layers.3.self_attn.q_proj.weight"). Both
 * are put behind the prefixes of the current layer. The ".weight" and ".bias" endings are added here.
 *
 * The first failure stays in `status`; after it, blocks do nothing and return SPEY_NO_VALUE, so a model checks once.
 * Quirks of models are arguments. Specs are borrowed; a zero field means "without". */
#ifndef SPEY_MODEL_BLOCKS_H
#define SPEY_MODEL_BLOCKS_H

#include "graph/graph.h"
#include "model/rope_scaling.h"

typedef struct spey_blocks {
    spey_graph *graph;
    spey_dtype dtype; /* of matrices */
    spey_status status;
    bool encoder;    /* embeddings are of the encoder's input */
    char name[64];   /* before our names: "layer.3." */
    char tensor[96]; /* before the checkpoint's: "model.layers.3." */
} spey_blocks;

/* Weights from here on belong to layer `layer`: "layer.3." and, in the checkpoint, `tensor_prefix` 3 ".". */
void spey_blocks_enter_layer(spey_blocks *b, const char *tensor_prefix, int64_t layer);
void spey_blocks_leave_layer(spey_blocks *b);
/* What is drawn from here on is the encoder: our names begin with "encoder.". */
void spey_blocks_enter_encoder(spey_blocks *b);
void spey_blocks_leave_encoder(spey_blocks *b);
void spey_blocks_add_cache(spey_blocks *b, const spey_cache_group *group, int *out_index);
/* Fail, unless something failed before. */
void spey_blocks_fail(spey_blocks *b, spey_status status, const char *what);
int64_t spey_blocks_cols(const spey_blocks *b, spey_value value);

/* ---- for builders of blocks ---- */

/* Append the node; its first output. */
spey_value spey_blocks_append(spey_blocks *b, const spey_node *node);

typedef struct spey_weight_names {
    const char *name, *tensor;
    const char *ending; /* of the tensor: ".weight", ".bias", "" */
    bool bias;          /* ".bias" after the name */
} spey_weight_names;

/* Declare a leaf whose names are put behind the prefixes; -1 after a failure. */
int32_t spey_blocks_declare(spey_blocks *b, const spey_weight_names *names,
                            const spey_weight *weight);

/* ---- single ops ---- */

/* table[ids] * scale; scale 0: as it is. The weight is "embed", also of an encoder: the two share it. */
spey_value spey_block_embed(spey_blocks *b, const char *tensor, int64_t vocab, int64_t hidden,
                            double scale);

typedef struct spey_norm_spec {
    const char *kind; /* "rms" or "layer" */
    double eps;
    double offset; /* added to the weight */
    bool bias;
    bool plain; /* neither weight nor bias */
} spey_norm_spec;

/* `groups` pieces of a row are normalised alone with the same weight; 0 or 1: whole rows. */
spey_value spey_block_norm_groups(spey_blocks *b, spey_value x, const char *name,
                                  const char *tensor, const spey_norm_spec *spec, int64_t groups);
spey_value spey_block_norm(spey_blocks *b, spey_value x, const char *name, const char *tensor,
                           const spey_norm_spec *spec);

/* Rows of a tensor that holds several matrices: n_pieces runs of `piece` rows, `stride` apart. n_pieces 0: all. */
typedef struct spey_row_pieces {
    int64_t begin, piece, stride, n_pieces;
} spey_row_pieces;

typedef struct spey_linear_spec {
    const char *name, *tensor;
    int64_t outputs;
    bool bias;
    bool transpose; /* the checkpoint holds [in, out] */
    bool exact;     /* kept in F32, so that x is not rounded either */
    spey_cut cut;
    spey_row_pieces pieces;
} spey_linear_spec;

spey_value spey_block_linear(spey_blocks *b, spey_value x, const spey_linear_spec *spec);
/* act(x * scale), then the soft cap; x itself when there is nothing to do (act NULL or "none", scale 1, softcap 0). */
spey_value spey_block_unary(spey_blocks *b, spey_value x, const char *act, double scale,
                            double softcap);
/* x + scale * y */
spey_value spey_block_add(spey_blocks *b, spey_value x, spey_value y, double scale);
/* x * y, element by element */
spey_value spey_block_mul(spey_blocks *b, spey_value x, spey_value y);

/* ---- positions ---- */

/* The angles of a step, shared by layers. The weight is NAME ".inv_freq". */
spey_value spey_block_rope_table(spey_blocks *b, const char *name, const spey_rope_config *rope);
/* Declare ALiBi slopes, scaled by `scale`, as weight `name` (Press et al., "Train Short, Test Long", 2022; heads that are no
 * power of two take every second slope of the next one). */
void spey_block_alibi(spey_blocks *b, const char *name, int64_t heads, double scale);

typedef struct spey_positions_spec {
    const char *tensor;
    int64_t positions, hidden;
    int64_t begin; /* rows before position 0's */
} spey_positions_spec;

/* Declare T5's relative biases as weight `name`; `tensor` holds [buckets, heads]. */
void spey_block_relative(spey_blocks *b, const char *name, const char *tensor, int64_t buckets,
                         int64_t heads);

/* A learned row for each position; the weight is "positions". */
spey_value spey_block_positions(spey_blocks *b, const spey_positions_spec *spec);

/* ---- attention ---- */

typedef enum spey_qkv_layout {
    SPEY_QKV_SEPARATE, /* three tensors */
    SPEY_QKV_STACKED,  /* one: all Q heads, all K heads, all V heads */
    SPEY_QKV_GROUPED, /* one: for each KV head its Q heads, K, V; with kv_heads == heads that is Q, K, V per head */
} spey_qkv_layout;

typedef struct spey_attention_spec {
    int64_t heads, kv_heads, head_dim;
    int64_t v_dim; /* 0: head_dim; spey_block_attend alone reads it */
    spey_qkv_layout layout;
    const char *q, *k, *v; /* SEPARATE */
    const char *qkv;       /* the others */
    const char *o;
    bool qkv_bias, o_bias;
    bool transpose; /* of qkv and o */
    const spey_norm_spec *qk_norm;
    const char *q_norm, *k_norm;
    bool qk_norm_rows; /* over the whole row, not head by head */
    spey_value rope;   /* from spey_block_rope_table; read when rotary > 0 */
    int64_t rotary;
    const char *pairing; /* "interleaved"; NULL: half */
    double scale;        /* 0: 1 / sqrt(head_dim) */
    double softcap;
    int64_t window;
    bool all_to_all;           /* every token sees all */
    const char *alibi;         /* weight from spey_block_alibi */
    const char *relative;      /* weight from spey_block_relative */
    int64_t relative_distance; /* from which on all have the last bucket */
    const char *sinks;         /* tensor: a score for each head that joins the softmax's sum */
    int cache;
    int64_t layer; /* in that cache */
} spey_attention_spec;

/* Fill the cache with K and V and attend with Q: qkv[0 … 2]. */
spey_value spey_block_attend(spey_blocks *b, const spey_value qkv[3],
                             const spey_attention_spec *spec);
/* Projections, QK-norm, rotation, cache, attention and the output projection; the weights are "attn.q", … */
spey_value spey_block_attention(spey_blocks *b, spey_value x, const spey_attention_spec *spec);

/* Attention of the decoder to what the encoder has made of its input: keys and values are drawn as the encoder's, from
 * its result, and stored in a cross group; the others read them. The weights are "cross.q", … */
void spey_block_cross_keys(spey_blocks *b, spey_value encoded, const spey_attention_spec *spec);
spey_value spey_block_cross_attention(spey_blocks *b, spey_value x,
                                      const spey_attention_spec *spec);

/* ---- MLP ---- */

typedef struct spey_mlp_spec {
    const char *gate, *up, *down; /* without gate: down(act(up(x))) */
    const char *gate_up;          /* one tensor in place of the two, gate first */
    int64_t intermediate;
    const char *act;
    bool bias;
    bool transpose;
    const char *weigh; /* a linear with one output: its sigmoid weighs the result; no bias then */
} spey_mlp_spec;

/* down(act(gate(x)) * up(x)); the weights are "mlp.gate", "mlp.up", "mlp.down" and "mlp.weigh". */
spey_value spey_block_mlp(spey_blocks *b, spey_value x, const spey_mlp_spec *spec);

/* ---- the end ---- */

typedef struct spey_head_spec {
    const spey_norm_spec *norm;
    const char *norm_tensor;
    const char *tensor; /* of the head; NULL: the embedding */
    int64_t vocab;
    bool bias;
    const char *bias_row; /* of the embedding as head: a tensor [1, vocab] */
    double scale;         /* of the logits; 0: as they are */
    double softcap;
} spey_head_spec;

/* Keep the rows whose logits are wanted, then norm and head; the result is the graph's output. */
void spey_block_head(spey_blocks *b, spey_value x, const spey_head_spec *spec);

#endif
