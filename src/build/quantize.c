#include "build/quantize.h"

#include <string.h>

#include "base/alloc.h"
#include "build/import_plan.h"
#include "build/source_scale.h"

/* Rows and columns of an E4M3 matrix come in these. */
enum { UNIT = 16 };

/* ---- what was asked for ---- */

static bool is_one_of(const char *text, const char *a, const char *b)
{
    return !strcmp(text, a) || !strcmp(text, b);
}

spey_status spey_quant_plan_make(const spey_build_options *options, spey_quant_plan *out)
{
    *out = (spey_quant_plan){ 0 };
    const char *quant = options && options->quant ? options->quant : "none";
    const char *scales = options && options->quant_scales ? options->quant_scales : "channel";
    if (!is_one_of(quant, "none", "fp8"))
        return SPEY_FAIL(SPEY_INVALID, "quantization \"%.32s\": expected fp8 or none", quant);
    if (!is_one_of(scales, "channel", "tensor"))
        return SPEY_FAIL(SPEY_INVALID, "scales of \"%.32s\": expected channel or tensor", scales);
    out->fp8 = !strcmp(quant, "fp8");
    if (!out->fp8 && options && options->quant_scales)
        return SPEY_FAIL(SPEY_INVALID, "scales of a %s without quantization: fp8 is missing",
                         scales);
    const bool fp8_cache = options && options->kv_dtype && !strcmp(options->kv_dtype, "fp8");
    if (!out->fp8 && !fp8_cache && options && options->calibration)
        return SPEY_FAIL(SPEY_INVALID, "calibration without quantization: fp8 is missing");
    out->scales = !strcmp(scales, "tensor") ? SPEY_SCALES_TENSOR : SPEY_SCALES_CHANNEL;
    out->calibration = options ? options->calibration : NULL;
    return SPEY_OK;
}

/* ---- which matrices ---- */

/* Does something that is no linear look at the node's result, through activations: the caller, or a router? */
static bool feeds_choice(const spey_graph *graph, const spey_node *node)
{
    for (spey_value value = node->outputs[0];;) {
        if (value == graph->output) return true;
        int32_t user = spey_graph_only_user(graph, value);
        if (user < 0) return false;
        const spey_node *next = &graph->nodes[user];
        if (next->op == SPEY_GRAPH_ROUTE) return true;
        if (next->op != SPEY_GRAPH_UNARY) return false;
        value = next->outputs[0];
    }
}

static int count_readers(const spey_graph *graph, int32_t weight)
{
    int n = 0;
    for (int i = 0; i < graph->n_nodes; i++)
        for (int w = 0; w < graph->nodes[i].n_weights; w++)
            n += graph->nodes[i].weights[w] == weight;
    return n;
}

/* The matrix of a linear that may be E4M3; -1: none. */
static int32_t matrix_of(const spey_graph *graph, const spey_node *node)
{
    bool experts = node->op == SPEY_GRAPH_EXPERT_LINEAR && node->n_inputs > 1;
    if (node->op != SPEY_GRAPH_LINEAR && !experts) return -1;
    const spey_weight *weight = &graph->weights[node->weights[0]];
    int64_t rows = weight->dims[experts ? 1 : 0], cols = weight->dims[experts ? 2 : 1];
    if (weight->dtype == SPEY_E4M3 || rows % UNIT || cols % UNIT) return -1;
    return node->weights[0];
}

static spey_status find_range(const spey_quant_plan *plan, const char *weight, float *out)
{
    *out = plan->calibration->every;
    if (!plan->calibration->ranges) return SPEY_OK;
    for (int i = 0; i < plan->calibration->n; i++)
        if (!strcmp(plan->calibration->ranges[i].weight, weight)) {
            *out = plan->calibration->ranges[i].largest;
            return SPEY_OK;
        }
    return SPEY_FAIL(SPEY_INVALID, "calibration has no range for the input of %s", weight);
}

spey_status spey_quantize_graph(spey_graph *graph, const spey_quant_plan *plan)
{
    for (int n = 0; plan->fp8 && n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        int32_t index = matrix_of(graph, node);
        if (index < 0 || count_readers(graph, index) > 1 || feeds_choice(graph, node)) continue;
        const spey_weight *weight = &graph->weights[index];
        spey_weight_quant quant = { .input = SPEY_INPUT_TOKEN };
        quant.one_scale = plan->scales == SPEY_SCALES_TENSOR && weight->n_dims == 2;
        if (plan->calibration) {
            float largest;
            SPEY_TRY(find_range(plan, weight->name, &largest));
            quant.input = SPEY_INPUT_STATIC;
            quant.input_scale = spey_e4m3_scale_of(largest).scale;
        }
        SPEY_TRY(spey_graph_quantize_weight(graph, index, &quant));
    }
    return SPEY_OK;
}

