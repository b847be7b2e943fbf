#include "build/quantize_cache.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "build/source_scale.h"

/* Scales under construction. */
typedef struct cache_scales {
    const spey_graph *graph;
    float *values[SPEY_CACHE_GROUPS_MAX]; /* [layers, 2, heads]; NULL: no K and V of ours */
    bool found[SPEY_CACHE_GROUPS_MAX];
} cache_scales;

static spey_status choose_dtype(const spey_build_options *options, spey_model_info *info)
{
    static const char *const names[] = { "f32", "f16", "bf16", "fp8", "int8" };
    const char *name = options && options->kv_dtype ? options->kv_dtype : "auto";
    if (!strcmp(name, "auto")) return SPEY_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) {
            snprintf(info->kv_dtype, sizeof info->kv_dtype, "%s", name);
            return SPEY_OK;
        }
    return SPEY_FAIL(SPEY_INVALID,
                     "KV cache of \"%.32s\": expected auto, f32, f16, bf16, fp8 or int8", name);
}

static int64_t count(const spey_cache_group *group)
{
    return group->layers * 2 * group->heads;
}

static void deinit(cache_scales *s)
{
    for (int c = 0; c < SPEY_CACHE_GROUPS_MAX; c++)
        spey_free(s->values[c]);
}

static spey_status init(cache_scales *s, const spey_graph *graph)
{
    *s = (cache_scales){ .graph = graph };
    for (int c = 0; c < graph->n_caches; c++) {
        const spey_cache_group *group = &graph->caches[c];
        if (group->state || group->source) continue;
        s->values[c] = spey_new_array(SPEY_PURPOSE_GENERAL, float, count(group));
        if (!s->values[c]) return SPEY_NOMEM;
        for (int64_t i = 0; i < count(group); i++)
            s->values[c][i] = 1;
    }
    return SPEY_OK;
}

/* A power of two: E4M3 has the same relative error at every scale, so all that a scale can do is to keep numbers in range, and
 * what is left to the next power is room for what calibration did not see. A head that was nothing but zeros keeps 1. */
static float scale_of(float largest)
{
    int exponent;
    if (!(largest > 0)) return 1;
    frexpf(spey_e4m3_scale_of(largest).scale, &exponent);
    return ldexpf(1, exponent);
}

static void take_calibration(cache_scales *s, const spey_calibration *calibration)
{
    for (int c = 0; c < s->graph->n_caches; c++) {
        const float *largest = calibration->caches[c];
        s->found[c] = s->values[c] && largest;
        for (int64_t i = 0; s->found[c] && i < count(&s->graph->caches[c]); i++)
            s->values[c][i] = scale_of(largest[i]);
    }
}

/* The node that keeps K and V of layer `layer` of the model, when each layer has one. */
static const spey_node *find_append(const spey_graph *graph, int64_t n_layers, int64_t layer)
{
    const spey_node *found = NULL;
    int64_t n = 0;
    for (int i = 0; i < graph->n_nodes; i++) {
        const spey_node *node = &graph->nodes[i];
        if (node->op != SPEY_GRAPH_KV_APPEND && node->op != SPEY_GRAPH_ROPE_APPEND) continue;
        if (n++ == layer) found = node;
    }
    return n == n_layers ? found : NULL;
}

static spey_status take_sources(cache_scales *s, int64_t n_layers, const spey_safetensors *tensors)
{
    for (int i = 0; i < spey_safetensors_count(tensors); i++) {
        const spey_safetensor *tensor = spey_safetensors_at(tensors, i);
        bool is_v;
        int64_t layer;
        if (!spey_source_is_cache_scale(tensor->name, &layer, &is_v)) continue;
        const spey_node *node = find_append(s->graph, n_layers, layer);
        if (!node) continue;
        int64_t c = spey_node_int(node, SPEY_ATTR_CACHE, 0);
        if (!s->values[c]) continue;
        int64_t heads = s->graph->caches[c].heads;
        int64_t at = (2 * spey_node_int(node, SPEY_ATTR_LAYER, 0) + is_v) * heads;
        SPEY_TRY(spey_source_cache_scales(tensor, heads, s->values[c] + at));
        s->found[c] = true;
    }
    return SPEY_OK;
}

static spey_status add_scales(spey_graph *graph, const cache_scales *s)
{
    for (int c = 0; c < graph->n_caches; c++)
        if (s->found[c]) SPEY_TRY(spey_graph_scale_cache(graph, c, s->values[c]));
    return SPEY_OK;
}

static spey_status scale_caches(spey_graph *graph, const spey_calibration *calibration,
                                const spey_safetensors *tensors, spey_model_info *info)
{
    cache_scales s;
    spey_status status = init(&s, graph);
    if (!status && tensors) status = take_sources(&s, info->n_layers, tensors);
    if (!status && calibration) take_calibration(&s, calibration);
    bool found = false;
    for (int c = 0; c < SPEY_CACHE_GROUPS_MAX; c++)
        found = found || s.found[c];
    if (!status && found && !info->kv_dtype[0])
        snprintf(info->kv_dtype, sizeof info->kv_dtype, "fp8");
    if (!status) status = add_scales(graph, &s);
    deinit(&s);
    return status;
}

spey_status spey_quantize_caches(spey_graph *graph, const spey_build_options *options,
                                 const spey_safetensors *tensors, spey_model_info *info)
{
    SPEY_TRY(choose_dtype(options, info));
    const bool fp8 = !strcmp(info->kv_dtype, "fp8");
    if (info->kv_dtype[0] && !fp8) return SPEY_OK;
    const spey_calibration *calibration = options && fp8 ? options->calibration : NULL;
    return scale_caches(graph, calibration, tensors, info);
}
