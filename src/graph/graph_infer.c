#include "graph/graph_infer.h"

#include <math.h>
#include <string.h>

#define BIT(attr) ((uint64_t)1 << SPEY_ATTR_##attr)

/* clang-format off */
static const struct { uint64_t required, optional; } attrs_of[SPEY_GRAPH_OP_COUNT] = {
    [SPEY_GRAPH_EMBED]       = { 0, BIT(SOURCE) | BIT(SCALE) | BIT(BEGIN) | BIT(ENCODER) },
    [SPEY_GRAPH_NORM]        = { BIT(KIND) | BIT(EPS), BIT(OFFSET) | BIT(GROUPS) },
    [SPEY_GRAPH_LINEAR]      = { 0, BIT(ACT) },
    [SPEY_GRAPH_UNARY]       = { 0, BIT(ACT) | BIT(SCALE) | BIT(SOFTCAP) },
    [SPEY_GRAPH_ADD]         = { 0, BIT(SCALE) },
    [SPEY_GRAPH_GLU]         = { 0, BIT(ACT) | BIT(LIMIT) | BIT(OFFSET) },
    [SPEY_GRAPH_CONCAT]      = { BIT(HEADS), BIT(SHARED) },
    [SPEY_GRAPH_SLICE]       = { BIT(BEGIN) | BIT(COLS), 0 },
    [SPEY_GRAPH_ROPE_TABLE]  = { BIT(ROTARY), BIT(MAGNITUDE) | BIT(DYNAMIC) | BIT(BASE) | BIT(ORIGINAL) },
    [SPEY_GRAPH_ROPE]        = { BIT(HEADS) | BIT(K_DIM) | BIT(ROTARY), BIT(PAIRING) },
    [SPEY_GRAPH_KV_APPEND]   = { BIT(CACHE) | BIT(LAYER) | BIT(HEADS) | BIT(K_DIM) | BIT(V_DIM), 0 },
    [SPEY_GRAPH_ATTENTION]   = { BIT(CACHE) | BIT(LAYER) | BIT(HEADS) | BIT(KV_HEADS) | BIT(K_DIM) | BIT(V_DIM) | BIT(SCALE),
                                 BIT(SOFTCAP) | BIT(WINDOW) | BIT(CAUSAL) | BIT(ALIBI) | BIT(RELATIVE) | BIT(DISTANCE) | BIT(SINKS) },
    [SPEY_GRAPH_GATHER]      = { 0, 0 },
    [SPEY_GRAPH_ROUTE]       = { BIT(TOP_K), BIT(SCORING) | BIT(NORMALISE) | BIT(SCALE) | BIT(GROUPS) | BIT(TOP_GROUPS) |
                                 BIT(GROUP_BEST) },
    [SPEY_GRAPH_EXPERT_LINEAR] = { 0, BIT(SUM) },
    [SPEY_GRAPH_CAUSAL_CONV] = { BIT(CACHE) | BIT(LAYER), 0 },
    [SPEY_GRAPH_SELECTIVE_SCAN] = { BIT(CACHE) | BIT(LAYER), 0 },
    [SPEY_GRAPH_ADD_NORM]    = { BIT(KIND) | BIT(EPS), BIT(OFFSET) | BIT(GROUPS) },
    [SPEY_GRAPH_ROPE_APPEND] = { BIT(CACHE) | BIT(LAYER) | BIT(HEADS) | BIT(KV_HEADS) | BIT(K_DIM), BIT(ROTARY) | BIT(PAIRING) },
};

static const char *const kinds[] = { "rms", "layer", NULL };
static const char *const scorings[] = { "softmax", "sigmoid", NULL };
static const char *const sources[] = { "ids", "positions", NULL };
static const char *const pairings[] = { "half", "interleaved", NULL };
/* The texts of kernels/activation.h, which this layer may not include; a test compares them. */
static const char *const activations[] = { "none", "silu", "gelu", "gelu_tanh", "relu", "relu2", "sigmoid", "tanh",
                                           "quick_gelu", NULL };

