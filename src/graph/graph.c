#include "graph/graph.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "graph/graph_infer.h"

spey_status spey_graph_new(spey_graph **out)
{
    *out = NULL;
    spey_graph *graph = spey_new(SPEY_PURPOSE_GRAPH, spey_graph);
    if (!graph) return SPEY_NOMEM;
    spey_arena_init(&graph->arena, SPEY_PURPOSE_GRAPH);
    spey_map_init(&graph->weight_index, SPEY_PURPOSE_GRAPH);
    graph->output = SPEY_NO_VALUE;
    *out = graph;
    return SPEY_OK;
}

void spey_graph_free(spey_graph *graph)
{
    if (!graph) return;
    spey_free(graph->nodes);
    spey_free(graph->values);
    spey_free(graph->weights);
    spey_map_deinit(&graph->weight_index);
    spey_arena_deinit(&graph->arena);
    spey_free(graph);
}

/* Room for one more item in the array at *items. */
static spey_status grow(void **items, int n, int *cap, size_t item_bytes)
{
    if (n < *cap) return SPEY_OK;
    int wanted = *cap ? *cap * 2 : 64;
    void *grown = spey_realloc(SPEY_PURPOSE_GRAPH, *items, (size_t)wanted * item_bytes);
    if (!grown) return SPEY_NOMEM;
    *items = grown;
    *cap = wanted;
    return SPEY_OK;
}

/* ---- weights and caches ---- */

static spey_status check_name(const char *name)
{
    size_t n = name ? strlen(name) : 0;
    if (n == 0 || n >= SPEY_NAME_BYTES_MAX)
        return SPEY_FAIL(SPEY_INVALID, "a weight's name has %zu bytes, expected 1…%d", n,
                         SPEY_NAME_BYTES_MAX - 1);
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
    if (strspn(name, allowed) != n)
        return SPEY_FAIL(SPEY_INVALID,
                         "weight \"%s\": a name has letters, digits and \"._-/\" only", name);
    return SPEY_OK;
}

static spey_status check_dims(const spey_weight *weight)
{
    if (weight->n_dims < 1 || weight->n_dims > SPEY_DIMS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "weight %s has %d dims, expected 1…%d", weight->name,
                         weight->n_dims, SPEY_DIMS_MAX);
    size_t bytes = 8;
    for (int d = 0; d < weight->n_dims; d++)
        if (weight->dims[d] < 1 || weight->dims[d] > INT32_MAX ||
            !spey_mul_size(bytes, (size_t)weight->dims[d], &bytes) || bytes > SIZE_MAX / 4)
            return SPEY_FAIL(SPEY_LIMIT, "weight %s: dimension %d is %lld", weight->name, d,
                             (long long)weight->dims[d]);
    if (weight->dtype >= SPEY_DTYPE_COUNT)
        return SPEY_FAIL(SPEY_INVALID, "weight %s: unknown dtype %d", weight->name,
                         (int)weight->dtype);
    if (weight->cut > SPEY_CUT_COLS)
        return SPEY_FAIL(SPEY_INVALID, "weight %s: unknown cut %d", weight->name, (int)weight->cut);
    return SPEY_OK;
}

static spey_status check_parts(const spey_graph *graph, const spey_weight *weight)
{
    if (weight->n_parts < 0 || weight->n_parts > SPEY_WEIGHT_PARTS_MAX)
        return SPEY_FAIL(SPEY_INVALID, "weight %s has %d parts, expected up to %d", weight->name,
                         weight->n_parts, SPEY_WEIGHT_PARTS_MAX);
    int64_t rows = 0;
    for (int i = 0; i < weight->n_parts; i++) {
        if (weight->parts[i] < 0 || weight->parts[i] >= graph->n_weights)
            return SPEY_FAIL(SPEY_INVALID, "weight %s: part %d does not exist", weight->name, i);
        const spey_weight *part = &graph->weights[weight->parts[i]];
        bool alike = part->n_parts == 0 && part->dtype == weight->dtype &&
                     part->cut == weight->cut && part->n_dims == weight->n_dims;
        for (int d = 1; alike && d < weight->n_dims; d++)
            alike = part->dims[d] == weight->dims[d];
        if (!alike)
            return SPEY_FAIL(SPEY_INVALID,
                             "weight %s: part %s is not a leaf of the same dtype, cut and columns",
                             weight->name, part->name);
        rows += part->dims[0];
    }
    if (weight->n_parts && rows != weight->dims[0])
        return SPEY_FAIL(SPEY_INVALID, "weight %s has %lld rows, its parts %lld", weight->name,
                         (long long)weight->dims[0], (long long)rows);
    return SPEY_OK;
}

