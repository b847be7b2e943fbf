#include "build/draw.h"

#include <string.h>

#include "build/quantize.h"
#include "build/quantize_cache.h"
#include "graph/passes.h"

const char *spey_build_disabled_passes(const spey_build_options *options)
{
    return options && options->disable_passes ? options->disable_passes : "";
}

static spey_status choose_dtype(const spey_build_options *options, spey_dtype of_checkpoint,
                                spey_dtype *out)
{
    const char *name = options && options->dtype ? options->dtype : "auto";
    spey_dtype dtype = of_checkpoint;
    bool is_auto = !strcmp(name, "auto");
    bool known = is_auto || spey_dtype_from_name(name, strlen(name), &dtype);
    if (dtype != SPEY_F32 && dtype != SPEY_F16 && dtype != SPEY_BF16) known = false;
    if (!known && !is_auto)
        return SPEY_FAIL(SPEY_INVALID, "dtype \"%.32s\": expected auto, f32, f16 or bf16", name);
    *out = known ? dtype : SPEY_F32;
    return SPEY_OK;
}

spey_status spey_draw(const spey_model *model, const spey_build_options *options,
                      const spey_safetensors *tensors, spey_model_info *info, spey_graph **out)
{
    *out = NULL;
    spey_quant_plan plan;
    SPEY_TRY(spey_quant_plan_make(options, &plan));
    SPEY_TRY(choose_dtype(options, info->dtype, &info->dtype));
    spey_graph *graph;
    SPEY_TRY(spey_model_draw(model, info->dtype, &graph));
    spey_status status = spey_passes_run(graph, spey_build_disabled_passes(options));
    if (!status && tensors) status = spey_quantize_sources(graph, tensors);
    if (!status) status = spey_quantize_graph(graph, &plan);
    if (!status) status = spey_quantize_caches(graph, options, tensors, info);
    if (status) {
        spey_graph_free(graph);
        return status;
    }
    *out = graph;
    return SPEY_OK;
}
