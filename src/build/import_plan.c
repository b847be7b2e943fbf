#include "build/import_plan.h"

#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "build/import_quant.h"
#include "engine/engine_format.h"

int64_t spey_weight_matrices(const spey_weight *weight)
{
    return weight->source.stack == SPEY_STACK_NONE ? 1 : weight->dims[0];
}

spey_matrix_shape spey_weight_shape(const spey_weight *weight)
{
    int first = weight->source.stack == SPEY_STACK_NONE ? 0 : 1;
    spey_matrix_shape shape = { .rows = weight->dims[first], .cols = 1 };
    for (int i = first + 1; i < weight->n_dims; i++)
        shape.cols *= weight->dims[i];
    return shape;
}

spey_source_rows spey_weight_rows(const spey_weight *weight)
{
    const spey_weight_source *source = &weight->source;
    int64_t rows = spey_weight_shape(weight).rows;
    if (source->n_pieces == 0 || source->stack == SPEY_STACK_PIECES)
        return (spey_source_rows){ 0, rows, rows, 1 };
    return (spey_source_rows){ source->row_begin, source->row_piece, source->row_stride,
                               source->n_pieces };
}

/* ---- what the engine stores ---- */

static spey_status add_weight(const spey_graph *graph, int32_t index, spey_import_weights *out)
{
    const spey_weight *weight = &graph->weights[index];
    spey_engine_tensor *tensor = &out->tensors[out->n];
    *tensor = (spey_engine_tensor){ .name = weight->name,
                                    .dtype = weight->dtype,
                                    .n_dims = weight->n_dims };
    for (int i = 0; i < weight->n_dims; i++)
        tensor->dims[i] = weight->dims[i];
    uint64_t bytes;
    if (!spey_engine_tensor_bytes((uint32_t)weight->dtype, (uint32_t)weight->n_dims, weight->dims,
                                  &bytes))
        return SPEY_FAIL(SPEY_FORMAT, "weight %s has an impossible shape", weight->name);
    tensor->bytes = (size_t)bytes;
    if (weight->dtype == SPEY_F32) tensor->data = weight->source.values;
    out->weights[out->n++] = index;
    out->bytes += bytes;
    int n_leaves = weight->n_parts ? weight->n_parts : 1;
    for (int i = 0; i < n_leaves; i++) {
        const spey_weight *leaf = weight->n_parts ? &graph->weights[weight->parts[i]] : weight;
        spey_matrix_shape shape = spey_weight_shape(leaf);
        int64_t elements = spey_weight_matrices(leaf) * shape.rows * shape.cols;
        if (leaf->source.tensor) out->n_parameters += (uint64_t)elements;
    }
    return SPEY_OK;
}

/* A weight that a node reads, and behind it its scales, which are known when it has been written. */
static spey_status list_weight(const spey_graph *graph, int32_t index, bool *listed,
                               spey_import_weights *out)
{
    int32_t scales[2];
    if (listed[index]) return SPEY_OK;
    listed[index] = true;
    SPEY_TRY(add_weight(graph, index, out));
    int n_scales = spey_graph_scales(graph, index, scales);
    for (int i = 0; i < n_scales; i++)
        SPEY_TRY(list_weight(graph, scales[i], listed, out));
    return SPEY_OK;
}

static spey_status list_weights(const spey_graph *graph, bool *listed, spey_import_weights *out)
{
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        for (int w = 0; w < node->n_weights; w++)
            SPEY_TRY(list_weight(graph, node->weights[w], listed, out));
    }
    for (int c = 0; c < graph->n_caches; c++)
        if (graph->caches[c].scaled)
            SPEY_TRY(list_weight(graph, graph->caches[c].scales, listed, out));
    return SPEY_OK;
}

spey_status spey_import_weights_list(const spey_graph *graph, spey_import_weights *out)
{
    *out = (spey_import_weights){ 0 };
    bool *listed = spey_new_array(SPEY_PURPOSE_GENERAL, bool, graph->n_weights);
    spey_import_weights weights = {
        .weights = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, graph->n_weights),
        .tensors = spey_new_array(SPEY_PURPOSE_GENERAL, spey_engine_tensor, graph->n_weights),
    };
    spey_status status = SPEY_NOMEM;
    if (listed && weights.weights && weights.tensors)
        status = list_weights(graph, listed, &weights);
    spey_free(listed);
    if (status)
        spey_import_weights_deinit(&weights);
    else
        *out = weights;
    return status;
}

