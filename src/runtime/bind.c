#include "runtime/bind.h"

#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "kernels/registry.h"
#include "runtime/layout.h"

#define CHECK_ROWS_FIRST(type) \
    _Static_assert(offsetof(type, rows) == 0, "rows is the first field of every args struct")
CHECK_ROWS_FIRST(spey_embed_args);
CHECK_ROWS_FIRST(spey_norm_args);
CHECK_ROWS_FIRST(spey_gemm_args);
CHECK_ROWS_FIRST(spey_rope_table_args);
CHECK_ROWS_FIRST(spey_rope_args);
CHECK_ROWS_FIRST(spey_rope_append_args);
CHECK_ROWS_FIRST(spey_kv_append_args);
CHECK_ROWS_FIRST(spey_attention_args);
CHECK_ROWS_FIRST(spey_glu_args);
CHECK_ROWS_FIRST(spey_unary_args);
CHECK_ROWS_FIRST(spey_add_args);
CHECK_ROWS_FIRST(spey_gather_args);
CHECK_ROWS_FIRST(spey_concat_args);
CHECK_ROWS_FIRST(spey_route_args);
CHECK_ROWS_FIRST(spey_expert_linear_args);
CHECK_ROWS_FIRST(spey_causal_conv_args);
CHECK_ROWS_FIRST(spey_selective_scan_args);

typedef struct binder {
    const spey_program *program;
    const spey_layout *layout;
    spey_bases bases;
    bool planning; /* weights have made-up addresses */
    spey_binding *out;
    bool *counted;            /* per weight: in weight_bytes */
    const spey_node *product; /* the last node that was bound, if that is a linear */
} binder;

/* An operand: its first element and its pitch in elements. */
typedef struct operand {
    uint8_t *data;
    int64_t pitch;
    int64_t cols;
    spey_dtype dtype;
    spey_input_quant quant; /* how E4M3 is rounded */
    float *scales;          /* of its rows, or the static one, which is only read */
} operand;

static const float *scale_at(const binder *b, int32_t index)
{
    return b->planning ? b->bases.workspace : b->bases.weights[index];
}

static spey_dtype dtype_of(const spey_program *program, spey_width width)
{
    switch (width) {
    case SPEY_WIDTH_WIDE: return SPEY_F32;
    case SPEY_WIDTH_INPUT: return program->input_dtype;
    case SPEY_WIDTH_E4M3: return SPEY_E4M3;
    default: return program->activation_dtype;
    }
}

/* Behind the rows; or where the products that it is rounded for have theirs. */
static void find_scales(const binder *b, spey_value value, operand *x)
{
    const spey_graph *graph = b->program->graph;
    const spey_memplan_limits *limits = &b->layout->memplan_limits;
    const spey_weight *reader = &graph->weights[b->layout->memplan->values[value].rounded_for];
    const bool outputs = graph->values[value].rows == SPEY_ROWS_OUTPUTS;
    const int64_t rows = outputs ? limits->outputs_max : limits->tokens_max;
    x->quant = reader->input;
    x->scales = x->quant == SPEY_INPUT_TOKEN
                    ? (float *)(void *)(x->data + (size_t)rows * (size_t)x->pitch)
                    : (float *)scale_at(b, reader->input_scale);
}

/* The logits are not in the arena: callers read them after the step, dense and in FP32 on every device. Whatever shares
 * their memory lies there with them. */
static operand value_operand(const binder *b, spey_value value)
{
    const spey_graph *graph = b->program->graph;
    const spey_memplan *memplan = b->layout->memplan;
    const spey_placement *place = &memplan->values[value];
    operand x = { .cols = graph->values[value].cols };
    if (place->storage == memplan->values[graph->output].storage) {
        x.data = b->bases.logits;
        x.pitch = b->program->info->vocab_size;
        x.dtype = SPEY_F32;
    } else {
        x.data = b->bases.activations + place->offset;
        x.pitch = place->pitch;
        x.dtype = dtype_of(b->program, place->width);
        if (place->width == SPEY_WIDTH_E4M3) find_scales(b, value, &x);
    }
    return x;
}

static operand input(const binder *b, const spey_node *node, int i)
{
    SPEY_ASSERT(i < node->n_inputs);
    return value_operand(b, node->inputs[i]);
}

static operand output(const binder *b, const spey_node *node, int i)
{
    SPEY_ASSERT(i < node->n_outputs);
    return value_operand(b, node->outputs[i]);
}

/* The address of the node's i-th weight; NULL when it has fewer. */
static const void *weight(const binder *b, const spey_node *node, int i)
{
    if (i >= node->n_weights) return NULL;
    return b->planning ? b->bases.workspace : b->bases.weights[node->weights[i]];
}

static const spey_weight *weight_info(const binder *b, const spey_node *node, int i)
{
    return &b->program->graph->weights[node->weights[i]];
}

