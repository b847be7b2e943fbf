/* What import_plan.c and import_stream.c share. */
#ifndef SPEY_BUILD_IMPORT_PLAN_H
#define SPEY_BUILD_IMPORT_PLAN_H

#include "build/import.h"
#include "build/source_scale.h"

struct spey_import {
    const spey_graph *graph;
    const spey_safetensors *tensors;
    const spey_safetensor **sources; /* of all graph weights, one behind the other */
    spey_source_scale *scales;       /* of those that are E4M3 */
    int *first_source; /* [n_weights + 1] of each graph weight; it has none: computed, or folded */
    uint8_t *buffer;   /* for streaming; grows to what one row needs */
    size_t buffer_bytes;
    struct spey_quantizer *quantizer; /* of the weight that is being made E4M3, or was last */
};

/* Rows and columns of a weight, or of each matrix of a stack: the first dimension, and the product of the others. */
typedef struct spey_matrix_shape {
    int64_t rows, cols;
} spey_matrix_shape;

/* The rows of a source as the graph asks for them: n_pieces runs of `piece` rows, `stride` apart. */
typedef struct spey_source_rows {
    int64_t begin, piece, stride, n_pieces;
} spey_source_rows;

/* Matrices of a stack; 1 of any other weight. */
int64_t spey_weight_matrices(const spey_weight *weight);
spey_matrix_shape spey_weight_shape(const spey_weight *weight);
spey_source_rows spey_weight_rows(const spey_weight *weight);

/* A leaf's tensors in the checkpoint, and tensor k of them; NULL: it is not there. */
int spey_import_sources(const spey_weight *leaf);
const spey_safetensor *spey_import_find(const spey_safetensors *tensors, const spey_weight *leaf,
                                        int k);

#endif
