/* In what type K and V are kept when nobody says otherwise, and their scales if that is E4M3. */
#ifndef SPEY_BUILD_QUANTIZE_CACHE_H
#define SPEY_BUILD_QUANTIZE_CACHE_H

#include "base/status.h"
#include "build/build.h"
#include "engine/engine_file.h"
#include "graph/graph.h"
#include "tensor/safetensors.h"

/* info->kv_dtype: what the options say; or else "fp8" when it is that already (the checkpoint's configuration) or the checkpoint
 * has scales of K or V. Then the groups get scales: from what calibration saw, or else the checkpoint's; without both they
 * have none, which means 1. `options` and `tensors` may be NULL. */
spey_status spey_quantize_caches(spey_graph *graph, const spey_build_options *options,
                                 const spey_safetensors *tensors, spey_model_info *info);

#endif