/* Scales of the node's matrix; NULL when it is not E4M3. */
static const float *weight_scale(const binder *b, const spey_weight *w)
{
    return w->dtype == SPEY_E4M3 ? scale_at(b, w->scale) : NULL;
}

/* On the CPU inputs stay as they are: it computes in 16 or 32 bits, and rounding them would cost time and accuracy. */
static spey_input_quant input_quant(const binder *b, const spey_weight *w)
{
    bool keeps = w->dtype != SPEY_E4M3 || b->program->device_info.host_memory;
    return keeps ? SPEY_INPUT_AS_IS : w->input;
}

static const float *input_scale(const binder *b, const spey_weight *w)
{
    return input_quant(b, w) == SPEY_INPUT_STATIC ? scale_at(b, w->input_scale) : NULL;
}

/* Weights that kernels read as arrays of float. */
static spey_status check_f32(const binder *b, const spey_node *node, int first)
{
    for (int i = first; i < node->n_weights; i++)
        if (weight_info(b, node, i)->dtype != SPEY_F32)
            return SPEY_FAIL(SPEY_FORMAT, "%s: %s is %s, f32 is needed",
                             spey_graph_op_name(node->op), weight_info(b, node, i)->name,
                             spey_dtype_name(weight_info(b, node, i)->dtype));
    return SPEY_OK;
}

static spey_rows node_rows(const binder *b, const spey_node *node)
{
    return spey_graph_node_rows(b->program->graph, node);
}

static spey_activation activation(const spey_node *node)
{
    static const char *const texts[] = {
#define ACTIVATION_TEXT(name, text) text,
        SPEY_ACTIVATION_LIST(ACTIVATION_TEXT)
#undef ACTIVATION_TEXT
    };
    const char *text = spey_node_text(node, SPEY_ATTR_ACT, "none");
    int i = 0;
    while (i < SPEY_ACT_COUNT && strcmp(texts[i], text) != 0)
        i++;
    SPEY_ASSERT(i < SPEY_ACT_COUNT); /* the graph was checked */
    return (spey_activation)i;
}

static spey_rope_pairing pairing(const spey_node *node)
{
    bool half = !strcmp(spey_node_text(node, SPEY_ATTR_PAIRING, "half"), "half");
    return half ? SPEY_ROPE_HALF : SPEY_ROPE_INTERLEAVED;
}

static float number(const spey_node *node, spey_attr attr, double missing)
{
    return (float)spey_node_number(node, attr, missing);
}

static spey_kv_view kv_view(const binder *b, const spey_node *node)
{
    int64_t group = spey_node_int(node, SPEY_ATTR_CACHE, 0);
    int64_t layer = spey_node_int(node, SPEY_ATTR_LAYER, 0);
    SPEY_ASSERT(group >= 0 && group < b->program->graph->n_caches);
    SPEY_ASSERT(layer >= 0 && layer < b->program->graph->caches[group].layers);
    const spey_kv_pool *pool = &b->layout->pools[group];
    if (b->program->graph->caches[group].scratch) layer = 0;
    spey_kv_view view = {
        .base = b->bases.kv[group],
        .dtype = b->layout->kv_dtype,
        .group = (int32_t)group,
        .block_tokens = b->layout->kv.block_tokens,
        .block_bytes = pool->block_bytes,
        .k_offset = layer * pool->layer_bytes,
        .v_offset = layer * pool->layer_bytes + pool->k_bytes,
        .k_head_bytes = pool->k_head_bytes,
        .v_head_bytes = pool->v_head_bytes,
        .k_token_bytes = pool->k_token_bytes,
        .v_token_bytes = pool->v_token_bytes,
    };
    const spey_cache_group *kv = &b->program->graph->caches[group];
    if (view.dtype == SPEY_E4M3 && kv->scaled) {
        view.k_scale =
            scale_at(b, kv->scales) + 2 * spey_node_int(node, SPEY_ATTR_LAYER, 0) * kv->heads;
        view.v_scale = view.k_scale + kv->heads;
    }
    if (view.dtype == SPEY_I8) {
        int64_t scales = b->program->graph->caches[group].heads * view.block_tokens;
        if (view.base) view.token_scales = (float *)(void *)(view.base + pool->scales_offset);
        view.scale_block = pool->block_bytes / (int64_t)sizeof(float);
        view.k_scales = 2 * layer * scales;
        view.v_scales = view.k_scales + scales;
    }
    return view;
}

static spey_state_view state_view(const binder *b, const spey_node *node)
{
    int64_t group = spey_node_int(node, SPEY_ATTR_CACHE, 0);
    int64_t layer = spey_node_int(node, SPEY_ATTR_LAYER, 0);
    SPEY_ASSERT(group >= 0 && group < b->program->graph->n_caches);
    SPEY_ASSERT(layer >= 0 && layer < b->program->graph->caches[group].layers);
    const spey_kv_pool *pool = &b->layout->pools[group];
    return (spey_state_view){ .base = b->bases.kv[group],
                              .group = (int32_t)group,
                              .block_bytes = pool->block_bytes,
                              .offset = layer * pool->layer_bytes };
}