static const struct { double min, max; const char *const *texts; } ranges[SPEY_ATTR_COUNT] = {
    [SPEY_ATTR_KIND]      = { .texts = kinds },
    [SPEY_ATTR_ACT]       = { .texts = activations },
    [SPEY_ATTR_PAIRING]   = { .texts = pairings },
    [SPEY_ATTR_SCORING]   = { .texts = scorings },
    [SPEY_ATTR_SOURCE]    = { .texts = sources },
    [SPEY_ATTR_EPS]       = { 0, 1, NULL },
    [SPEY_ATTR_OFFSET]    = { -1e6, 1e6, NULL },
    [SPEY_ATTR_SCALE]     = { -1e9, 1e9, NULL },
    [SPEY_ATTR_SOFTCAP]   = { 0, 1e9, NULL },
    [SPEY_ATTR_LIMIT]     = { 0, 1e9, NULL },
    [SPEY_ATTR_BEGIN]     = { 0, SPEY_VALUE_COLS_MAX, NULL },
    [SPEY_ATTR_COLS]      = { 1, SPEY_VALUE_COLS_MAX, NULL },
    [SPEY_ATTR_GROUPS]    = { 1, SPEY_VALUE_COLS_MAX, NULL },
    [SPEY_ATTR_TOP_K]     = { 1, SPEY_EXPERTS_MAX, NULL },
    [SPEY_ATTR_TOP_GROUPS] = { 1, SPEY_EXPERTS_MAX, NULL },
    [SPEY_ATTR_GROUP_BEST] = { 1, 2, NULL },
    [SPEY_ATTR_NORMALISE] = { 0, 1, NULL },
    [SPEY_ATTR_SUM]       = { 0, 1, NULL },
    [SPEY_ATTR_SHARED]    = { 0, 1, NULL },
    [SPEY_ATTR_HEADS]     = { 1, SPEY_HEADS_MAX, NULL },
    [SPEY_ATTR_KV_HEADS]  = { 1, SPEY_HEADS_MAX, NULL },
    [SPEY_ATTR_K_DIM]     = { 1, SPEY_HEAD_DIM_MAX, NULL },
    [SPEY_ATTR_V_DIM]     = { 1, SPEY_HEAD_DIM_MAX, NULL },
    [SPEY_ATTR_ROTARY]    = { 0, SPEY_HEAD_DIM_MAX, NULL },
    [SPEY_ATTR_MAGNITUDE] = { 0, 1e6, NULL },
    [SPEY_ATTR_DYNAMIC]   = { 0, 1e6, NULL },
    [SPEY_ATTR_BASE]      = { 0, 1e15, NULL },
    [SPEY_ATTR_ORIGINAL]  = { 0, SPEY_POSITIONS_MAX, NULL },
    [SPEY_ATTR_CACHE]     = { 0, SPEY_CACHE_GROUPS_MAX - 1, NULL },
    [SPEY_ATTR_LAYER]     = { 0, SPEY_LAYERS_MAX - 1, NULL },
    [SPEY_ATTR_WINDOW]    = { 0, SPEY_POSITIONS_MAX, NULL },
    [SPEY_ATTR_CAUSAL]    = { 0, 1, NULL },
    [SPEY_ATTR_ALIBI]     = { 0, 1, NULL },
    [SPEY_ATTR_SINKS]     = { 0, 1, NULL },
    [SPEY_ATTR_ENCODER]   = { 0, 1, NULL },
    [SPEY_ATTR_RELATIVE]  = { 0, 1, NULL },
    [SPEY_ATTR_DISTANCE]  = { 2, SPEY_RELATIVE_DISTANCE_MAX, NULL },
};
/* clang-format on */

static const char *const op_names[] = {
#define SPEY_GRAPH_OP(NAME, name, ...) #name,
#include "graph/graph_ops.def"
#undef SPEY_GRAPH_OP
};

const char *spey_graph_op_name(spey_graph_op op)
{
    return op < SPEY_GRAPH_OP_COUNT ? op_names[op] : "removed";
}

static const char *const attr_names[] = {
#define ATTR_NAME(NAME, name, kind) #name,
    SPEY_ATTR_LIST(ATTR_NAME)
#undef ATTR_NAME
};

const char *spey_attr_name(spey_attr attr)
{
    SPEY_ASSERT(attr < SPEY_ATTR_COUNT);
    return attr_names[attr];
}

bool spey_graph_op_appends(spey_graph_op op)
{
    return op == SPEY_GRAPH_KV_APPEND || op == SPEY_GRAPH_ROPE_APPEND ||
           op == SPEY_GRAPH_CAUSAL_CONV || op == SPEY_GRAPH_SELECTIVE_SCAN;
}

static const char attr_kinds[] = {
#define ATTR_KIND(NAME, name, kind) #kind[0],
    SPEY_ATTR_LIST(ATTR_KIND)
#undef ATTR_KIND
};

char spey_attr_kind(spey_attr attr)
{
    SPEY_ASSERT(attr < SPEY_ATTR_COUNT);
    return attr_kinds[attr];
}

static const struct {
    int inputs_min, inputs_max, weights_min, weights_max, outputs;
} arity[] = {
#define SPEY_GRAPH_OP(NAME, name, ...) { __VA_ARGS__ },
#include "graph/graph_ops.def"
#undef SPEY_GRAPH_OP
};

int spey_graph_op_outputs(spey_graph_op op)
{
    SPEY_ASSERT(op < SPEY_GRAPH_OP_COUNT);
    return arity[op].outputs;
}

const char *spey_attr_find_text(spey_attr attr, const char *text, size_t n)
{
    for (const char *const *t = ranges[attr].texts; t && *t; t++)
        if (strlen(*t) == n && memcmp(*t, text, n) == 0) return *t;
    return NULL;
}

/* ---- shared checks ---- */

typedef struct infer {
    const spey_graph *graph;
    const spey_node *node;
    const char *op;
} infer;

static const spey_value_info *input(const infer *in, int i)
{
    return &in->graph->values[in->node->inputs[i]];
}

static const spey_weight *weight(const infer *in, int i)
{
    return &in->graph->weights[in->node->weights[i]];
}

static int64_t int_of(const infer *in, spey_attr attr)
{
    return spey_node_int(in->node, attr, 0);
}