static spey_status copy_source(spey_graph *graph, const spey_weight *weight, spey_weight *copy)
{
    const spey_weight_source *source = &weight->source;
    if (source->tensor) {
        copy->source.tensor = spey_arena_strdup(&graph->arena, source->tensor);
        if (!copy->source.tensor) return SPEY_NOMEM;
    }
    if (source->values) {
        size_t n = 1;
        for (int d = 0; d < weight->n_dims; d++)
            n *= (size_t)weight->dims[d]; /* check_dims: no overflow */
        float *values = spey_arena_array(&graph->arena, n, sizeof *values);
        if (!values) return SPEY_NOMEM;
        memcpy(values, source->values, n * sizeof *values);
        copy->source.values = values;
    }
    return SPEY_OK;
}

spey_status spey_graph_add_weight(spey_graph *graph, const spey_weight *weight, int32_t *out_index)
{
    SPEY_TRY(check_name(weight->name));
    SPEY_TRY(check_dims(weight));
    SPEY_TRY(check_parts(graph, weight));
    if (spey_graph_find_weight(graph, weight->name) >= 0)
        return SPEY_FAIL(SPEY_INVALID, "weight %s is declared twice", weight->name);
    if (graph->n_weights >= SPEY_TENSORS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "more than %d weights", SPEY_TENSORS_MAX);
    SPEY_TRY(grow((void **)&graph->weights, graph->n_weights, &graph->cap_weights, sizeof *weight));
    spey_weight copy = *weight;
    copy.name = spey_arena_strdup(&graph->arena, weight->name);
    if (!copy.name) return SPEY_NOMEM;
    SPEY_TRY(copy_source(graph, weight, &copy));
    SPEY_TRY(spey_map_put(&graph->weight_index, copy.name, strlen(copy.name), graph->n_weights));
    graph->weights[graph->n_weights] = copy;
    *out_index = graph->n_weights++;
    return SPEY_OK;
}

/* f32 "NAME.ending". */
static spey_status add_scale(spey_graph *graph, const spey_weight *of, const char *ending,
                             spey_weight scale, int32_t *out_index)
{
    char name[SPEY_NAME_BYTES_MAX];
    if (snprintf(name, sizeof name, "%s.%s", of->name, ending) >= (int)sizeof name)
        return SPEY_FAIL(SPEY_LIMIT, "weight %s: the name is too long for its scales", of->name);
    scale.name = name;
    scale.dtype = SPEY_F32;
    return spey_graph_add_weight(graph, &scale, out_index);
}

spey_status spey_graph_quantize_weight(spey_graph *graph, int32_t index,
                                       const spey_weight_quant *quant)
{
    spey_weight weight = graph->weights[index]; /* a copy: adding moves the array */
    SPEY_ASSERT(weight.n_dims == 2 || (weight.n_dims == 3 && !quant->one_scale));
    spey_weight scales = { .n_dims = weight.n_dims - 1,
                           .dims = { weight.dims[0], weight.n_dims == 3 ? weight.dims[1] : 0 },
                           .source = { .values = quant->scales } };
    if (quant->one_scale) scales.dims[0] = 1;
    if (weight.cut == SPEY_CUT_ROWS && !quant->one_scale) scales.cut = SPEY_CUT_ROWS;
    spey_weight input = { .n_dims = 1, .dims = { 1 }, .source = { .values = &quant->input_scale } };
    SPEY_TRY(add_scale(graph, &weight, "scale", scales, &weight.scale));
    if (quant->input == SPEY_INPUT_STATIC)
        SPEY_TRY(add_scale(graph, &weight, "input_scale", input, &weight.input_scale));
    weight.dtype = SPEY_E4M3;
    weight.input = quant->input;
    graph->weights[index] = weight;
    for (int p = 0; p < weight.n_parts; p++)
        graph->weights[weight.parts[p]].dtype = SPEY_E4M3;
    return SPEY_OK;
}