/* ---- steps ---- */

/* Choose the row of a step whose args are filled in but for rows and workspace. */
static spey_status finish(binder *b, const char *op, spey_rows rows, spey_any_args *args)
{
    spey_binding *out = b->out;
    const spey_memplan_limits *limits = &b->layout->memplan_limits;
    args->rows = rows == SPEY_ROWS_OUTPUTS ? limits->outputs_max : limits->tokens_max;
    spey_step *step = &out->steps[out->sizes.n_steps];
    if (b->layout->plan.limits.batch_invariant)
        SPEY_TRY(spey_kernel_choose_invariant(b->program->backend, op, args, &step->kernel));
    else
        SPEY_TRY(spey_kernel_choose(b->program->backend, op, args, &step->kernel));
    step->args = args;
    size_t bytes = step->kernel->workspace ? step->kernel->workspace(args) : 0;
    if (bytes > out->sizes.workspace_bytes) out->sizes.workspace_bytes = bytes;
    out->rows[out->sizes.n_steps++] = rows;
    if (rows == SPEY_ROWS_SOURCE) out->n_source_steps = out->sizes.n_steps;
    if (rows == SPEY_ROWS_TOKENS) out->n_token_steps = out->sizes.n_steps;
    return SPEY_OK;
}

static spey_status bind_embed(binder *b, const spey_node *node, spey_any_args *args)
{
    operand out = output(b, node, 0);
    const spey_weight *table = weight_info(b, node, 0);
    int64_t begin = spey_node_int(node, SPEY_ATTR_BEGIN, 0), numbers = table->dims[0] - begin;
    bool positions = !strcmp(spey_node_text(node, SPEY_ATTR_SOURCE, "ids"), "positions");
    spey_rows rows = node_rows(b, node);
    int64_t longest = rows == SPEY_ROWS_SOURCE ? b->layout->kv.cross_tokens_max
                                               : b->layout->kv.sequence_tokens_max;
    if (positions && longest > numbers)
        return SPEY_FAIL(SPEY_FORMAT, "%s has %lld positions, sequences may have %lld tokens",
                         table->name, (long long)numbers, (long long)longest);
    if (!positions && numbers < b->out->n_ids) b->out->n_ids = numbers;
    if (b->bases.prompt_rows && out.cols != b->program->info->hidden_size)
        return SPEY_FAIL(SPEY_UNSUPPORTED,
                         "%s has rows of %lld numbers, the hidden size is %lld: no prompt tables",
                         table->name, (long long)out.cols,
                         (long long)b->program->info->hidden_size);
    args->embed = (spey_embed_args){
        .cols = out.cols,
        .batch = b->bases.batch,
        .source = positions ? SPEY_EMBED_POSITIONS : SPEY_EMBED_IDS,
        .begin = begin,
        .table = weight(b, node, 0),
        .table_dtype = table->dtype,
        .own = positions ? NULL : b->bases.prompt_rows,
        .scale = number(node, SPEY_ATTR_SCALE, 1),
        .out = out.data,
        .out_dtype = out.dtype,
        .out_pitch = out.pitch,
    };
    return finish(b, "embed", rows, args);
}

static spey_status bind_norm(binder *b, const spey_node *node, spey_any_args *args)
{
    bool sums = node->op == SPEY_GRAPH_ADD_NORM;
    operand x = input(b, node, 0), out = output(b, node, sums ? 1 : 0);
    SPEY_TRY(check_f32(b, node, 0));
    int64_t groups = spey_node_int(node, SPEY_ATTR_GROUPS, 1);
    bool rms = !strcmp(spey_node_text(node, SPEY_ATTR_KIND, "rms"), "rms");
    args->norm = (spey_norm_args){
        .cols = x.cols / groups,
        .groups = groups,
        .kind = rms ? SPEY_NORM_RMS : SPEY_NORM_LAYER,
        .x_dtype = x.dtype,
        .out_dtype = out.dtype,
        .x = x.data,
        .x_pitch = x.pitch,
        .weight = weight(b, node, 0),
        .bias = weight(b, node, 1),
        .weight_offset = number(node, SPEY_ATTR_OFFSET, 0),
        .eps = number(node, SPEY_ATTR_EPS, 0),
        .out = out.data,
        .out_pitch = out.pitch,
        .out_quant = out.quant,
        .out_scale = out.scales,
    };
    if (sums) {
        operand residual = input(b, node, 1), sum = output(b, node, 0);
        args->norm.residual = residual.data;
        args->norm.residual_pitch = residual.pitch;
        args->norm.residual_dtype = residual.dtype;
        args->norm.sum = sum.data;
        args->norm.sum_pitch = sum.pitch;
        args->norm.sum_dtype = sum.dtype;
    }
    return finish(b, "norm", node_rows(b, node), args);
}

