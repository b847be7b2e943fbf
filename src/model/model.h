/* A model: what config.json says, as a graph with named weights.
 *
 * archs.def lists the architectures; each is one file that reads its configuration and draws its graph by calling block
 * builders (blocks.h), much as a PyTorch module reads. Nothing else in the tree knows a model by name. */
#ifndef SPEY_MODEL_MODEL_H
#define SPEY_MODEL_MODEL_H

#include <jansson.h>

#include "base/status.h"
#include "engine/engine_file.h"
#include "graph/graph.h"

typedef struct spey_model spey_model;

/* Read and validate config.json (`where` names it in errors). An unknown architecture is SPEY_UNSUPPORTED: the message
 * lists what is supported, nearest first. Keeps nothing of `config`. */
spey_status spey_model_new(const char *where, const json_t *config, spey_model **out);
void spey_model_free(spey_model *model);

/* arch, sizes, dtype, bos/eos/pad as config.json has them; generation defaults neutral. */
void spey_model_get_info(const spey_model *model, spey_model_info *out);

/* Draw the graph, unfused (run spey_passes_run on it). Matrices are stored as `dtype`, norms, biases and tables as F32. Leaf weights say where their
 * rows come from in the checkpoint. */
spey_status spey_model_draw(const spey_model *model, spey_dtype dtype, spey_graph **out);

/* Checkpoint tensors that this architecture has but does not use (rotary_emb.inv_freq and the like): true to ignore. */
bool spey_model_ignores_tensor(const spey_model *model, const char *name);

/* Other names under which checkpoints hold `tensor`, for variant 0, 1, …; false: there are no more. A checkpoint saved from
 * the base model lacks the prefix ("layers.0.…" for "model.layers.0.…"); one without a head of its own has the embedding. */
bool spey_model_tensor_alias(const char *tensor, int variant, char out[SPEY_NAME_BYTES_MAX]);

#endif