static spey_status check_attr(const infer *in, spey_node *node, spey_attr attr)
{
    spey_attr_value *value = &node->attrs[attr];
    const char *name = attr_names[attr];
    if (attr_kinds[attr] == 'S') {
        const char *text = value->s ? value->s : "(null)";
        value->s = spey_attr_find_text(attr, text, strlen(text));
        if (!value->s)
            return SPEY_FAIL(SPEY_INVALID, "%s: unknown %s \"%.64s\"", in->op, name, text);
        return SPEY_OK;
    }
    double number = attr_kinds[attr] == 'I' ? (double)value->i : value->f;
    if (!(number >= ranges[attr].min && number <= ranges[attr].max))
        return SPEY_FAIL(SPEY_INVALID, "%s: %s is %.17g, expected %.17g…%.17g", in->op, name,
                         number, ranges[attr].min, ranges[attr].max);
    return SPEY_OK;
}

static spey_status check_attrs(const infer *in, spey_node *node)
{
    uint64_t required = attrs_of[node->op].required;
    uint64_t allowed = required | attrs_of[node->op].optional;
    for (int a = 0; a < SPEY_ATTR_COUNT; a++) {
        bool set = node->attrs_set >> a & 1;
        if (!set && required >> a & 1)
            return SPEY_FAIL(SPEY_INVALID, "%s: %s is missing", in->op, attr_names[a]);
        if (set && !(allowed >> a & 1))
            return SPEY_FAIL(SPEY_INVALID, "%s has no %s", in->op, attr_names[a]);
        if (set) SPEY_TRY(check_attr(in, node, (spey_attr)a));
    }
    if (node->attrs_set >> SPEY_ATTR_COUNT)
        return SPEY_FAIL(SPEY_INVALID, "%s has an unknown attribute", in->op);
    return SPEY_OK;
}

static spey_status check_operands(const infer *in)
{
    const spey_node *node = in->node;
    if (node->n_inputs < arity[node->op].inputs_min || node->n_inputs > arity[node->op].inputs_max)
        return SPEY_FAIL(SPEY_INVALID, "%s has %d inputs, expected %d…%d", in->op, node->n_inputs,
                         arity[node->op].inputs_min, arity[node->op].inputs_max);
    if (node->n_weights < arity[node->op].weights_min ||
        node->n_weights > arity[node->op].weights_max)
        return SPEY_FAIL(SPEY_INVALID, "%s has %d weights, expected %d…%d", in->op, node->n_weights,
                         arity[node->op].weights_min, arity[node->op].weights_max);
    for (int i = 0; i < node->n_inputs; i++)
        if (node->inputs[i] < 0 || node->inputs[i] >= in->graph->n_values)
            return SPEY_FAIL(SPEY_INVALID, "%s: input %d is value %%%d, which does not exist",
                             in->op, i, node->inputs[i]);
    for (int i = 0; i < node->n_weights; i++)
        if (node->weights[i] < 0 || node->weights[i] >= in->graph->n_weights)
            return SPEY_FAIL(SPEY_INVALID, "%s: weight %d is number %d, which does not exist",
                             in->op, i, node->weights[i]);
    return SPEY_OK;
}

bool spey_graph_is_table(const spey_graph *graph, spey_value value)
{
    spey_graph_op maker = spey_graph_producer(graph, value)->op;
    return maker == SPEY_GRAPH_ROPE_TABLE || maker == SPEY_GRAPH_ROUTE;
}

/* The op that makes the table which `op` reads as its second input; SPEY_GRAPH_OP_COUNT: it reads none. */
static spey_graph_op table_of(spey_graph_op op)
{
    switch (op) {
    case SPEY_GRAPH_ROPE:
    case SPEY_GRAPH_ROPE_APPEND: return SPEY_GRAPH_ROPE_TABLE;
    case SPEY_GRAPH_EXPERT_LINEAR: return SPEY_GRAPH_ROUTE;
    default: return SPEY_GRAPH_OP_COUNT;
    }
}

/* No other op may see a table. */
static spey_status check_tables(const infer *in)
{
    spey_graph_op table = table_of(in->node->op);
    for (int i = 0; i < in->node->n_inputs; i++) {
        spey_value value = in->node->inputs[i];
        spey_graph_op maker = spey_graph_producer(in->graph, value)->op;
        bool wants = i == 1 && table != SPEY_GRAPH_OP_COUNT;
        if (wants ? maker != table : spey_graph_is_table(in->graph, value))
            return SPEY_FAIL(SPEY_INVALID, "%s: input %d (%%%d) is made by %s, expected %s", in->op,
                             i, value, spey_graph_op_name(maker),
                             wants ? spey_graph_op_name(table) : "activations");
    }
    return SPEY_OK;
}

static const char *const rows_names[] = { "tokens", "outputs", "source" };

const char *spey_rows_name(spey_rows rows)
{
    return rows_names[rows];
}

static spey_status fail_rows(const infer *in, int i, const char *expected)
{
    return SPEY_FAIL(SPEY_INVALID, "%s: input %d (%%%d) has %s rows, expected %s", in->op, i,
                     in->node->inputs[i], rows_names[input(in, i)->rows], expected);
}

/* Every token of the step, not only outputs: the decoder's. */
static spey_status want_tokens(const infer *in)
{
    for (int i = 0; i < in->node->n_inputs; i++)
        if (input(in, i)->rows != SPEY_ROWS_TOKENS) return fail_rows(in, i, "tokens");
    return SPEY_OK;
}

/* The same, or the encoder's. */
static spey_status want_step(const infer *in)
{
    for (int i = 0; i < in->node->n_inputs; i++) {
        if (input(in, i)->rows == SPEY_ROWS_OUTPUTS) return fail_rows(in, i, "tokens");
        if (input(in, i)->rows != input(in, 0)->rows)
            return fail_rows(in, i, rows_names[input(in, 0)->rows]);
    }
    return SPEY_OK;
}