void spey_import_weights_deinit(spey_import_weights *weights)
{
    spey_free(weights->weights);
    spey_free(weights->tensors);
    *weights = (spey_import_weights){ 0 };
}

/* ---- matching names ---- */

/* By the name itself, then by the others that the checkpoint may use for it. */
static const spey_safetensor *resolve(const spey_safetensors *tensors, const char *name)
{
    const spey_safetensor *tensor = spey_safetensors_find(tensors, name);
    char alias[SPEY_NAME_BYTES_MAX];
    for (int i = 0; !tensor && spey_model_tensor_alias(name, i, alias); i++)
        tensor = spey_safetensors_find(tensors, alias);
    return tensor;
}

int spey_import_sources(const spey_weight *weight)
{
    if (weight->n_parts || !weight->source.tensor) return 0;
    return weight->source.stack == SPEY_STACK_TENSORS ? (int)weight->dims[0] : 1;
}

/* The name of tensor k of a leaf: of a stack with k in place of the '*'. */
static const char *source_name(const spey_weight *weight, int k, char out[SPEY_NAME_BYTES_MAX])
{
    const char *name = weight->source.tensor, *star = strchr(name, '*');
    if (weight->source.stack != SPEY_STACK_TENSORS || !star) return name;
    int n = snprintf(out, SPEY_NAME_BYTES_MAX, "%.*s%d%s", (int)(star - name), name, k, star + 1);
    SPEY_ASSERT(n < SPEY_NAME_BYTES_MAX);
    return out;
}

const spey_safetensor *spey_import_find(const spey_safetensors *tensors, const spey_weight *leaf,
                                        int k)
{
    char name[SPEY_NAME_BYTES_MAX];
    return resolve(tensors, source_name(leaf, k, name));
}

/* Does the leaf ask for a tensor of that name? */
static bool asks_for(const spey_weight *weight, const char *name)
{
    char full[SPEY_NAME_BYTES_MAX];
    const char *star = weight->source.tensor ? strchr(weight->source.tensor, '*') : NULL;
    int n = spey_import_sources(weight);
    if (n > 1 && star) {
        size_t prefix = (size_t)(star - weight->source.tensor);
        if (strncmp(weight->source.tensor, name, prefix) != 0) return false;
        int k = 0; /* only this one can be it */
        for (const char *digit = name + prefix; *digit >= '0' && *digit <= '9' && k < n; digit++)
            k = 10 * k + (*digit - '0');
        return k < n && !strcmp(source_name(weight, k, full), name);
    }
    return n > 0 && !strcmp(source_name(weight, 0, full), name);
}

static bool is_expected(const void *context, const char *name)
{
    const spey_graph *graph = context;
    for (int i = 0; i < graph->n_weights; i++)
        if (asks_for(&graph->weights[i], name)) return true;
    return false;
}

/* The hint is a name that nothing else asks for: a misspelling, not a neighbour. */
static spey_status fail_missing(const spey_import *import, const char *name)
{
    const char *nearest =
        spey_safetensors_nearest(import->tensors, name, is_expected, import->graph);
    if (!nearest)
        return SPEY_FAIL(SPEY_NOT_FOUND,
                         "the checkpoint has no tensor %s, nor one that the model does not know",
                         name);
    return SPEY_FAIL(SPEY_NOT_FOUND, "the checkpoint has no tensor %s (nearest: %s)", name,
                     nearest);
}

static spey_status find_source(const spey_import *import, const char *name, int at)
{
    const spey_safetensor *source = resolve(import->tensors, name);
    if (!source) return fail_missing(import, name);
    import->sources[at] = source;
    if (source->dtype == SPEY_E4M3)
        return spey_source_scale_find(import->tensors, source, &import->scales[at]);
    if (!spey_dtype_is_float(source->dtype))
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "tensor %s is %s; weights can be read from f32, f16, bf16, f64 and e4m3 "
                         "(is this a quantized checkpoint?)",
                         source->name, spey_dtype_name(source->dtype));
    return SPEY_OK;
}

