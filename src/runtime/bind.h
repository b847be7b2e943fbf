/* Binding: every node of the graph becomes a step, that is a row and its args with all addresses filled in. */
#ifndef SPEY_RUNTIME_BIND_H
#define SPEY_RUNTIME_BIND_H

#include "device/kernel.h"
#include "graph/graph.h"
#include "kernels/attention/attention.h"
#include "kernels/causal_conv/causal_conv.h"
#include "kernels/concat/concat.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/embed/embed.h"
#include "kernels/expert_linear/expert_linear.h"
#include "kernels/gather/gather.h"
#include "kernels/gemm/gemm.h"
#include "kernels/glu/glu.h"
#include "kernels/kv_append/kv_append.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "kernels/route/route.h"
#include "kernels/selective_scan/selective_scan.h"
#include "runtime/program.h"

/* The args of any op. `rows` is the first field of each of them, and the only one that changes from step to step. */
typedef union spey_any_args {
    int64_t rows;
    spey_embed_args embed;
    spey_norm_args norm;
    spey_gemm_args gemm;
    spey_rope_table_args rope_table;
    spey_rope_args rope;
    spey_rope_append_args rope_append;
    spey_kv_append_args kv_append;
    spey_attention_args attention;
    spey_glu_args glu;
    spey_unary_args unary;
    spey_add_args add;
    spey_gather_args gather;
    spey_concat_args concat;
    spey_route_args route;
    spey_expert_linear_args expert_linear;
    spey_causal_conv_args causal_conv;
    spey_selective_scan_args selective_scan;
} spey_any_args;

/* Where things are. All addresses are the device's but `batch`, whose arrays are. */
typedef struct spey_bases {
    uint8_t *activations;
    uint8_t *logits;
    void *workspace;
    uint8_t *kv[SPEY_CACHE_GROUPS_MAX];
    const void *const *weights; /* one per weight of the graph; NULL: unused */
    const float *prompt_rows;   /* rows of prompt tables; NULL: there are none */
    const spey_ragged *batch;
} spey_bases;

typedef struct spey_bound_sizes {
    int n_steps;
    size_t workspace_bytes; /* the largest that a step asks for; steps run one at a time */
} spey_bound_sizes;

typedef struct spey_binding {
    spey_bound_sizes sizes;
    spey_step *steps;
    spey_any_args *args;   /* of each step */
    spey_rows *rows;       /* of each step */
    int n_source_steps;    /* the first ones are the encoder's */
    int n_token_steps;     /* steps behind these work on outputs alone */
    int64_t n_ids;         /* ids are below this: rows of the smallest embedding table */
    uint64_t weight_bytes; /* that one token's step reads */
} spey_binding;

struct spey_layout;

/* Choose a row for every node and fill in its args. Without bases the addresses are made up (aligned as real ones are):
 * for planning. */
spey_status spey_bind(const spey_program *program, const struct spey_layout *layout,
                      const spey_bases *bases, spey_binding *out);
void spey_binding_deinit(spey_binding *binding);
/* Bytes that a binding of n steps allocates. */
size_t spey_binding_bytes(int n_steps);

#endif