static spey_status want_cols(const infer *in, int i, int64_t cols)
{
    if (input(in, i)->cols == cols) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s: input %d (%%%d) has %lld columns, expected %lld", in->op, i,
                     in->node->inputs[i], (long long)input(in, i)->cols, (long long)cols);
}

static spey_status want_vector(const infer *in, int w, int64_t n)
{
    const spey_weight *v = weight(in, w);
    if (v->dtype != SPEY_F32)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s is %s, expected f32", in->op, v->name,
                         spey_dtype_name(v->dtype));
    if (v->n_dims != 1 || v->dims[0] != n)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s has %d dims, the first %lld, expected [%lld]",
                         in->op, v->name, v->n_dims, (long long)v->dims[0], (long long)n);
    return SPEY_OK;
}

static spey_status want_floats(const infer *in, int w, int n_dims)
{
    const spey_weight *m = weight(in, w);
    if (m->dtype != SPEY_F32 && m->dtype != SPEY_F16 && m->dtype != SPEY_BF16)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s is %s, expected f32, f16 or bf16", in->op,
                         m->name, spey_dtype_name(m->dtype));
    if (m->n_dims != n_dims)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s has %d dims, expected %d", in->op, m->name,
                         m->n_dims, n_dims);
    return SPEY_OK;
}

/* Scales as graph.h wants them: f32, as many as the matrix has outputs, or one. */
static spey_status want_scales(const infer *in, const spey_weight *m, int32_t index, bool one)
{
    if (index < 0 || index >= in->graph->n_weights)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s is e4m3 and has no scales", in->op, m->name);
    const spey_weight *s = &in->graph->weights[index];
    bool single = s->n_dims == 1 && s->dims[0] == 1 && (one || m->n_dims == 2);
    bool each = !one && s->n_dims == m->n_dims - 1;
    for (int d = 0; d + 1 < m->n_dims; d++)
        each = each && s->dims[d] == m->dims[d];
    if (s->dtype == SPEY_F32 && (single || each)) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s: weight %s does not fit as scales of %s", in->op, s->name,
                     m->name);
}

/* A matrix, or a stack of them, of floats or of E4M3 with its scales. */
static spey_status want_linear(const infer *in, int n_dims)
{
    const spey_weight *m = weight(in, 0);
    if (m->dtype != SPEY_E4M3) return want_floats(in, 0, n_dims);
    if (m->n_dims != n_dims)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s has %d dims, expected %d", in->op, m->name,
                         m->n_dims, n_dims);
    SPEY_TRY(want_scales(in, m, m->scale, false));
    if (m->input == SPEY_INPUT_STATIC) SPEY_TRY(want_scales(in, m, m->input_scale, true));
    return SPEY_OK;
}

/* A matrix of floats; `inputs` -1: any number of columns. */
static spey_status want_matrix(const infer *in, int w, int64_t inputs)
{
    const spey_weight *m = weight(in, w);
    SPEY_TRY(in->node->op == SPEY_GRAPH_LINEAR ? want_linear(in, 2) : want_floats(in, w, 2));
    if (inputs >= 0 && m->dims[1] != inputs)
        return SPEY_FAIL(SPEY_INVALID, "%s: input %%%d has %lld columns, weight %s is [%lld,%lld]",
                         in->op, in->node->inputs[0], (long long)inputs, m->name,
                         (long long)m->dims[0], (long long)m->dims[1]);
    return SPEY_OK;
}

static spey_status want_same_shape(const infer *in)
{
    const spey_value_info *a = input(in, 0), *b = input(in, 1);
    if (a->rows != b->rows) return fail_rows(in, 1, rows_names[a->rows]);
    return want_cols(in, 1, a->cols);
}

static spey_status want_layer(const infer *in, const spey_cache_group **out)
{
    int64_t cache = int_of(in, SPEY_ATTR_CACHE), layer = int_of(in, SPEY_ATTR_LAYER);
    if (cache >= in->graph->n_caches)
        return SPEY_FAIL(SPEY_INVALID, "%s: cache %lld is not declared", in->op, (long long)cache);
    *out = &in->graph->caches[cache];
    if (layer >= (*out)->layers)
        return SPEY_FAIL(SPEY_INVALID, "%s: layer %lld, but cache %lld has %lld layers", in->op,
                         (long long)layer, (long long)cache, (long long)(*out)->layers);
    return SPEY_OK;
}

static spey_status want_state(const infer *in, int64_t elements)
{
    const spey_cache_group *group;
    SPEY_TRY(want_layer(in, &group));
    if (group->state == elements) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s: a state of %lld elements, cache %lld has %lld", in->op,
                     (long long)elements, (long long)int_of(in, SPEY_ATTR_CACHE),
                     (long long)group->state);
}

static spey_status want_cache(const infer *in, int64_t heads, int64_t k_dim, int64_t v_dim)
{
    const spey_cache_group *group;
    SPEY_TRY(want_layer(in, &group));
    int64_t cache = int_of(in, SPEY_ATTR_CACHE);
    if (heads != group->heads || k_dim != group->k_dim || v_dim != group->v_dim)
        return SPEY_FAIL(SPEY_INVALID,
                         "%s: %lld KV heads of %lld and %lld, cache %lld has %lld of %lld and %lld",
                         in->op, (long long)heads, (long long)k_dim, (long long)v_dim,
                         (long long)cache, (long long)group->heads, (long long)group->k_dim,
                         (long long)group->v_dim);
    return SPEY_OK;
}

