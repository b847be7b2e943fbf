#include "model/blocks.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- the state ---- */

void spey_blocks_fail(spey_blocks *b, spey_status status, const char *what)
{
    if (!b->status) b->status = SPEY_FAIL(status, "%s%s", b->name, what);
}

static void keep(spey_blocks *b, spey_status status)
{
    if (!b->status) b->status = status;
}

void spey_blocks_enter_layer(spey_blocks *b, const char *tensor_prefix, int64_t layer)
{
    snprintf(b->name, sizeof b->name, "%slayer.%lld.", b->encoder ? "encoder." : "",
             (long long)layer);
    int n = snprintf(b->tensor, sizeof b->tensor, "%s%lld.", tensor_prefix, (long long)layer);
    SPEY_ASSERT(n < (int)sizeof b->tensor);
}

void spey_blocks_leave_layer(spey_blocks *b)
{
    snprintf(b->name, sizeof b->name, "%s", b->encoder ? "encoder." : "");
    b->tensor[0] = 0;
}

void spey_blocks_enter_encoder(spey_blocks *b)
{
    b->encoder = true;
    spey_blocks_leave_layer(b);
}

void spey_blocks_leave_encoder(spey_blocks *b)
{
    b->encoder = false;
    spey_blocks_leave_layer(b);
}

void spey_blocks_add_cache(spey_blocks *b, const spey_cache_group *group, int *out_index)
{
    *out_index = 0;
    if (!b->status) keep(b, spey_graph_add_cache(b->graph, group, out_index));
}

int64_t spey_blocks_cols(const spey_blocks *b, spey_value value)
{
    return b->status ? 1 : b->graph->values[value].cols;
}

spey_value spey_blocks_append(spey_blocks *b, const spey_node *node)
{
    int32_t index;
    if (b->status) return SPEY_NO_VALUE;
    spey_status status = spey_graph_add_node(b->graph, node, &index);
    if (status) {
        keep(b, b->name[0] ? spey_error_context(status, "%s", b->name) : status);
        return SPEY_NO_VALUE;
    }
    return b->graph->nodes[index].outputs[0];
}

static spey_node node_of(spey_graph_op op, spey_value x)
{
    return (spey_node){ .op = op, .n_inputs = 1, .inputs = { x } };
}

/* ---- weights ---- */

int32_t spey_blocks_declare(spey_blocks *b, const spey_weight_names *names,
                            const spey_weight *weight)
{
    char name[SPEY_NAME_BYTES_MAX], tensor[SPEY_NAME_BYTES_MAX];
    int n = snprintf(name, sizeof name, "%s%s%s", b->name, names->name, names->bias ? ".bias" : "");
    int m = snprintf(tensor, sizeof tensor, "%s%s%s", b->tensor, names->tensor, names->ending);
    SPEY_ASSERT(n < (int)sizeof name && m < (int)sizeof tensor);
    int32_t index = -1;
    spey_weight named = *weight;
    named.name = name;
    named.source.tensor = tensor;
    if (!b->status) keep(b, spey_graph_add_weight(b->graph, &named, &index));
    return index;
}

/* A vector of floats. */
static int32_t declare_vector(spey_blocks *b, const spey_weight_names *names, int64_t n,
                              spey_cut cut)
{
    spey_weight weight = { .dtype = SPEY_F32, .n_dims = 1, .dims = { n }, .cut = cut };
    return spey_blocks_declare(b, names, &weight);
}

/* Numbers computed here. */
static int32_t declare_values(spey_blocks *b, const char *name, const char *ending, int64_t n,
                              const float *values)
{
    char full[SPEY_NAME_BYTES_MAX];
    snprintf(full, sizeof full, "%s%s", name, ending);
    spey_weight weight = {
        .name = full, .dtype = SPEY_F32, .n_dims = 1, .dims = { n }, .source = { .values = values }
    };
    int32_t index = -1;
    if (!b->status) keep(b, spey_graph_add_weight(b->graph, &weight, &index));
    return index;
}

/* ---- single ops ---- */

