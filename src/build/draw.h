/* What all builds do: choose the dtype, draw the model's graph, run the passes. */
#ifndef SPEY_BUILD_DRAW_H
#define SPEY_BUILD_DRAW_H

#include "base/status.h"
#include "build/build.h"
#include "graph/graph.h"
#include "graph/graph_text.h"
#include "model/model.h"

/* `options` may be NULL. info->dtype is what the checkpoint says on entry, what was chosen on return. */
spey_status spey_draw(const spey_model *model, const spey_build_options *options,
                      spey_model_info *info, spey_graph **out);

/* Never NULL: "" for none. */
const char *spey_build_disabled_passes(const spey_build_options *options);

#endif