int spey_graph_scales(const spey_graph *graph, int32_t index, int32_t out[2])
{
    const spey_weight *weight = &graph->weights[index];
    if (weight->dtype != SPEY_E4M3) return 0;
    out[0] = weight->scale;
    out[1] = weight->input_scale;
    return weight->input == SPEY_INPUT_STATIC ? 2 : 1;
}

int32_t spey_graph_find_weight(const spey_graph *graph, const char *name)
{
    int64_t index;
    return spey_map_get(&graph->weight_index, name, strlen(name), &index) ? (int32_t)index : -1;
}

static spey_status check_cache_scales(const spey_graph *graph, const spey_cache_group *group)
{
    if (!group->scaled) return SPEY_OK;
    SPEY_ASSERT(group->scales >= 0 && group->scales < graph->n_weights);
    const spey_weight *scales = &graph->weights[group->scales];
    const int64_t *dims = scales->dims;
    if (!group->state && scales->dtype == SPEY_F32 && scales->n_dims == 3 &&
        dims[0] == group->layers && dims[1] == 2 && dims[2] == group->heads)
        return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "cache %d: scales %s are not f32 [layers,2,heads]",
                     graph->n_caches, scales->name);
}

spey_status spey_graph_scale_cache(spey_graph *graph, int cache, const float *scales)
{
    spey_cache_group *group = &graph->caches[cache];
    char name[32];
    SPEY_ASSERT(cache >= 0 && cache < graph->n_caches && !group->state && !group->scaled);
    snprintf(name, sizeof name, "cache.%d.scales", cache);
    const spey_weight weight = { .name = name,
                                 .dtype = SPEY_F32,
                                 .n_dims = 3,
                                 .dims = { group->layers, 2, group->heads },
                                 .source = { .values = scales } };
    SPEY_TRY(spey_graph_add_weight(graph, &weight, &group->scales));
    group->scaled = true;
    return SPEY_OK;
}

spey_status spey_graph_add_cache(spey_graph *graph, const spey_cache_group *group, int *out_index)
{
    if (graph->n_caches >= SPEY_CACHE_GROUPS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "more than %d cache groups", SPEY_CACHE_GROUPS_MAX);
    bool kv = group->heads >= 1 && group->heads <= SPEY_HEADS_MAX && group->k_dim >= 1 &&
              group->k_dim <= SPEY_HEAD_DIM_MAX && group->v_dim >= 1 &&
              group->v_dim <= SPEY_HEAD_DIM_MAX && group->window >= 0 &&
              group->window <= SPEY_POSITIONS_MAX && !(group->source && group->window) &&
              (group->source || !group->scratch);
    bool state = group->state >= 1 && group->state <= SPEY_STATE_ELEMENTS_MAX &&
                 !(group->heads | group->k_dim | group->v_dim | group->window) && !group->source &&
                 !group->scratch;
    bool layers = group->layers >= 1 && group->layers <= SPEY_LAYERS_MAX;
    if (group->state && !(layers && state))
        return SPEY_FAIL(SPEY_INVALID, "cache %d: layers=%lld elements=%lld", graph->n_caches,
                         (long long)group->layers, (long long)group->state);
    if (!group->state && !(layers && kv))
        return SPEY_FAIL(
            SPEY_INVALID, "cache %d: layers=%lld heads=%lld k_dim=%lld v_dim=%lld window=%lld",
            graph->n_caches, (long long)group->layers, (long long)group->heads,
            (long long)group->k_dim, (long long)group->v_dim, (long long)group->window);
    SPEY_TRY(check_cache_scales(graph, group));
    graph->caches[graph->n_caches] = *group;
    *out_index = graph->n_caches++;
    return SPEY_OK;
}

/* ---- nodes ---- */