spey_value spey_block_embed(spey_blocks *b, const char *tensor, int64_t vocab, int64_t hidden,
                            double scale)
{
    spey_weight table = {
        .dtype = b->dtype, .n_dims = 2, .dims = { vocab, hidden }, .cut = SPEY_CUT_ROWS
    };
    spey_node node = { .op = SPEY_GRAPH_EMBED, .n_weights = 1 };
    char full[SPEY_NAME_BYTES_MAX];
    snprintf(full, sizeof full, "%s.weight", tensor);
    table.name = "embed";
    table.source.tensor = full;
    if (!b->status) node.weights[0] = spey_graph_find_weight(b->graph, "embed");
    if (!b->status && node.weights[0] < 0)
        keep(b, spey_graph_add_weight(b->graph, &table, &node.weights[0]));
    if (b->encoder) spey_node_set_int(&node, SPEY_ATTR_ENCODER, 1);
    if (scale != 0 && scale != 1) spey_node_set_number(&node, SPEY_ATTR_SCALE, scale);
    return spey_blocks_append(b, &node);
}

spey_value spey_block_norm_groups(spey_blocks *b, spey_value x, const char *name,
                                  const char *tensor, const spey_norm_spec *spec, int64_t groups)
{
    spey_node node = node_of(SPEY_GRAPH_NORM, x);
    int64_t cols = spey_blocks_cols(b, x) / (groups > 1 ? groups : 1);
    if (!spec->plain)
        node.weights[node.n_weights++] = declare_vector(
            b, &(spey_weight_names){ name, tensor, ".weight", false }, cols, SPEY_CUT_NONE);
    if (!spec->plain && spec->bias)
        node.weights[node.n_weights++] = declare_vector(
            b, &(spey_weight_names){ name, tensor, ".bias", true }, cols, SPEY_CUT_NONE);
    spey_node_set_text(&node, SPEY_ATTR_KIND, spec->kind);
    spey_node_set_number(&node, SPEY_ATTR_EPS, spec->eps);
    if (spec->offset != 0) spey_node_set_number(&node, SPEY_ATTR_OFFSET, spec->offset);
    if (groups > 1) spey_node_set_int(&node, SPEY_ATTR_GROUPS, groups);
    return spey_blocks_append(b, &node);
}

spey_value spey_block_norm(spey_blocks *b, spey_value x, const char *name, const char *tensor,
                           const spey_norm_spec *spec)
{
    return spey_block_norm_groups(b, x, name, tensor, spec, 1);
}

spey_value spey_block_linear(spey_blocks *b, spey_value x, const spey_linear_spec *spec)
{
    spey_weight_source source = { .transpose = spec->transpose,
                                  .row_begin = spec->pieces.begin,
                                  .row_piece = spec->pieces.piece,
                                  .row_stride = spec->pieces.stride,
                                  .n_pieces = spec->pieces.n_pieces };
    spey_weight matrix = { .dtype = spec->exact ? SPEY_F32 : b->dtype,
                           .n_dims = 2,
                           .dims = { spec->outputs, spey_blocks_cols(b, x) },
                           .cut = spec->cut,
                           .source = source };
    spey_node node = node_of(SPEY_GRAPH_LINEAR, x);
    node.weights[node.n_weights++] = spey_blocks_declare(
        b, &(spey_weight_names){ spec->name, spec->tensor, ".weight", false }, &matrix);
    if (spec->bias) {
        /* The bias of a matrix that is cut by columns is added once, after the sum over ranks. */
        spey_cut cut = spec->cut == SPEY_CUT_ROWS ? SPEY_CUT_ROWS : SPEY_CUT_NONE;
        spey_weight bias = {
            .dtype = SPEY_F32, .n_dims = 1, .dims = { spec->outputs }, .cut = cut, .source = source
        };
        bias.source.transpose = false;
        node.weights[node.n_weights++] = spey_blocks_declare(
            b, &(spey_weight_names){ spec->name, spec->tensor, ".bias", true }, &bias);
    }
    return spey_blocks_append(b, &node);
}

