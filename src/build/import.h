/* Weights from a checkpoint into an engine: first a plan that matches every weight of the graph with the checkpoint's
 * tensors and checks all of it, then a stream of bytes in bounded memory. */
#ifndef SPEY_BUILD_IMPORT_H
#define SPEY_BUILD_IMPORT_H

#include "base/status.h"
#include "engine/engine_file.h"
#include "engine/engine_writer.h"
#include "graph/graph.h"
#include "model/model.h"
#include "tensor/safetensors.h"

/* The weights that the engine stores, in the order of their first use. */
typedef struct spey_import_weights {
    int32_t *weights; /* indices into graph->weights */
    spey_engine_tensor *
        tensors; /* the same as tensors; name and data (of computed tables, else NULL) are borrowed from the graph */
    int n;
    uint64_t bytes;
    uint64_t n_parameters; /* elements that a checkpoint holds; computed tables are not counted */
} spey_import_weights;

spey_status spey_import_weights_list(const spey_graph *graph, spey_import_weights *out);
void spey_import_weights_deinit(spey_import_weights *weights);

/* Which tensor every leaf of the graph is read from. Keeps the graph and the tensors. */
typedef struct spey_import spey_import;

/* Every leaf has its tensor, of the right shape and of a type that can be converted; every tensor has its leaf, or the
 * model ignores it. A missing name is reported with its nearest; "model." before a name is optional. */
spey_status spey_import_plan(const spey_graph *graph, const spey_model *model,
                             const spey_safetensors *tensors, spey_import **out);
void spey_import_free(spey_import *import);

/* Append the bytes of graph weight `index` to the writer, part by part. A value too large for the weight's type is an
 * error. */
spey_status spey_import_stream(spey_import *import, int32_t index, spey_engine_writer *writer);

#endif
