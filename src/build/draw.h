/* What all builds do: choose the dtype, draw the model's graph, run the passes, quantize. */
#ifndef SPEY_BUILD_DRAW_H
#define SPEY_BUILD_DRAW_H

#include "base/status.h"
#include "build/build.h"
#include "graph/graph.h"
#include "graph/graph_text.h"
#include "model/model.h"
#include "tensor/safetensors.h"

/* `options` may be NULL, and `tensors`, which tell what the checkpoint has in E4M3. info->dtype is what the checkpoint says on entry, what was chosen on return. */
spey_status spey_draw(const spey_model *model, const spey_build_options *options,
                      const spey_safetensors *tensors, spey_model_info *info, spey_graph **out);

/* Never NULL: "" for none. */
const char *spey_build_disabled_passes(const spey_build_options *options);

#endif