spey_status spey_graph_add_node(spey_graph *graph, const spey_node *node, int32_t *out_node)
{
    spey_node copy = *node;
    spey_value_info outputs[SPEY_NODE_OUTPUTS_MAX];
    SPEY_TRY(spey_graph_infer(graph, &copy, outputs));
    if (graph->n_nodes >= SPEY_GRAPH_NODES_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "more than %d nodes", SPEY_GRAPH_NODES_MAX);
    SPEY_TRY(grow((void **)&graph->nodes, graph->n_nodes, &graph->cap_nodes, sizeof copy));
    copy.n_outputs = spey_graph_op_outputs(copy.op);
    for (int i = 0; i < copy.n_outputs; i++)
        SPEY_TRY(grow((void **)&graph->values, graph->n_values + i, &graph->cap_values,
                      sizeof *graph->values));
    for (int i = 0; i < SPEY_NODE_OUTPUTS_MAX; i++)
        copy.outputs[i] = SPEY_NO_VALUE;
    for (int i = 0; i < copy.n_outputs; i++) {
        outputs[i].node = graph->n_nodes;
        copy.outputs[i] = graph->n_values;
        graph->values[graph->n_values++] = outputs[i];
    }
    if (out_node) *out_node = graph->n_nodes;
    graph->nodes[graph->n_nodes++] = copy;
    return SPEY_OK;
}

static bool has(const spey_node *node, spey_attr attr)
{
    SPEY_ASSERT(attr < SPEY_ATTR_COUNT);
    return node->attrs_set >> attr & 1;
}

int64_t spey_node_int(const spey_node *node, spey_attr attr, int64_t missing)
{
    SPEY_ASSERT(spey_attr_kind(attr) == 'I');
    return has(node, attr) ? node->attrs[attr].i : missing;
}

double spey_node_number(const spey_node *node, spey_attr attr, double missing)
{
    SPEY_ASSERT(spey_attr_kind(attr) == 'F');
    return has(node, attr) ? node->attrs[attr].f : missing;
}

const char *spey_node_text(const spey_node *node, spey_attr attr, const char *missing)
{
    SPEY_ASSERT(spey_attr_kind(attr) == 'S');
    return has(node, attr) ? node->attrs[attr].s : missing;
}

void spey_node_set_int(spey_node *node, spey_attr attr, int64_t value)
{
    SPEY_ASSERT(spey_attr_kind(attr) == 'I');
    node->attrs[attr].i = value;
    node->attrs_set |= (uint64_t)1 << attr;
}

void spey_node_set_number(spey_node *node, spey_attr attr, double value)
{
    SPEY_ASSERT(spey_attr_kind(attr) == 'F');
    node->attrs[attr].f = value;
    node->attrs_set |= (uint64_t)1 << attr;
}

void spey_node_set_text(spey_node *node, spey_attr attr, const char *value)
{
    SPEY_ASSERT(spey_attr_kind(attr) == 'S');
    node->attrs[attr].s = value;
    node->attrs_set |= (uint64_t)1 << attr;
}

spey_rows spey_graph_node_rows(const spey_graph *graph, const spey_node *node)
{
    SPEY_ASSERT(node->n_outputs + node->n_inputs > 0);
    return graph->values[node->n_outputs ? node->outputs[0] : node->inputs[0]].rows;
}

bool spey_graph_has_encoder(const spey_graph *graph)
{
    for (int v = 0; v < graph->n_values; v++)
        if (graph->values[v].rows == SPEY_ROWS_SOURCE) return true;
    return false;
}

void spey_graph_mark_weights(const spey_graph *graph, bool *used)
{
    for (int w = 0; w < graph->n_weights; w++)
        used[w] = false;
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        for (int w = 0; node->op != SPEY_GRAPH_REMOVED && w < node->n_weights; w++) {
            int32_t scales[2];
            int n_scales = spey_graph_scales(graph, node->weights[w], scales);
            used[node->weights[w]] = true;
            for (int i = 0; i < n_scales; i++)
                used[scales[i]] = true;
        }
    }
    for (int c = 0; c < graph->n_caches; c++)
        if (graph->caches[c].scaled) used[graph->caches[c].scales] = true;
}
