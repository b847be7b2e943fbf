/* Which matrices of a graph become E4M3: the linears of the layers, by the builder's options or because the checkpoint
 * holds them so.
 *
 * Precision is a property of weights, not of nodes: a quantized linear is a linear whose matrix is E4M3 and names its
 * scales. So passes and models know nothing of it, and another format is another dtype with other companions.
 *
 * Left alone are matrices that something else reads too (a tied embedding), the one that makes the logits, routers,
 * those of expert_linear without routing (absorbed projections, which are small and sensitive), and shapes that are no
 * multiples of 16, which no GPU multiplies in E4M3. */
#ifndef SPEY_BUILD_QUANTIZE_H
#define SPEY_BUILD_QUANTIZE_H

#include "base/status.h"
#include "build/build.h"
#include "graph/graph.h"
#include "tensor/safetensors.h"

typedef enum spey_quant_scales { SPEY_SCALES_CHANNEL, SPEY_SCALES_TENSOR } spey_quant_scales;

/* What the options ask for. `options` may be NULL. */
typedef struct spey_quant_plan {
    bool fp8;
    spey_quant_scales scales;
    const spey_calibration *calibration;
} spey_quant_plan;

spey_status spey_quant_plan_make(const spey_build_options *options, spey_quant_plan *out);

/* Mark what the plan quantizes and is not E4M3 yet. Calibration without a range for such a matrix is SPEY_INVALID. */
spey_status spey_quantize_graph(spey_graph *graph, const spey_quant_plan *plan);

/* Mark the matrices whose rows are E4M3 in the checkpoint, with its scales. Those that are E4M3 in part, or scaled in
 * blocks, stay as drawn: their rows are widened when they are read. */
spey_status spey_quantize_sources(spey_graph *graph, const spey_safetensors *tensors);

#endif