static bool has_one_scale(const binder *b, const spey_weight *w)
{
    return w->dtype == SPEY_E4M3 && b->program->graph->weights[w->scale].dims[0] != w->dims[0];
}

static spey_status bind_linear(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), y = output(b, node, 0);
    const spey_weight *w = weight_info(b, node, 0);
    SPEY_TRY(check_f32(b, node, 1));
    args->gemm = (spey_gemm_args){
        .n = w->dims[0],
        .k = w->dims[1],
        .x = x.data,
        .x_dtype = x.dtype,
        .x_pitch = x.pitch,
        .w = weight(b, node, 0),
        .w_dtype = w->dtype,
        .w_pitch = w->dims[1],
        .w_scale = weight_scale(b, w),
        .w_scale_step = has_one_scale(b, w) ? 0 : 1,
        .x_quant = input_quant(b, w),
        .x_scale = x.dtype == SPEY_E4M3 ? x.scales : input_scale(b, w),
        .bias = weight(b, node, 1),
        .activation = activation(node),
        .precision = b->program->precision,
        .y = y.data,
        .y_dtype = y.dtype,
        .y_pitch = y.pitch,
        .workspace = b->bases.workspace,
    };
    return finish(b, "gemm", node_rows(b, node), args);
}

static spey_status bind_unary(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), out = output(b, node, 0);
    args->unary = (spey_unary_args){
        .cols = x.cols,
        .activation = activation(node),
        .scale = number(node, SPEY_ATTR_SCALE, 1),
        .softcap = number(node, SPEY_ATTR_SOFTCAP, 0),
        .dtype = x.dtype,
        .x = x.data,
        .x_pitch = x.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
    };
    return finish(b, "unary", node_rows(b, node), args);
}

static spey_status bind_add(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), y = input(b, node, 1), out = output(b, node, 0);
    args->add = (spey_add_args){
        .cols = x.cols,
        .scale = number(node, SPEY_ATTR_SCALE, 1),
        .a_dtype = x.dtype,
        .b_dtype = y.dtype,
        .out_dtype = out.dtype,
        .a = x.data,
        .a_pitch = x.pitch,
        .b = y.data,
        .b_pitch = y.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
    };
    return finish(b, "add", node_rows(b, node), args);
}

/* Nobody else reads `value`. */
static bool is_read_by(const spey_graph *graph, spey_value value, const spey_node *reader)
{
    for (int i = 0; i < graph->n_nodes; i++)
        for (int j = 0; j < graph->nodes[i].n_inputs; j++)
            if (graph->nodes[i].inputs[j] == value && &graph->nodes[i] != reader) return false;
    return value != graph->output;
}

/* `product` makes two views, which `glu` alone reads. */
static bool is_glu_of(const spey_graph *graph, const spey_node *product, const spey_node *glu)
{
    for (int i = 0; i < graph->n_nodes; i++) {
        const spey_node *node = &graph->nodes[i];
        for (int j = 0; j < node->n_inputs; j++) {
            if (node->inputs[j] != product->outputs[0]) continue;
            if (node->op != SPEY_GRAPH_SLICE || !is_read_by(graph, node->outputs[0], glu))
                return false;
        }
    }
    return product->outputs[0] != graph->output;
}

/* A row may write glu's result while it still reads x. */
static bool spoils_input(const binder *b, const spey_gemm_args *gemm, const spey_glu_args *glu)
{
    const uintptr_t rows = (uintptr_t)b->layout->memplan_limits.tokens_max;
    const uintptr_t x = (uintptr_t)gemm->x, out = (uintptr_t)glu->out;
    const uintptr_t x_bytes = rows * (uintptr_t)gemm->x_pitch * spey_dtype_bytes(gemm->x_dtype);
    const uintptr_t out_bytes = rows * (uintptr_t)glu->out_pitch * spey_dtype_bytes(glu->out_dtype);
    return x < out + out_bytes && out < x + x_bytes;
}

/* A product of whose halves nothing but this glu is made does it, too, if its row can: one step. */
static bool join_product(binder *b, const spey_node *node, const spey_glu_args *glu)
{
    const spey_binding *out = b->out;
    const spey_step *step = &out->steps[out->sizes.n_steps - 1];
    spey_gemm_args *gemm = &out->args[out->sizes.n_steps - 1].gemm;
    const size_t half = (size_t)glu->cols * spey_dtype_bytes(glu->dtype);
    if (b->program->device_info.host_memory) return false; /* a step costs nothing there */
    if (gemm->n != 2 * glu->cols || gemm->activation != SPEY_ACT_NONE || glu->gate != gemm->y ||
        glu->up != (const uint8_t *)gemm->y + half || glu->dtype != gemm->y_dtype ||
        glu->gate_pitch != gemm->y_pitch || glu->up_pitch != gemm->y_pitch ||
        !is_glu_of(b->program->graph, b->product, node) || spoils_input(b, gemm, glu))
        return false;
    gemm->glu = *glu;
    if (step->kernel->supports(gemm)) return true;
    gemm->glu = (spey_glu_args){ 0 };
    return false;
}