spey_value spey_block_unary(spey_blocks *b, spey_value x, const char *act, double scale,
                            double softcap)
{
    bool acts = act && strcmp(act, "none") != 0;
    if (!acts && scale == 1 && softcap == 0) return x;
    spey_node node = node_of(SPEY_GRAPH_UNARY, x);
    if (acts) spey_node_set_text(&node, SPEY_ATTR_ACT, act);
    if (scale != 1) spey_node_set_number(&node, SPEY_ATTR_SCALE, scale);
    if (softcap != 0) spey_node_set_number(&node, SPEY_ATTR_SOFTCAP, softcap);
    return spey_blocks_append(b, &node);
}

spey_value spey_block_add(spey_blocks *b, spey_value x, spey_value y, double scale)
{
    spey_node node = { .op = SPEY_GRAPH_ADD, .n_inputs = 2, .inputs = { x, y } };
    if (scale != 1) spey_node_set_number(&node, SPEY_ATTR_SCALE, scale);
    return spey_blocks_append(b, &node);
}

spey_value spey_block_mul(spey_blocks *b, spey_value x, spey_value y)
{
    return spey_blocks_append(
        b, &(spey_node){ .op = SPEY_GRAPH_GLU, .n_inputs = 2, .inputs = { x, y } });
}

/* ---- positions ---- */

spey_value spey_block_rope_table(spey_blocks *b, const char *name, const spey_rope_config *rope)
{
    float inv_freq[SPEY_ROPE_HALF_MAX];
    spey_node node = { .op = SPEY_GRAPH_ROPE_TABLE };
    if (b->status) return SPEY_NO_VALUE;
    spey_rope_frequencies(rope, false, inv_freq);
    node.weights[node.n_weights++] =
        declare_values(b, name, ".inv_freq", rope->rotary / 2, inv_freq);
    if (rope->type == SPEY_ROPE_LONGROPE) {
        spey_rope_frequencies(rope, true, inv_freq);
        node.weights[node.n_weights++] =
            declare_values(b, name, ".inv_freq_long", rope->rotary / 2, inv_freq);
        spey_node_set_int(&node, SPEY_ATTR_ORIGINAL, rope->original);
    }
    spey_node_set_int(&node, SPEY_ATTR_ROTARY, rope->rotary);
    if (rope->magnitude != 1) spey_node_set_number(&node, SPEY_ATTR_MAGNITUDE, rope->magnitude);
    if (rope->type == SPEY_ROPE_DYNAMIC) {
        spey_node_set_number(&node, SPEY_ATTR_DYNAMIC, rope->factor);
        spey_node_set_number(&node, SPEY_ATTR_BASE, rope->theta);
        spey_node_set_int(&node, SPEY_ATTR_ORIGINAL, rope->original);
    }
    return spey_blocks_append(b, &node);
}

void spey_block_alibi(spey_blocks *b, const char *name, int64_t heads, double scale)
{
    float slopes[SPEY_HEADS_MAX];
    int64_t power = 1;
    while (power * 2 <= heads)
        power *= 2;
    for (int64_t h = 0; h < heads; h++) {
        double exponent = h < power ? (double)(h + 1) * 8 / (double)power
                                    : (double)(2 * (h - power) + 1) * 4 / (double)power;
        slopes[h] = (float)(exp2(-exponent) * scale);
    }
    declare_values(b, name, "", heads, slopes);
}

void spey_block_relative(spey_blocks *b, const char *name, const char *tensor, int64_t buckets,
                         int64_t heads)
{
    spey_weight table = { .dtype = SPEY_F32, .n_dims = 2, .dims = { buckets, heads } };
    spey_blocks_declare(b, &(spey_weight_names){ name, tensor, ".weight", false }, &table);
}

spey_value spey_block_positions(spey_blocks *b, const spey_positions_spec *spec)
{
    spey_weight table = { .dtype = b->dtype,
                          .n_dims = 2,
                          .dims = { spec->begin + spec->positions, spec->hidden } };
    spey_node node = { .op = SPEY_GRAPH_EMBED, .n_weights = 1 };
    node.weights[0] = spey_blocks_declare(
        b, &(spey_weight_names){ "positions", spec->tensor, ".weight", false }, &table);
    spey_node_set_text(&node, SPEY_ATTR_SOURCE, "positions");
    if (spec->begin) spey_node_set_int(&node, SPEY_ATTR_BEGIN, spec->begin);
    if (b->encoder) spey_node_set_int(&node, SPEY_ATTR_ENCODER, 1);
    return spey_blocks_append(b, &node);
}

