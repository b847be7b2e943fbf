#include "model/moe_block.h"

static spey_value route(spey_blocks *b, spey_value x, const spey_moe_spec *spec)
{
    const spey_linear_spec router = { .name = "moe.router",
                                      .tensor = spec->router,
                                      .outputs = spec->experts,
                                      .bias = spec->router_bias,
                                      .exact = true }; /* a rounding may choose another expert */
    spey_node node = { .op = SPEY_GRAPH_ROUTE, .n_inputs = 1 };
    node.inputs[0] = spey_block_linear(b, x, &router);
    spey_node_set_int(&node, SPEY_ATTR_TOP_K, spec->top_k);
    if (spec->scoring) spey_node_set_text(&node, SPEY_ATTR_SCORING, spec->scoring);
    if (spec->normalise) spey_node_set_int(&node, SPEY_ATTR_NORMALISE, 1);
    if (spec->scale != 0 && spec->scale != 1)
        spey_node_set_number(&node, SPEY_ATTR_SCALE, spec->scale);
    if (spec->groups > 1) {
        spey_node_set_int(&node, SPEY_ATTR_GROUPS, spec->groups);
        spey_node_set_int(&node, SPEY_ATTR_TOP_GROUPS, spec->top_groups);
        spey_node_set_int(&node, SPEY_ATTR_GROUP_BEST, spec->group_best);
    }
    if (spec->correction) {
        const spey_weight_names names = { "moe.correction", spec->correction, "", false };
        const spey_weight correction = { .dtype = SPEY_F32,
                                         .n_dims = 1,
                                         .dims = { spec->experts } };
        node.weights[node.n_weights++] = spey_blocks_declare(b, &names, &correction);
    }
    return spey_blocks_append(b, &node);
}

typedef struct expert_matrix {
    const char *name, *tensor;
    int64_t outputs, inputs;
    spey_cut cut;
    spey_row_pieces pieces;
} expert_matrix;

/* One matrix of each of the experts that `routing` names. */
static spey_node expert_linear(spey_blocks *b, const spey_value x_and_routing[2],
                               const expert_matrix *m, const spey_moe_spec *spec)
{
    const bool one = spec->stack == SPEY_STACK_ONE;
    spey_weight stack = { .dtype = b->dtype,
                          .n_dims = 3,
                          .dims = { spec->experts, m->outputs, m->inputs },
                          .cut = m->cut,
                          .source = { .stack = spec->stack,
                                      .transpose = spec->transpose,
                                      .row_begin = m->pieces.begin,
                                      .row_piece = m->pieces.piece,
                                      .row_stride = m->pieces.stride,
                                      .n_pieces = m->pieces.n_pieces } };
    spey_weight_names names = { m->name, m->tensor, one ? "" : ".weight", false };
    spey_node node = { .op = SPEY_GRAPH_EXPERT_LINEAR,
                       .n_inputs = 2,
                       .inputs = { x_and_routing[0], x_and_routing[1] } };
    node.weights[node.n_weights++] = spey_blocks_declare(b, &names, &stack);
    if (spec->bias) {
        names.ending = one ? "_bias" : ".bias";
        names.bias = true;
        stack.dtype = SPEY_F32;
        stack.n_dims = 2;
        stack.dims[2] = 0;
        stack.source.transpose = false;
        if (m->cut == SPEY_CUT_COLS) stack.cut = SPEY_CUT_NONE;
        node.weights[node.n_weights++] = spey_blocks_declare(b, &names, &stack);
    }
    return node;
}

/* Half `which` of the first layer: 0 gate, 1 up. */
static spey_value widen(spey_blocks *b, const spey_value x_and_routing[2],
                        const spey_moe_spec *spec, int which)
{
    const int64_t n = spec->intermediate;
    expert_matrix m = { .name = which == 0 ? "moe.gate" : "moe.up",
                        .tensor = which == 0 ? spec->gate : spec->up,
                        .outputs = n,
                        .inputs = spey_blocks_cols(b, x_and_routing[0]),
                        .cut = SPEY_CUT_ROWS };
    if (spec->gate_up) {
        m.tensor = spec->gate_up;
        m.pieces = spec->interleaved ? (spey_row_pieces){ which, 1, 2, n }
                                     : (spey_row_pieces){ which * n, n, n, 1 };
    }
    spey_node node = expert_linear(b, x_and_routing, &m, spec);
    return spey_blocks_append(b, &node);
}

static spey_value combine(spey_blocks *b, spey_value gate, spey_value up, const spey_moe_spec *spec)
{
    if (spec->limit == 0 && spec->up_offset == 0)
        return spey_block_mul(b, spey_block_unary(b, gate, spec->act, 1, 0), up);
    spey_node glu = { .op = SPEY_GRAPH_GLU, .n_inputs = 2, .inputs = { gate, up } };
    spey_node_set_text(&glu, SPEY_ATTR_ACT, spec->act);
    spey_node_set_number(&glu, SPEY_ATTR_LIMIT, spec->limit);
    spey_node_set_number(&glu, SPEY_ATTR_OFFSET, spec->up_offset);
    return spey_blocks_append(b, &glu);
}

spey_value spey_block_moe(spey_blocks *b, spey_value x, const spey_moe_spec *spec)
{
    spey_value in[2] = { x, route(b, x, spec) };
    const expert_matrix down = { .name = "moe.down",
                                 .tensor = spec->down,
                                 .outputs = spey_blocks_cols(b, x),
                                 .inputs = spec->intermediate,
                                 .cut = SPEY_CUT_COLS };
    spey_value gate = widen(b, in, spec, 0);
    spey_value up = widen(b, in, spec, 1);
    in[0] = combine(b, gate, up, spec);
    spey_node node = expert_linear(b, in, &down, spec);
    spey_node_set_int(&node, SPEY_ATTR_SUM, 1);
    return spey_blocks_append(b, &node);
}