static spey_status bind_glu(binder *b, const spey_node *node, spey_any_args *args)
{
    operand gate = input(b, node, 0), up = input(b, node, 1), out = output(b, node, 0);
    args->glu = (spey_glu_args){
        .cols = gate.cols,
        .activation = activation(node),
        .limit = number(node, SPEY_ATTR_LIMIT, 0),
        .up_offset = number(node, SPEY_ATTR_OFFSET, 0),
        .dtype = gate.dtype,
        .out_dtype = out.dtype,
        .gate = gate.data,
        .gate_pitch = gate.pitch,
        .up = up.data,
        .up_pitch = up.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
        .out_quant = out.quant,
        .out_scale = out.scales,
    };
    if (b->product && join_product(b, node, &args->glu)) return SPEY_OK;
    return finish(b, "glu", node_rows(b, node), args);
}

/* Tables are F32 and dense. */
static spey_status check_table(operand table)
{
    if (table.pitch == table.cols) return SPEY_OK;
    return SPEY_FAIL(SPEY_INTERNAL, "a table is placed with pitch %lld, its rows are %lld",
                     (long long)table.pitch, (long long)table.cols);
}

static spey_status bind_rope_table(binder *b, const spey_node *node, spey_any_args *args)
{
    operand out = output(b, node, 0);
    SPEY_TRY(check_f32(b, node, 0));
    SPEY_TRY(check_table(out));
    int64_t original = spey_node_int(node, SPEY_ATTR_ORIGINAL, 0);
    args->rope_table = (spey_rope_table_args){
        .batch = b->bases.batch,
        .inv_freq = weight(b, node, 0),
        .inv_freq_long = weight(b, node, 1),
        .long_from = original,
        .half = out.cols / 2,
        .magnitude = number(node, SPEY_ATTR_MAGNITUDE, 1),
        .dynamic_factor = spey_node_number(node, SPEY_ATTR_DYNAMIC, 0),
        .base = spey_node_number(node, SPEY_ATTR_BASE, 0),
        .original_positions = original,
        .table = (float *)(void *)out.data,
    };
    return finish(b, "rope_table", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_rope(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), table = input(b, node, 1), out = output(b, node, 0);
    args->rope = (spey_rope_args){
        .n_heads = spey_node_int(node, SPEY_ATTR_HEADS, 0),
        .head_dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0),
        .rotary_dim = table.cols,
        .pairing = pairing(node),
        .table = (const float *)(const void *)table.data,
        .x = x.data,
        .x_pitch = x.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
        .dtype = x.dtype,
    };
    return finish(b, "rope", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_kv_append(binder *b, const spey_node *node, spey_any_args *args)
{
    operand k = input(b, node, 0), v = input(b, node, 1);
    args->kv_append = (spey_kv_append_args){
        .n_heads = spey_node_int(node, SPEY_ATTR_HEADS, 0),
        .k_dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0),
        .v_dim = spey_node_int(node, SPEY_ATTR_V_DIM, 0),
        .batch = b->bases.batch,
        .k = k.data,
        .k_pitch = k.pitch,
        .v = v.data,
        .v_pitch = v.pitch,
        .dtype = k.dtype,
        .kv = kv_view(b, node),
    };
    return finish(b, "kv_append", node_rows(b, node), args);
}

static spey_status bind_rope_append(binder *b, const spey_node *node, spey_any_args *args)
{
    operand qkv = input(b, node, 0), q = output(b, node, 0);
    args->rope_append = (spey_rope_append_args){
        .n_heads = spey_node_int(node, SPEY_ATTR_HEADS, 0),
        .n_kv_heads = spey_node_int(node, SPEY_ATTR_KV_HEADS, 0),
        .head_dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0),
        .pairing = pairing(node),
        .batch = b->bases.batch,
        .qkv = qkv.data,
        .qkv_pitch = qkv.pitch,
        .q_out = q.data,
        .q_pitch = q.pitch,
        .dtype = qkv.dtype,
        .kv = kv_view(b, node),
    };
    if (node->n_inputs > 1) {
        operand table = input(b, node, 1);
        args->rope_append.rotary_dim = table.cols;
        args->rope_append.table = (const float *)(const void *)table.data;
    }
    return finish(b, "rope_append", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_attention(binder *b, const spey_node *node, spey_any_args *args)
{
    operand q = input(b, node, 0), out = output(b, node, 0);
    bool alibi = spey_node_int(node, SPEY_ATTR_ALIBI, 0) != 0;
    bool relative = spey_node_int(node, SPEY_ATTR_RELATIVE, 0) != 0;
    bool sinks = spey_node_int(node, SPEY_ATTR_SINKS, 0) != 0;
    const spey_kv_limits *kv = &b->layout->kv;
    const spey_cache_group *group =
        &b->program->graph->caches[spey_node_int(node, SPEY_ATTR_CACHE, 0)];
    SPEY_TRY(check_f32(b, node, 0));
    args->attention = (spey_attention_args){
        .n_heads = spey_node_int(node, SPEY_ATTR_HEADS, 0),
        .n_kv_heads = spey_node_int(node, SPEY_ATTR_KV_HEADS, 0),
        .k_dim = spey_node_int(node, SPEY_ATTR_K_DIM, 0),
        .v_dim = spey_node_int(node, SPEY_ATTR_V_DIM, 0),
        .scale = number(node, SPEY_ATTR_SCALE, 1),
        .softcap = number(node, SPEY_ATTR_SOFTCAP, 0),
        .window = spey_node_int(node, SPEY_ATTR_WINDOW, 0),
        .causal = spey_node_int(node, SPEY_ATTR_CAUSAL, 1) != 0,
        .cross = group->source && node_rows(b, node) == SPEY_ROWS_TOKENS,
        .alibi_slopes = alibi ? weight(b, node, 0) : NULL,
        .sinks = sinks ? weight(b, node, node->n_weights - 1) : NULL,
        .batch = b->bases.batch,
        .q = q.data,
        .q_pitch = q.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
        .dtype = q.dtype,
        .out_dtype = out.dtype,
        .out_scale = out.scales,
        .precision = b->program->precision,
        .kv = kv_view(b, node),
        .seqs_max = kv->sequences_max,
        .kv_len_max = group->source ? kv->cross_tokens_max : kv->sequence_tokens_max,
        .workspace = b->bases.workspace,
    };
    if (relative)
        args->attention.relative =
            (spey_relative){ .bias = weight(b, node, alibi),
                             .buckets = weight_info(b, node, alibi)->dims[0],
                             .max_distance = spey_node_int(node, SPEY_ATTR_DISTANCE, 0) };
    return finish(b, "attention", node_rows(b, node), args);
}

static spey_status bind_concat(binder *b, const spey_node *node, spey_any_args *args)
{
    operand first = input(b, node, 0), second = input(b, node, 1), out = output(b, node, 0);
    int64_t heads = spey_node_int(node, SPEY_ATTR_HEADS, 1);
    bool shared = spey_node_int(node, SPEY_ATTR_SHARED, 0) != 0;
    args->concat = (spey_concat_args){
        .n_heads = heads,
        .a_cols = first.cols / heads,
        .b_cols = shared ? second.cols : second.cols / heads,
        .b_shared = shared,
        .dtype = out.dtype,
        .a = first.data,
        .a_pitch = first.pitch,
        .b = second.data,
        .b_pitch = second.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
    };
    return finish(b, "concat", node_rows(b, node), args);
}

static spey_status bind_route(binder *b, const spey_node *node, spey_any_args *args)
{
    operand logits = input(b, node, 0), out = output(b, node, 0);
    bool sigmoid = !strcmp(spey_node_text(node, SPEY_ATTR_SCORING, "softmax"), "sigmoid");
    int64_t groups = spey_node_int(node, SPEY_ATTR_GROUPS, 1);
    SPEY_TRY(check_f32(b, node, 0));
    SPEY_TRY(check_table(out));
    args->route = (spey_route_args){
        .n_experts = logits.cols,
        .top_k = out.cols / 2,
        .scoring = sigmoid ? SPEY_SCORING_SIGMOID : SPEY_SCORING_SOFTMAX,
        .normalise = spey_node_int(node, SPEY_ATTR_NORMALISE, 0) != 0,
        .scale = number(node, SPEY_ATTR_SCALE, 1),
        .n_groups = groups,
        .top_groups = spey_node_int(node, SPEY_ATTR_TOP_GROUPS, groups),
        .group_best = spey_node_int(node, SPEY_ATTR_GROUP_BEST, 1),
        .logits = logits.data,
        .dtype = logits.dtype,
        .pitch = logits.pitch,
        .correction = weight(b, node, 0),
        .out = (float *)(void *)out.data,
    };
    return finish(b, "route", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_expert_linear(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), y = output(b, node, 0);
    const spey_weight *w = weight_info(b, node, 0);
    SPEY_TRY(check_f32(b, node, 1));
    args->expert_linear = (spey_expert_linear_args){
        .n_experts = w->dims[0],
        .n_slots = w->dims[0],
        .n = w->dims[1],
        .k = w->dims[2],
        .x = x.data,
        .x_pitch = x.pitch,
        .x_shared = x.cols == w->dims[2],
        .w = weight(b, node, 0),
        .w_dtype = w->dtype,
        .w_scale = weight_scale(b, w),
        .x_quant = input_quant(b, w),
        .x_scale = input_scale(b, w),
        .bias = weight(b, node, 1),
        .sum = spey_node_int(node, SPEY_ATTR_SUM, 0) != 0,
        .precision = b->program->precision,
        .dtype = x.dtype,
        .y = y.data,
        .y_pitch = y.pitch,
        .workspace = b->bases.workspace,
    };
    if (node->n_inputs > 1) {
        operand routing = input(b, node, 1);
        SPEY_TRY(check_table(routing));
        args->expert_linear.n_slots = routing.cols / 2;
        args->expert_linear.routing = (const float *)(const void *)routing.data;
    }
    return finish(b, "expert_linear", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_causal_conv(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), out = output(b, node, 0);
    SPEY_TRY(check_f32(b, node, 0));
    args->causal_conv = (spey_causal_conv_args){
        .cols = x.cols,
        .width = weight_info(b, node, 0)->dims[2],
        .batch = b->bases.batch,
        .x = x.data,
        .x_pitch = x.pitch,
        .weight = weight(b, node, 0),
        .bias = weight(b, node, 1),
        .out = out.data,
        .out_pitch = out.pitch,
        .dtype = x.dtype,
        .state = state_view(b, node),
    };
    return finish(b, "causal_conv", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_selective_scan(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), dt = input(b, node, 1), out = output(b, node, 0);
    operand in = input(b, node, 2), read = input(b, node, 3);
    SPEY_TRY(check_f32(b, node, 0));
    args->selective_scan = (spey_selective_scan_args){
        .cols = x.cols,
        .states = in.cols,
        .batch = b->bases.batch,
        .x = x.data,
        .x_pitch = x.pitch,
        .dt = dt.data,
        .dt_pitch = dt.pitch,
        .b = in.data,
        .b_pitch = in.pitch,
        .c = read.data,
        .c_pitch = read.pitch,
        .a_log = weight(b, node, 0),
        .d = weight(b, node, 1),
        .out = out.data,
        .out_pitch = out.pitch,
        .dtype = x.dtype,
        .state = state_view(b, node),
    };
    return finish(b, "selective_scan", SPEY_ROWS_TOKENS, args);
}

static spey_status bind_gather(binder *b, const spey_node *node, spey_any_args *args)
{
    operand x = input(b, node, 0), out = output(b, node, 0);
    args->gather = (spey_gather_args){
        .cols = x.cols,
        .batch = b->bases.batch,
        .x = x.data,
        .x_pitch = x.pitch,
        .out = out.data,
        .out_pitch = out.pitch,
        .dtype = x.dtype,
    };
    return finish(b, "gather", SPEY_ROWS_OUTPUTS, args);
}

/* A slice is its input seen from another column: nothing to run, if it is placed so. */
static spey_status check_slice(const binder *b, const spey_node *node)
{
    const spey_placement *places = b->layout->memplan->values;
    const spey_placement *in = &places[node->inputs[0]], *out = &places[node->outputs[0]];
    uint64_t begin = (uint64_t)spey_node_int(node, SPEY_ATTR_BEGIN, 0) *
                     spey_memplan_element_bytes(&b->layout->memplan_limits, in);
    if (in->storage != out->storage || in->pitch != out->pitch || in->offset + begin != out->offset)
        return SPEY_FAIL(SPEY_INTERNAL, "a slice is not placed as a view of its input");
    return SPEY_OK;
}

static spey_status bind_op(binder *b, const spey_node *node)
{
    spey_any_args *args = &b->out->args[b->out->sizes.n_steps];
    switch (node->op) {
    case SPEY_GRAPH_EMBED: return bind_embed(b, node, args);
    case SPEY_GRAPH_NORM:
    case SPEY_GRAPH_ADD_NORM: return bind_norm(b, node, args);
    case SPEY_GRAPH_LINEAR: return bind_linear(b, node, args);
    case SPEY_GRAPH_UNARY: return bind_unary(b, node, args);
    case SPEY_GRAPH_ADD: return bind_add(b, node, args);
    case SPEY_GRAPH_GLU: return bind_glu(b, node, args);
    case SPEY_GRAPH_SLICE: return check_slice(b, node);
    case SPEY_GRAPH_ROPE_TABLE: return bind_rope_table(b, node, args);
    case SPEY_GRAPH_ROPE: return bind_rope(b, node, args);
    case SPEY_GRAPH_KV_APPEND: return bind_kv_append(b, node, args);
    case SPEY_GRAPH_ATTENTION: return bind_attention(b, node, args);
    case SPEY_GRAPH_GATHER: return bind_gather(b, node, args);
    case SPEY_GRAPH_ROPE_APPEND: return bind_rope_append(b, node, args);
    case SPEY_GRAPH_CONCAT: return bind_concat(b, node, args);
    case SPEY_GRAPH_ROUTE: return bind_route(b, node, args);
    case SPEY_GRAPH_EXPERT_LINEAR: return bind_expert_linear(b, node, args);
    case SPEY_GRAPH_CAUSAL_CONV: return bind_causal_conv(b, node, args);
    case SPEY_GRAPH_SELECTIVE_SCAN: return bind_selective_scan(b, node, args);
    default: return SPEY_FAIL(SPEY_UNSUPPORTED, "no step for op %s", spey_graph_op_name(node->op));
    }
}

static spey_status bind_node(binder *b, const spey_node *node)
{
    SPEY_TRY(bind_op(b, node));
    if (node->op != SPEY_GRAPH_SLICE) b->product = node->op == SPEY_GRAPH_LINEAR ? node : NULL;
    return SPEY_OK;
}

/* Each weight once; of an embedding table that nothing else reads one row, of a stack that is routed the experts of a
 * token. */
static void count_weights(binder *b, const spey_node *node)
{
    for (int i = 0; i < node->n_weights; i++) {
        int32_t index = node->weights[i];
        if (b->counted[index]) continue;
        uint64_t bytes = b->program->tensors[index]->bytes;
        int32_t scales[2];
        if (spey_graph_scales(b->program->graph, index, scales))
            bytes += b->program->tensors[scales[0]]->bytes;
        int64_t rows = weight_info(b, node, i)->dims[0], slots = 1;
        bool routed = node->op == SPEY_GRAPH_EXPERT_LINEAR && node->n_inputs > 1;
        if (routed) slots = b->program->graph->values[node->inputs[1]].cols / 2;
        if (node->op == SPEY_GRAPH_EMBED || routed)
            bytes = rows ? bytes / (uint64_t)rows * (uint64_t)slots : 0;
        if (node->op != SPEY_GRAPH_EMBED) b->counted[index] = true;
        b->out->weight_bytes += bytes;
    }
}

size_t spey_binding_bytes(int n_steps)
{
    return (size_t)n_steps * (sizeof(spey_step) + sizeof(spey_any_args) + sizeof(spey_rows));
}

void spey_binding_deinit(spey_binding *binding)
{
    spey_free(binding->steps);
    spey_free(binding->args);
    spey_free(binding->rows);
    *binding = (spey_binding){ 0 };
}

/* The encoder's nodes, or all others. */
static spey_status bind_part(binder *b, bool encoder)
{
    const spey_graph *graph = b->program->graph;
    for (int i = 0; i < graph->n_nodes; i++) {
        const spey_node *node = &graph->nodes[i];
        if ((node_rows(b, node) == SPEY_ROWS_SOURCE) != encoder) continue;
        SPEY_TRY_CTX(bind_node(b, node), "node %d (%s)", i, spey_graph_op_name(node->op));
    }
    return SPEY_OK;
}

static spey_status bind_all(binder *b)
{
    const spey_graph *graph = b->program->graph;
    spey_binding *out = b->out;
    out->steps = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_step, graph->n_nodes);
    out->args = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_any_args, graph->n_nodes);
    out->rows = spey_new_array(SPEY_PURPOSE_RUNTIME, spey_rows, graph->n_nodes);
    b->counted = spey_new_array(SPEY_PURPOSE_RUNTIME, bool, graph->n_weights);
    if (!out->steps || !out->args || !out->rows || !b->counted) return SPEY_NOMEM;
    const spey_placement *logits = &b->layout->memplan->values[graph->output];
    if (graph->values[logits->storage].cols != graph->values[graph->output].cols ||
        graph->values[logits->storage].rows != SPEY_ROWS_OUTPUTS)
        return SPEY_FAIL(SPEY_INTERNAL, "the logits are placed inside another value");
    SPEY_TRY(bind_part(b, true));
    SPEY_TRY(bind_part(b, false));
    for (int i = 0; i < graph->n_nodes; i++)
        if (node_rows(b, &graph->nodes[i]) != SPEY_ROWS_SOURCE) count_weights(b, &graph->nodes[i]);
    return SPEY_OK;
}

spey_status spey_bind(const spey_program *program, const spey_layout *layout,
                      const spey_bases *bases, spey_binding *out)
{
    *out = (spey_binding){ .n_ids = program->info->vocab_size };
    /* Only alignment counts while planning: 64 bytes, as weights in an engine have. */
    uint8_t *made_up = (uint8_t *)(uintptr_t)0x10040;
    static const spey_ragged no_batch;
    binder b = { .program = program, .layout = layout, .planning = !bases, .out = out };
    b.bases = (spey_bases){
        .activations = made_up, .logits = made_up, .workspace = made_up, .batch = &no_batch
    };
    for (int i = 0; i < SPEY_CACHE_GROUPS_MAX; i++)
        b.bases.kv[i] = made_up;
    if (bases) b.bases = *bases;
    spey_status status = bind_all(&b);
    spey_free(b.counted);
    if (status != SPEY_OK) spey_binding_deinit(out);
    return status;
}