/* ---- attention ---- */

/* Where projection `which` (0 Q, 1 K, 2 V) lies in a fused tensor. */
static spey_row_pieces pieces_of(const spey_attention_spec *spec, int which)
{
    int64_t group = spec->heads / spec->kv_heads; /* Q heads per KV head */
    int64_t q_rows = spec->heads * spec->head_dim, kv_rows = spec->kv_heads * spec->head_dim;
    if (spec->layout == SPEY_QKV_STACKED) {
        int64_t begin = which == 0 ? 0 : q_rows + (which - 1) * kv_rows;
        int64_t rows = which == 0 ? q_rows : kv_rows;
        return (spey_row_pieces){ begin, rows, rows, 1 };
    }
    if (spec->layout == SPEY_QKV_GROUPED) {
        int64_t begin = which == 0 ? 0 : (group + which - 1) * spec->head_dim;
        int64_t rows = which == 0 ? group * spec->head_dim : spec->head_dim;
        return (spey_row_pieces){ begin, rows, (group + 2) * spec->head_dim, spec->kv_heads };
    }
    return (spey_row_pieces){ 0 };
}

static spey_value project(spey_blocks *b, spey_value x, const spey_attention_spec *spec, int which,
                          const char *name)
{
    const char *const tensors[] = { spec->q, spec->k, spec->v };
    spey_linear_spec linear = {
        .name = name,
        .tensor = spec->layout == SPEY_QKV_SEPARATE ? tensors[which] : spec->qkv,
        .outputs = (which == 0 ? spec->heads : spec->kv_heads) * spec->head_dim,
        .bias = spec->qkv_bias,
        .transpose = spec->transpose,
        .cut = SPEY_CUT_ROWS,
        .pieces = pieces_of(spec, which),
    };
    return spey_block_linear(b, x, &linear);
}

static spey_value rotate(spey_blocks *b, spey_value x, const spey_attention_spec *spec,
                         int64_t heads)
{
    if (spec->rotary == 0) return x;
    spey_node node = { .op = SPEY_GRAPH_ROPE, .n_inputs = 2, .inputs = { x, spec->rope } };
    spey_node_set_int(&node, SPEY_ATTR_HEADS, heads);
    spey_node_set_int(&node, SPEY_ATTR_K_DIM, spec->head_dim);
    spey_node_set_int(&node, SPEY_ATTR_ROTARY, spec->rotary);
    if (spec->pairing) spey_node_set_text(&node, SPEY_ATTR_PAIRING, spec->pairing);
    return spey_blocks_append(b, &node);
}

static void set_cache(spey_node *node, const spey_attention_spec *spec)
{
    spey_node_set_int(node, SPEY_ATTR_CACHE, spec->cache);
    spey_node_set_int(node, SPEY_ATTR_LAYER, spec->layer);
    spey_node_set_int(node, SPEY_ATTR_K_DIM, spec->head_dim);
    spey_node_set_int(node, SPEY_ATTR_V_DIM, spec->v_dim ? spec->v_dim : spec->head_dim);
}

static void store(spey_blocks *b, spey_value k, spey_value v, const spey_attention_spec *spec)
{
    spey_node node = { .op = SPEY_GRAPH_KV_APPEND, .n_inputs = 2, .inputs = { k, v } };
    set_cache(&node, spec);
    spey_node_set_int(&node, SPEY_ATTR_HEADS, spec->kv_heads);
    spey_blocks_append(b, &node);
}

