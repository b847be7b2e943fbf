/* Mixture of experts: a router names some experts for every token, and their MLPs are summed by its weights (Shazeer et al.,
 * "Outrageously Large Neural Networks", 2017). */
#ifndef SPEY_MODEL_MOE_BLOCK_H
#define SPEY_MODEL_MOE_BLOCK_H

#include "model/blocks.h"

typedef struct spey_moe_spec {
    int64_t experts, top_k;
    int64_t intermediate; /* of one expert */
    /* Router. The weights of the chosen experts are those of graph_ops.def's route. */
    const char *router;
    bool router_bias;
    const char *correction; /* tensor, added to the scores for the choice; NULL: none */
    const char *scoring;    /* NULL: "softmax" */
    bool normalise;
    double scale;                           /* 0: 1 */
    int64_t groups, top_groups, group_best; /* groups 0: no groups */
    /* Experts. In TENSORS a '*' stands for an expert's number and ".weight" and ".bias" are added; in ONE the name is the
     * tensor's and its bias ends in "_bias". */
    spey_stack stack;
    const char *gate, *up, *down;
    const char *gate_up; /* one tensor in place of the two; gate first, or interleaved row by row */
    bool interleaved;
    bool bias;
    bool transpose;
    const char *act;
    double limit,
        up_offset; /* graph_ops.def's glu: the product then needs `act` in one node with it */
} spey_moe_spec;

/* Σ weight · down(act(gate(x)) * up(x)); the weights are "moe.router", "moe.gate", "moe.up" and "moe.down". */
spey_value spey_block_moe(spey_blocks *b, spey_value x, const spey_moe_spec *spec);

#endif