static spey_status find_sources(spey_import *import)
{
    char name[SPEY_NAME_BYTES_MAX];
    for (int i = 0; i < import->graph->n_weights; i++) {
        const spey_weight *weight = &import->graph->weights[i];
        for (int k = 0; k < spey_import_sources(weight); k++)
            SPEY_TRY(
                find_source(import, source_name(weight, k, name), import->first_source[i] + k));
    }
    return SPEY_OK;
}

/* Room for the tensors of all leaves. */
static spey_status count_sources(spey_import *import)
{
    int64_t n = 0;
    import->first_source = spey_new_array(SPEY_PURPOSE_GENERAL, int, import->graph->n_weights + 1);
    if (!import->first_source) return SPEY_NOMEM;
    for (int i = 0; i < import->graph->n_weights; i++) {
        n += spey_import_sources(&import->graph->weights[i]);
        if (n > SPEY_TENSORS_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "the model reads more than %d tensors", SPEY_TENSORS_MAX);
        import->first_source[i + 1] = (int)n;
    }
    import->sources = spey_new_array(SPEY_PURPOSE_GENERAL, const spey_safetensor *, n);
    import->scales = spey_new_array(SPEY_PURPOSE_GENERAL, spey_source_scale, n);
    return import->sources && import->scales ? SPEY_OK : SPEY_NOMEM;
}

/* ---- shapes ---- */

/* The tensors of a set are one array. */
static int tensor_index(const spey_safetensors *tensors, const spey_safetensor *tensor)
{
    return (int)(tensor - spey_safetensors_at(tensors, 0));
}

static spey_status fail_shape(const spey_safetensor *tensor, int n_dims, const int64_t *expected)
{
    char found_text[SPEY_SHAPE_TEXT_BYTES], expected_text[SPEY_SHAPE_TEXT_BYTES];
    return SPEY_FAIL(SPEY_FORMAT, "tensor %s is %s, expected %s", tensor->name,
                     spey_shape_text(found_text, tensor->n_dims, tensor->dims),
                     spey_shape_text(expected_text, n_dims, expected));
}

/* Pieces of a matrix that are matrices themselves. */
static spey_status check_pieces(const spey_weight *weight, const spey_safetensor *tensor,
                                int64_t rows)
{
    const spey_weight_source *source = &weight->source;
    const int64_t piece = weight->dims[source->transpose ? 2 : 1];
    const int64_t expected[] = { rows, weight->dims[source->transpose ? 1 : 2] };
    SPEY_ASSERT(source->row_piece == piece && source->n_pieces == weight->dims[0]);
    if (tensor->n_dims != 2 || tensor->dims[0] != expected[0] || tensor->dims[1] != expected[1])
        return fail_shape(tensor, 2, expected);
    SPEY_ASSERT(source->row_begin + (source->n_pieces - 1) * source->row_stride + piece <= rows);
    return SPEY_OK;
}

/* `rows` is how many rows all leaves that read this tensor take from it. */
static spey_status check_shape(const spey_weight *weight, const spey_safetensor *tensor,
                               int64_t rows)
{
    const spey_weight_source *source = &weight->source;
    if (source->stack == SPEY_STACK_PIECES) return check_pieces(weight, tensor, rows);
    int64_t all[SPEY_DIMS_MAX] = { 0 }, *expected = all;
    int n_dims = weight->n_dims;
    for (int i = 0; i < n_dims; i++)
        all[i] = weight->dims[i];
    int64_t *matrix = source->stack == SPEY_STACK_NONE ? all : all + 1;
    if (source->as_row) {
        all[n_dims++] = all[0];
        all[0] = 1;
    }
    if (source->n_pieces) matrix[0] = rows;
    int64_t held = matrix[0];
    if (source->transpose) {
        SPEY_ASSERT(matrix + 2 == all + n_dims);
        matrix[0] = matrix[1];
        matrix[1] = held;
    }
    if (source->stack == SPEY_STACK_TENSORS) {
        expected = matrix;
        n_dims--;
    }
    if (tensor->n_dims != n_dims) return fail_shape(tensor, n_dims, expected);
    for (int i = 0; i < n_dims; i++)
        if (tensor->dims[i] != expected[i]) return fail_shape(tensor, n_dims, expected);
    spey_source_rows from = spey_weight_rows(weight);
    SPEY_ASSERT(from.n_pieces * from.piece == spey_weight_shape(weight).rows);
    int64_t last = from.begin + (from.n_pieces - 1) * from.stride + from.piece;
    if (source->as_row) held = all[1];
    if (from.begin < 0 || last > held)
        return SPEY_FAIL(SPEY_INTERNAL,
                         "weight %s reads row %" PRId64 " of tensor %s, which has %" PRId64,
                         weight->name, last - 1, tensor->name, held);
    return SPEY_OK;
}