/* Attend with q to what is stored. */
static spey_value look_up(spey_blocks *b, spey_value q, const spey_attention_spec *spec)
{
    spey_node node = node_of(SPEY_GRAPH_ATTENTION, q);
    set_cache(&node, spec);
    spey_node_set_int(&node, SPEY_ATTR_HEADS, spec->heads);
    spey_node_set_int(&node, SPEY_ATTR_KV_HEADS, spec->kv_heads);
    double scale = spec->scale != 0 ? spec->scale : 1 / sqrt((double)spec->head_dim);
    spey_node_set_number(&node, SPEY_ATTR_SCALE, scale);
    if (spec->softcap != 0) spey_node_set_number(&node, SPEY_ATTR_SOFTCAP, spec->softcap);
    if (spec->window) spey_node_set_int(&node, SPEY_ATTR_WINDOW, spec->window);
    if (spec->all_to_all) spey_node_set_int(&node, SPEY_ATTR_CAUSAL, 0);
    if (spec->alibi) {
        spey_node_set_int(&node, SPEY_ATTR_ALIBI, 1);
        node.weights[node.n_weights++] = spey_graph_find_weight(b->graph, spec->alibi);
    }
    if (spec->relative) {
        spey_node_set_int(&node, SPEY_ATTR_RELATIVE, 1);
        spey_node_set_int(&node, SPEY_ATTR_DISTANCE, spec->relative_distance);
        node.weights[node.n_weights++] = spey_graph_find_weight(b->graph, spec->relative);
    }
    if (spec->sinks) {
        spey_node_set_int(&node, SPEY_ATTR_SINKS, 1);
        spey_weight_names names = { "attn.sinks", spec->sinks, "", false };
        node.weights[node.n_weights++] = declare_vector(b, &names, spec->heads, SPEY_CUT_ROWS);
    }
    return spey_blocks_append(b, &node);
}

spey_value spey_block_attend(spey_blocks *b, const spey_value qkv[3],
                             const spey_attention_spec *spec)
{
    store(b, qkv[1], qkv[2], spec);
    return look_up(b, qkv[0], spec);
}

static spey_value project_out(spey_blocks *b, spey_value attended, const spey_attention_spec *spec,
                              const char *name, int64_t hidden)
{
    spey_linear_spec o = { .name = name,
                           .tensor = spec->o,
                           .outputs = hidden,
                           .bias = spec->o_bias,
                           .transpose = spec->transpose,
                           .cut = SPEY_CUT_COLS };
    return spey_block_linear(b, attended, &o);
}

spey_value spey_block_attention(spey_blocks *b, spey_value x, const spey_attention_spec *spec)
{
    spey_value qkv[3] = { project(b, x, spec, 0, "attn.q"), project(b, x, spec, 1, "attn.k"),
                          project(b, x, spec, 2, "attn.v") };
    if (spec->qk_norm) {
        int64_t q_groups = spec->qk_norm_rows ? 1 : spec->heads;
        int64_t k_groups = spec->qk_norm_rows ? 1 : spec->kv_heads;
        qkv[0] =
            spey_block_norm_groups(b, qkv[0], "attn.q_norm", spec->q_norm, spec->qk_norm, q_groups);
        qkv[1] =
            spey_block_norm_groups(b, qkv[1], "attn.k_norm", spec->k_norm, spec->qk_norm, k_groups);
    }
    qkv[0] = rotate(b, qkv[0], spec, spec->heads);
    qkv[1] = rotate(b, qkv[1], spec, spec->kv_heads);
    spey_value attended = spey_block_attend(b, qkv, spec);
    return project_out(b, attended, spec, "attn.o", spey_blocks_cols(b, x));
}

void spey_block_cross_keys(spey_blocks *b, spey_value encoded, const spey_attention_spec *spec)
{
    spey_value k = project(b, encoded, spec, 1, "cross.k");
    store(b, k, project(b, encoded, spec, 2, "cross.v"), spec);
}

spey_value spey_block_cross_attention(spey_blocks *b, spey_value x, const spey_attention_spec *spec)
{
    spey_value attended = look_up(b, project(b, x, spec, 0, "cross.q"), spec);
    return project_out(b, attended, spec, "cross.o", spey_blocks_cols(b, x));
}

/* ---- MLP ---- */

/* Half `which` of the first layer: 0 gate, 1 up. */
static spey_value widen(spey_blocks *b, spey_value x, const spey_mlp_spec *spec, int which)
{
    int64_t n = spec->intermediate;
    spey_linear_spec linear = { .name = which == 0 ? "mlp.gate" : "mlp.up",
                                .tensor = which == 0 ? spec->gate : spec->up,
                                .outputs = n,
                                .bias = spec->bias,
                                .transpose = spec->transpose,
                                .cut = SPEY_CUT_ROWS };
    if (spec->gate_up) {
        linear.tensor = spec->gate_up;
        linear.pieces = (spey_row_pieces){ which * n, n, n, 1 };
    }
    return spey_block_linear(b, x, &linear);
}

