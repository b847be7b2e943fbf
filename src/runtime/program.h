/* A program: an engine's graph, with its weights found, on an opened device. What planning and binding start from;
 * nothing of the device's memory is taken yet. */
#ifndef SPEY_RUNTIME_PROGRAM_H
#define SPEY_RUNTIME_PROGRAM_H

#include <stdbool.h>

#include "device/backend.h"
#include "engine/engine_file.h"
#include "graph/graph.h"
#include "kernels/gemm/gemm.h"
#include "runtime/plan.h"

typedef struct spey_program {
    const spey_engine_file *engine; /* kept */
    const spey_model_info *info;    /* the engine's */
    const spey_backend *backend;
    spey_device *device;
    spey_device_info device_info; /* as of opening */
    spey_graph *graph;
    const spey_engine_tensor **tensors; /* one per weight of the graph; NULL: no node reads it */
    bool has_virtual_weights;           /* some tensor that is read has no data */
    bool has_encoder;
    spey_dtype activation_dtype;
    spey_dtype input_dtype; /* of what only products read; activation_dtype, or narrower */
    bool rounds_inputs;     /* norms, gates and attention round to E4M3 for products (memplan.h) */
    spey_precision precision;
} spey_program;

/* Open the device that `limits` names, parse the graph and look every weight up: a missing one, or one of another
 * shape or dtype, is SPEY_FORMAT. On failure there is nothing to deinit. */
spey_status spey_program_init(spey_program *program, const spey_engine_file *engine,
                              const spey_limits_plan *limits);
/* Forget the graph and the tensors, keep the device. */
void spey_program_drop_graph(spey_program *program);
void spey_program_deinit(spey_program *program);

#endif