/* Those of the decoder's tokens are filled by the decoder, the others by the encoder. */
static spey_status want_filler(const infer *in)
{
    int64_t cache = int_of(in, SPEY_ATTR_CACHE);
    bool source = input(in, 0)->rows == SPEY_ROWS_SOURCE;
    if (in->graph->caches[cache].source == source) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s: %s rows into cache %lld, which is for %s", in->op,
                     rows_names[input(in, 0)->rows], (long long)cache,
                     source ? "tokens" : "the encoder's");
}

static spey_status want_heads(const infer *in, int64_t heads, int64_t kv_heads)
{
    if (heads % kv_heads == 0) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "%s: %lld heads do not divide among %lld KV heads", in->op,
                     (long long)heads, (long long)kv_heads);
}

/* ---- one function per op ---- */

typedef spey_status infer_op(const infer *in, spey_value_info *out);

static spey_status infer_embed(const infer *in, spey_value_info *out)
{
    SPEY_TRY(want_matrix(in, 0, -1));
    int64_t rows = weight(in, 0)->dims[0], begin = int_of(in, SPEY_ATTR_BEGIN);
    if (begin >= rows)
        return SPEY_FAIL(SPEY_INVALID, "%s: begin is %lld, weight %s has %lld rows", in->op,
                         (long long)begin, weight(in, 0)->name, (long long)rows);
    out[0].rows = int_of(in, SPEY_ATTR_ENCODER) ? SPEY_ROWS_SOURCE : SPEY_ROWS_TOKENS;
    out[0].cols = weight(in, 0)->dims[1];
    return SPEY_OK;
}

static spey_status infer_norm(const infer *in, spey_value_info *out)
{
    int64_t cols = input(in, 0)->cols, groups = spey_node_int(in->node, SPEY_ATTR_GROUPS, 1);
    if (cols % groups)
        return SPEY_FAIL(SPEY_INVALID, "%s: %lld columns do not divide into %lld groups", in->op,
                         (long long)cols, (long long)groups);
    for (int w = 0; w < in->node->n_weights; w++)
        SPEY_TRY(want_vector(in, w, cols / groups));
    out[0] = *input(in, 0);
    return SPEY_OK;
}

static spey_status infer_linear(const infer *in, spey_value_info *out)
{
    SPEY_TRY(want_matrix(in, 0, input(in, 0)->cols));
    if (in->node->n_weights > 1) SPEY_TRY(want_vector(in, 1, weight(in, 0)->dims[0]));
    out[0].rows = input(in, 0)->rows;
    out[0].cols = weight(in, 0)->dims[0];
    return SPEY_OK;
}

static spey_status infer_like_first(const infer *in, spey_value_info *out)
{
    if (in->node->n_inputs == 2) SPEY_TRY(want_same_shape(in));
    out[0] = *input(in, 0);
    return SPEY_OK;
}

/* Columns of each of `heads` pieces of input i. */
static spey_status piece_cols(const infer *in, int i, int64_t heads, int64_t *cols)
{
    if (input(in, i)->cols % heads)
        return SPEY_FAIL(SPEY_INVALID, "%s: input %d (%%%d) has %lld columns, not %lld pieces",
                         in->op, i, in->node->inputs[i], (long long)input(in, i)->cols,
                         (long long)heads);
    *cols = input(in, i)->cols / heads;
    return SPEY_OK;
}

static spey_status infer_concat(const infer *in, spey_value_info *out)
{
    int64_t heads = int_of(in, SPEY_ATTR_HEADS), a, b;
    SPEY_TRY(want_step(in));
    out[0].rows = input(in, 0)->rows;
    SPEY_TRY(piece_cols(in, 0, heads, &a));
    SPEY_TRY(piece_cols(in, 1, int_of(in, SPEY_ATTR_SHARED) ? 1 : heads, &b));
    out[0].cols = heads * (a + b);
    return SPEY_OK;
}

static spey_status infer_slice(const infer *in, spey_value_info *out)
{
    int64_t begin = int_of(in, SPEY_ATTR_BEGIN), cols = int_of(in, SPEY_ATTR_COLS);
    if (begin + cols > input(in, 0)->cols)
        return SPEY_FAIL(SPEY_INVALID, "%s: columns %lld to %lld of %%%d, which has %lld", in->op,
                         (long long)begin, (long long)(begin + cols), in->node->inputs[0],
                         (long long)input(in, 0)->cols);
    out[0].rows = input(in, 0)->rows;
    out[0].cols = cols;
    return SPEY_OK;
}