/* The down projection as the one expert that sigmoid(weigh(x)) routes to. */
static spey_value weigh(spey_blocks *b, spey_value x, spey_value inner, const spey_mlp_spec *spec)
{
    SPEY_ASSERT(!spec->bias && !spec->transpose);
    const spey_linear_spec gate = {
        .name = "mlp.weigh", .tensor = spec->weigh, .outputs = 1, .exact = true
    };
    spey_node route = node_of(SPEY_GRAPH_ROUTE, spey_block_linear(b, x, &gate));
    spey_node_set_int(&route, SPEY_ATTR_TOP_K, 1);
    spey_node_set_text(&route, SPEY_ATTR_SCORING, "sigmoid");
    spey_node down = node_of(SPEY_GRAPH_EXPERT_LINEAR, inner);
    down.inputs[down.n_inputs++] = spey_blocks_append(b, &route);
    const spey_weight stack = { .dtype = b->dtype,
                                .n_dims = 3,
                                .dims = { 1, spey_blocks_cols(b, x), spec->intermediate },
                                .cut = SPEY_CUT_COLS,
                                .source = { .stack = SPEY_STACK_TENSORS } };
    down.weights[down.n_weights++] = spey_blocks_declare(
        b, &(spey_weight_names){ "mlp.down", spec->down, ".weight", false }, &stack);
    spey_node_set_int(&down, SPEY_ATTR_SUM, 1);
    return spey_blocks_append(b, &down);
}

spey_value spey_block_mlp(spey_blocks *b, spey_value x, const spey_mlp_spec *spec)
{
    spey_value inner;
    if (spec->gate || spec->gate_up) {
        spey_value gate = widen(b, x, spec, 0);
        spey_value up = widen(b, x, spec, 1);
        inner = spey_block_mul(b, spey_block_unary(b, gate, spec->act, 1, 0), up);
    } else {
        inner = spey_block_unary(b, widen(b, x, spec, 1), spec->act, 1, 0);
    }
    if (spec->weigh) return weigh(b, x, inner, spec);
    spey_linear_spec down = { .name = "mlp.down",
                              .tensor = spec->down,
                              .outputs = spey_blocks_cols(b, x),
                              .bias = spec->bias,
                              .transpose = spec->transpose,
                              .cut = SPEY_CUT_COLS };
    return spey_block_linear(b, inner, &down);
}

/* ---- the end ---- */

void spey_block_head(spey_blocks *b, spey_value x, const spey_head_spec *spec)
{
    x = spey_blocks_append(b,
                           &(spey_node){ .op = SPEY_GRAPH_GATHER, .n_inputs = 1, .inputs = { x } });
    if (spec->norm) x = spey_block_norm(b, x, "final_norm", spec->norm_tensor, spec->norm);
    if (spec->tensor) {
        spey_linear_spec head = { .name = "lm_head",
                                  .tensor = spec->tensor,
                                  .outputs = spec->vocab,
                                  .bias = spec->bias,
                                  .cut = SPEY_CUT_ROWS };
        x = spey_block_linear(b, x, &head);
    } else {
        spey_node node = node_of(SPEY_GRAPH_LINEAR, x);
        node.weights[node.n_weights++] = spey_graph_find_weight(b->graph, "embed");
        const spey_weight bias = { .dtype = SPEY_F32,
                                   .n_dims = 1,
                                   .dims = { spec->vocab },
                                   .cut = SPEY_CUT_ROWS,
                                   .source = { .as_row = true } };
        if (spec->bias_row)
            node.weights[node.n_weights++] = spey_blocks_declare(
                b, &(spey_weight_names){ "lm_head", spec->bias_row, "", true }, &bias);
        x = spey_blocks_append(b, &node);
    }
    x = spey_block_unary(b, x, NULL, spec->scale != 0 ? spec->scale : 1, spec->softcap);
    if (!b->status) b->graph->output = x;
}