/* From each of its tensors. */
static int64_t rows_taken(const spey_weight *weight)
{
    bool pieces = weight->source.stack == SPEY_STACK_PIECES;
    return pieces ? weight->source.n_pieces * weight->source.row_piece
                  : spey_weight_shape(weight).rows;
}

/* Fused tensors are read by several leaves, each taking some of the rows: together they take all of them. */
static spey_status check_shapes(const spey_import *import, int64_t *rows)
{
    const spey_graph *graph = import->graph;
    for (int i = 0; i < graph->n_weights; i++) {
        const spey_weight *weight = &graph->weights[i];
        for (int k = import->first_source[i]; k < import->first_source[i + 1]; k++)
            if (weight->source.n_pieces)
                rows[tensor_index(import->tensors, import->sources[k])] += rows_taken(weight);
    }
    for (int i = 0; i < graph->n_weights; i++)
        for (int k = import->first_source[i]; k < import->first_source[i + 1]; k++)
            SPEY_TRY(check_shape(&graph->weights[i], import->sources[k],
                                 rows[tensor_index(import->tensors, import->sources[k])]));
    return SPEY_OK;
}

/* ---- tensors that nobody reads ---- */

static spey_status check_unused(const spey_import *import, const spey_model *model, bool *used)
{
    enum { NAMED_MAX = 5 };
    const spey_safetensors *tensors = import->tensors;
    for (int k = 0; k < import->first_source[import->graph->n_weights]; k++)
        used[tensor_index(tensors, import->sources[k])] = true;
    spey_strbuf names = { .max = SPEY_ERROR_BYTES_MAX };
    int n_unused = 0;
    for (int i = 0; i < spey_safetensors_count(tensors); i++) {
        const char *name = spey_safetensors_at(tensors, i)->name;
        if (used[i] || spey_model_ignores_tensor(model, name) ||
            spey_source_is_scale(tensors, name))
            continue;
        if (n_unused < NAMED_MAX)
            spey_strbuf_printf(&names, "%s%.150s", n_unused ? ", " : "", name);
        n_unused++;
    }
    spey_status status = SPEY_OK;
    if (n_unused)
        status = SPEY_FAIL(
            SPEY_FORMAT, "%d tensors of the checkpoint belong to nothing in the model: %s%s",
            n_unused, names.data ? names.data : "", n_unused > NAMED_MAX ? ", …" : "");
    spey_strbuf_deinit(&names);
    return status;
}

static spey_status fill_plan(spey_import *import, const spey_model *model)
{
    size_t n_tensors = (size_t)spey_safetensors_count(import->tensors);
    int64_t *rows = spey_new_array(SPEY_PURPOSE_GENERAL, int64_t, n_tensors);
    bool *used = spey_new_array(SPEY_PURPOSE_GENERAL, bool, n_tensors);
    spey_status status = rows && used ? SPEY_OK : SPEY_NOMEM;
    if (!status) status = count_sources(import);
    if (!status) status = find_sources(import);
    if (!status) status = check_shapes(import, rows);
    if (!status) status = check_unused(import, model, used);
    spey_free(rows);
    spey_free(used);
    return status;
}

spey_status spey_import_plan(const spey_graph *graph, const spey_model *model,
                             const spey_safetensors *tensors, spey_import **out)
{
    *out = NULL;
    spey_import *import = spey_new(SPEY_PURPOSE_GENERAL, spey_import);
    if (!import) return SPEY_NOMEM;
    import->graph = graph;
    import->tensors = tensors;
    spey_status status = fill_plan(import, model);
    if (status) {
        spey_import_free(import);
        return status;
    }
    *out = import;
    return SPEY_OK;
}

void spey_import_free(spey_import *import)
{
    if (!import) return;
    spey_free((void *)(uintptr_t)import->sources);
    spey_free(import->scales);
    spey_free(import->first_source);
    spey_quantizer_free(import->quantizer);
    spey_free(import->buffer);
    spey_free(import);
}