static spey_status infer_rope_table(const infer *in, spey_value_info *out)
{
    int64_t rotary = int_of(in, SPEY_ATTR_ROTARY);
    if (rotary < 2 || rotary % 2)
        return SPEY_FAIL(SPEY_INVALID, "%s: rotary is %lld, expected an even number", in->op,
                         (long long)rotary);
    for (int w = 0; w < in->node->n_weights; w++)
        SPEY_TRY(want_vector(in, w, rotary / 2));
    bool dynamic = spey_node_number(in->node, SPEY_ATTR_DYNAMIC, 0) > 0;
    if ((dynamic || in->node->n_weights > 1) && int_of(in, SPEY_ATTR_ORIGINAL) < 1)
        return SPEY_FAIL(SPEY_INVALID, "%s: original is missing", in->op);
    if (dynamic && (spey_node_number(in->node, SPEY_ATTR_BASE, 0) <= 0 || rotary < 4))
        return SPEY_FAIL(SPEY_INVALID, "%s: dynamic needs base and rotary > 2", in->op);
    out[0].cols = rotary;
    return SPEY_OK;
}

/* rope and rope_append: the rotated part fits the head and the table. */
static spey_status want_rotary(const infer *in, int64_t k_dim)
{
    int64_t rotary = int_of(in, SPEY_ATTR_ROTARY);
    if (rotary % 2 || rotary > k_dim)
        return SPEY_FAIL(SPEY_INVALID, "%s: rotary is %lld, expected an even number up to %lld",
                         in->op, (long long)rotary, (long long)k_dim);
    if ((in->node->n_inputs == 2) != (rotary > 0))
        return SPEY_FAIL(SPEY_INVALID, "%s: rotary is %lld with %d inputs", in->op,
                         (long long)rotary, in->node->n_inputs);
    return rotary ? want_cols(in, 1, rotary) : SPEY_OK;
}

static spey_status infer_rope(const infer *in, spey_value_info *out)
{
    SPEY_TRY(want_tokens(in));
    int64_t k_dim = int_of(in, SPEY_ATTR_K_DIM);
    SPEY_TRY(want_cols(in, 0, int_of(in, SPEY_ATTR_HEADS) * k_dim));
    SPEY_TRY(want_rotary(in, k_dim));
    out[0] = *input(in, 0);
    return SPEY_OK;
}

static spey_status infer_kv_append(const infer *in, spey_value_info *out)
{
    (void)out;
    int64_t heads = int_of(in, SPEY_ATTR_HEADS);
    int64_t k_dim = int_of(in, SPEY_ATTR_K_DIM), v_dim = int_of(in, SPEY_ATTR_V_DIM);
    SPEY_TRY(want_step(in));
    SPEY_TRY(want_cols(in, 0, heads * k_dim));
    SPEY_TRY(want_cols(in, 1, heads * v_dim));
    SPEY_TRY(want_cache(in, heads, k_dim, v_dim));
    return want_filler(in);
}

/* What the query's place in its sequence decides means nothing when the keys are of another one. */
static spey_status want_cross(const infer *in, const spey_cache_group *group)
{
    bool source = input(in, 0)->rows == SPEY_ROWS_SOURCE;
    if (source && !group->source)
        return SPEY_FAIL(SPEY_INVALID, "%s: the encoder attends to the decoder's cache", in->op);
    if (source || !group->source) return SPEY_OK;
    if (group->scratch)
        return SPEY_FAIL(SPEY_INVALID, "%s: the decoder attends to the encoder's scratch", in->op);
    bool placed = spey_node_int(in->node, SPEY_ATTR_CAUSAL, 1) || int_of(in, SPEY_ATTR_WINDOW) ||
                  int_of(in, SPEY_ATTR_ALIBI) || int_of(in, SPEY_ATTR_RELATIVE);
    if (placed)
        return SPEY_FAIL(SPEY_INVALID,
                         "%s: cross-attention is causal, or has a window, alibi or relative",
                         in->op);
    return SPEY_OK;
}

/* The weights, in order: slopes, relative biases, sinks. */
static spey_status want_attention_weights(const infer *in, int64_t heads)
{
    bool alibi = int_of(in, SPEY_ATTR_ALIBI), relative = int_of(in, SPEY_ATTR_RELATIVE);
    bool sinks = int_of(in, SPEY_ATTR_SINKS);
    if (alibi + relative + sinks != in->node->n_weights)
        return SPEY_FAIL(SPEY_INVALID, "%s: alibi, relative and sinks name %d weights, it has %d",
                         in->op, alibi + relative + sinks, in->node->n_weights);
    if (alibi) SPEY_TRY(want_vector(in, 0, heads));
    if (sinks) SPEY_TRY(want_vector(in, alibi + relative, heads));
    if (!relative) return SPEY_OK;
    SPEY_TRY(want_matrix(in, alibi, -1));
    const spey_weight *table = weight(in, alibi);
    bool causal = spey_node_int(in->node, SPEY_ATTR_CAUSAL, 1);
    int64_t side = causal ? table->dims[0] : table->dims[0] / 2;
    bool even = causal || table->dims[0] % 2 == 0;
    if (table->dtype == SPEY_F32 && table->dims[1] == heads && even && side >= 2 &&
        int_of(in, SPEY_ATTR_DISTANCE) > side / 2 && side <= SPEY_RELATIVE_DISTANCE_MAX)
        return SPEY_OK;
    return SPEY_FAIL(
        SPEY_INVALID,
        "%s: distance %lld and weight %s of %s [%lld,%lld], expected f32 [buckets,%lld]", in->op,
        (long long)int_of(in, SPEY_ATTR_DISTANCE), table->name, spey_dtype_name(table->dtype),
        (long long)table->dims[0], (long long)table->dims[1], (long long)heads);
}