/* ---- what the checkpoint has ---- */

/* The scales of a matrix under construction. */
typedef struct sources {
    const spey_safetensors *tensors;
    float *scales; /* of its outputs, one after the other */
    int64_t n, capacity;
    float input_scale; /* the largest; 0: some part has none */
    bool has_inputs, one_scale;
} sources;

/* The rows that a leaf takes from one tensor. False: they cannot be taken as they are. */
static spey_status add_rows(sources *s, const spey_weight *leaf, const spey_safetensor *tensor,
                            bool *fits)
{
    spey_source_scale scale;
    float input;
    SPEY_TRY(spey_source_scale_find(s->tensors, tensor, &scale));
    SPEY_TRY(spey_source_input_scale(s->tensors, tensor, &input));
    *fits = scale.by_rows && !leaf->source.transpose;
    if (!*fits) return SPEY_OK;
    const spey_source_rows rows = spey_weight_rows(leaf);
    for (int64_t p = 0; p < rows.n_pieces; p++)
        for (int64_t r = 0; r < rows.piece; r++) {
            int64_t row = rows.begin + p * rows.stride + r;
            if (row >= tensor->dims[0]) return SPEY_OK; /* the plan says what is wrong */
            SPEY_ASSERT(s->n < s->capacity);
            s->scales[s->n++] = spey_source_scale_at(&scale, row, 0);
        }
    s->one_scale = s->one_scale && scale.block_rows == tensor->dims[0];
    s->has_inputs = s->has_inputs && input > 0;
    if (input > s->input_scale) s->input_scale = input;
    return SPEY_OK;
}

/* All of a leaf's tensors. A missing one, or a stack that is one tensor, does not fit; the plan says more. */
static spey_status add_leaf(sources *s, const spey_weight *leaf, bool *fits)
{
    const spey_stack stack = leaf->source.stack;
    *fits = leaf->source.tensor && (stack == SPEY_STACK_NONE || stack == SPEY_STACK_TENSORS);
    for (int k = 0; *fits && k < spey_import_sources(leaf); k++) {
        const spey_safetensor *tensor = spey_import_find(s->tensors, leaf, k);
        *fits = tensor && tensor->dtype == SPEY_E4M3;
        if (*fits) SPEY_TRY(add_rows(s, leaf, tensor, fits));
    }
    return SPEY_OK;
}

static spey_status quantize_by_sources(spey_graph *graph, int32_t index, sources *s)
{
    const spey_weight *weight = &graph->weights[index];
    bool fits = true;
    for (int p = 0; fits && p < (weight->n_parts ? weight->n_parts : 1); p++) {
        const spey_weight *leaf = weight->n_parts ? &graph->weights[weight->parts[p]] : weight;
        SPEY_TRY(add_leaf(s, leaf, &fits));
    }
    if (!fits) return SPEY_OK;
    spey_weight_quant quant = { .scales = s->scales, .input = SPEY_INPUT_TOKEN };
    quant.one_scale = s->one_scale && !weight->n_parts && weight->n_dims == 2;
    if (s->has_inputs) {
        quant.input = SPEY_INPUT_STATIC;
        quant.input_scale = s->input_scale;
    }
    return spey_graph_quantize_weight(graph, index, &quant);
}

spey_status spey_quantize_sources(spey_graph *graph, const spey_safetensors *tensors)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        int32_t index = matrix_of(graph, &graph->nodes[n]);
        if (index < 0 || count_readers(graph, index) > 1) continue;
        const spey_weight *weight = &graph->weights[index];
        int64_t outputs = weight->dims[0] * (weight->n_dims == 3 ? weight->dims[1] : 1);
        sources s = {
            .tensors = tensors, .capacity = outputs, .has_inputs = true, .one_scale = true
        };
        s.scales = spey_new_array(SPEY_PURPOSE_GENERAL, float, outputs);
        if (!s.scales) return SPEY_NOMEM;
        spey_status status = quantize_by_sources(graph, index, &s);
        spey_free(s.scales);
        SPEY_TRY(status);
    }
    return SPEY_OK;
}