static spey_status infer_attention(const infer *in, spey_value_info *out)
{
    int64_t heads = int_of(in, SPEY_ATTR_HEADS), kv_heads = int_of(in, SPEY_ATTR_KV_HEADS);
    int64_t k_dim = int_of(in, SPEY_ATTR_K_DIM), v_dim = int_of(in, SPEY_ATTR_V_DIM);
    SPEY_TRY(want_step(in));
    SPEY_TRY(want_heads(in, heads, kv_heads));
    SPEY_TRY(want_cols(in, 0, heads * k_dim));
    SPEY_TRY(want_cache(in, kv_heads, k_dim, v_dim));
    const spey_cache_group *group = &in->graph->caches[int_of(in, SPEY_ATTR_CACHE)];
    SPEY_TRY(want_cross(in, group));
    int64_t kept = group->window, window = int_of(in, SPEY_ATTR_WINDOW);
    if (kept && (!window || window > kept))
        return SPEY_FAIL(SPEY_INVALID, "%s: window is %lld, but its cache keeps %lld tokens",
                         in->op, (long long)window, (long long)kept);
    SPEY_TRY(want_attention_weights(in, heads));
    out[0].rows = input(in, 0)->rows;
    out[0].cols = heads * v_dim;
    return SPEY_OK;
}

static spey_status infer_gather(const infer *in, spey_value_info *out)
{
    SPEY_TRY(want_tokens(in));
    out[0].rows = SPEY_ROWS_OUTPUTS;
    out[0].cols = input(in, 0)->cols;
    return SPEY_OK;
}

static spey_status infer_add_norm(const infer *in, spey_value_info *out)
{
    SPEY_TRY(want_same_shape(in));
    SPEY_TRY(infer_norm(in, out));
    out[1] = out[0];
    return SPEY_OK;
}

static spey_status infer_rope_append(const infer *in, spey_value_info *out)
{
    int64_t heads = int_of(in, SPEY_ATTR_HEADS), kv_heads = int_of(in, SPEY_ATTR_KV_HEADS);
    int64_t k_dim = int_of(in, SPEY_ATTR_K_DIM);
    SPEY_TRY(want_tokens(in));
    SPEY_TRY(want_heads(in, heads, kv_heads));
    SPEY_TRY(want_cols(in, 0, (heads + 2 * kv_heads) * k_dim));
    SPEY_TRY(want_cache(in, kv_heads, k_dim, k_dim));
    SPEY_TRY(want_filler(in));
    SPEY_TRY(want_rotary(in, k_dim));
    out[0].cols = heads * k_dim;
    return SPEY_OK;
}

static spey_status infer_route(const infer *in, spey_value_info *out)
{
    int64_t experts = input(in, 0)->cols, top_k = int_of(in, SPEY_ATTR_TOP_K);
    int64_t groups = spey_node_int(in->node, SPEY_ATTR_GROUPS, 1);
    int64_t top_groups = spey_node_int(in->node, SPEY_ATTR_TOP_GROUPS, groups);
    int64_t best = spey_node_int(in->node, SPEY_ATTR_GROUP_BEST, 1);
    SPEY_TRY(want_tokens(in));
    bool fits = experts <= SPEY_EXPERTS_MAX && groups <= experts && experts % groups == 0 &&
                top_groups <= groups;
    if (!fits || best > experts / groups || top_k > top_groups * (experts / groups))
        return SPEY_FAIL(SPEY_INVALID,
                         "%s: %lld of %lld experts in the best %lld of %lld groups by %lld", in->op,
                         (long long)top_k, (long long)experts, (long long)top_groups,
                         (long long)groups, (long long)best);
    if (in->node->n_weights) SPEY_TRY(want_vector(in, 0, experts));
    out[0].cols = 2 * top_k;
    return SPEY_OK;
}

/* Matrices that a row goes through, of as many experts as the routing chooses from. */
static spey_status expert_slots(const infer *in, int64_t *slots)
{
    const spey_weight *stack = weight(in, 0);
    *slots = stack->dims[0];
    if (in->node->n_inputs < 2) return SPEY_OK;
    const spey_node *route = spey_graph_producer(in->graph, in->node->inputs[1]);
    int64_t experts = in->graph->values[route->inputs[0]].cols;
    if (experts != stack->dims[0])
        return SPEY_FAIL(SPEY_INVALID, "%s: routing %%%d is to %lld experts, weight %s has %lld",
                         in->op, in->node->inputs[1], (long long)experts, stack->name,
                         (long long)stack->dims[0]);
    *slots = input(in, 1)->cols / 2;
    return SPEY_OK;
}

static spey_status infer_expert_linear(const infer *in, spey_value_info *out)
{
    const spey_weight *stack = weight(in, 0);
    bool sum = int_of(in, SPEY_ATTR_SUM) != 0;
    int64_t slots;
    SPEY_TRY(want_tokens(in));
    SPEY_TRY(want_linear(in, 3));
    if (stack->dims[0] > SPEY_EXPERTS_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%s: weight %s has %lld experts, at most %d are supported",
                         in->op, stack->name, (long long)stack->dims[0], SPEY_EXPERTS_MAX);
    SPEY_TRY(expert_slots(in, &slots));
    if (input(in, 0)->cols != stack->dims[2]) SPEY_TRY(want_cols(in, 0, slots * stack->dims[2]));
    if (sum && in->node->n_inputs < 2)
        return SPEY_FAIL(SPEY_INVALID, "%s: a sum needs routing", in->op);
    if (in->node->n_weights > 1) {
        const spey_weight *bias = weight(in, 1);
        SPEY_TRY(want_floats(in, 1, 2));
        if (bias->dtype != SPEY_F32 || bias->dims[0] != stack->dims[0] ||
            bias->dims[1] != stack->dims[1])
            return SPEY_FAIL(SPEY_INVALID, "%s: weight %s is not f32 [%lld,%lld]", in->op,
                             bias->name, (long long)stack->dims[0], (long long)stack->dims[1]);
    }
    out[0].cols = (sum ? 1 : slots) * stack->dims[1];
    return SPEY_OK;
}

static spey_status infer_causal_conv(const infer *in, spey_value_info *out)
{
    const spey_weight *w = weight(in, 0);
    int64_t cols = input(in, 0)->cols;
    SPEY_TRY(want_tokens(in));
    SPEY_TRY(want_floats(in, 0, 3));
    int64_t width = w->dims[2];
    if (w->dtype != SPEY_F32 || w->dims[0] != cols || w->dims[1] != 1 || width < 2 ||
        width > SPEY_CONV_WIDTH_MAX)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s is not f32 [%lld,1,2…%d]", in->op, w->name,
                         (long long)cols, SPEY_CONV_WIDTH_MAX);
    if (in->node->n_weights > 1) SPEY_TRY(want_vector(in, 1, cols));
    SPEY_TRY(want_state(in, cols * (width - 1)));
    out[0] = *input(in, 0);
    return SPEY_OK;
}

static spey_status infer_selective_scan(const infer *in, spey_value_info *out)
{
    const spey_weight *a_log = weight(in, 0);
    int64_t cols = input(in, 0)->cols, states = input(in, 2)->cols;
    SPEY_TRY(want_tokens(in));
    SPEY_TRY(want_cols(in, 1, cols));
    SPEY_TRY(want_cols(in, 3, states));
    SPEY_TRY(want_floats(in, 0, 2));
    if (a_log->dtype != SPEY_F32 || a_log->dims[0] != cols || a_log->dims[1] != states ||
        states > SPEY_SCAN_STATES_MAX)
        return SPEY_FAIL(SPEY_INVALID, "%s: weight %s is not f32 [%lld,%lld] (at most %d states)",
                         in->op, a_log->name, (long long)cols, (long long)states,
                         SPEY_SCAN_STATES_MAX);
    SPEY_TRY(want_vector(in, 1, cols));
    SPEY_TRY(want_state(in, cols * states));
    out[0] = *input(in, 0);
    return SPEY_OK;
}

static infer_op *const infer_ops[SPEY_GRAPH_OP_COUNT] = {
    [SPEY_GRAPH_EMBED] = infer_embed,
    [SPEY_GRAPH_NORM] = infer_norm,
    [SPEY_GRAPH_LINEAR] = infer_linear,
    [SPEY_GRAPH_UNARY] = infer_like_first,
    [SPEY_GRAPH_ADD] = infer_like_first,
    [SPEY_GRAPH_GLU] = infer_like_first,
    [SPEY_GRAPH_SLICE] = infer_slice,
    [SPEY_GRAPH_ROPE_TABLE] = infer_rope_table,
    [SPEY_GRAPH_ROPE] = infer_rope,
    [SPEY_GRAPH_KV_APPEND] = infer_kv_append,
    [SPEY_GRAPH_ATTENTION] = infer_attention,
    [SPEY_GRAPH_GATHER] = infer_gather,
    [SPEY_GRAPH_ADD_NORM] = infer_add_norm,
    [SPEY_GRAPH_ROPE_APPEND] = infer_rope_append,
    [SPEY_GRAPH_CONCAT] = infer_concat,
    [SPEY_GRAPH_ROUTE] = infer_route,
    [SPEY_GRAPH_EXPERT_LINEAR] = infer_expert_linear,
    [SPEY_GRAPH_CAUSAL_CONV] = infer_causal_conv,
    [SPEY_GRAPH_SELECTIVE_SCAN] = infer_selective_scan,
};

spey_status spey_graph_infer(const spey_graph *graph, spey_node *node,
                             spey_value_info outputs[SPEY_NODE_OUTPUTS_MAX])
{
    if (node->op >= SPEY_GRAPH_OP_COUNT)
        return SPEY_FAIL(SPEY_INVALID, "unknown op number %d", (int)node->op);
    infer in = { graph, node, op_names[node->op] };
    SPEY_TRY(check_operands(&in));
    SPEY_TRY(check_attrs(&in, node));
    SPEY_TRY(check_tables(&in));
    for (int i = 0; i < SPEY_NODE_OUTPUTS_MAX; i++)
        outputs[i] = (spey_value_info){ SPEY_ROWS_TOKENS, 0, -1 };
    SPEY_TRY(infer_ops[node->op](&in, outputs));
    for (int i = 0; i < arity[node->op].outputs; i++)
        if (outputs[i].cols < 1 || outputs[i].cols > SPEY_VALUE_COLS_MAX)
            return SPEY_FAIL(SPEY_LIMIT, "%s: %lld columns, expected 1…%d", in.op,
                             (long long)outputs[i].cols, SPEY_VALUE_COLS_MAX);
    return SPEY_OK;
}
