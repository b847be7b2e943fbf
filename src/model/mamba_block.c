#include "model/mamba_block.h"

void spey_block_mamba_caches(spey_blocks *b, int64_t layers, spey_mamba_spec *spec)
{
    const spey_cache_group conv = { .layers = layers, .state = spec->inner * (spec->width - 1) };
    const spey_cache_group scan = { .layers = layers, .state = spec->inner * spec->states };
    spey_blocks_add_cache(b, &conv, &spec->conv_cache);
    spey_blocks_add_cache(b, &scan, &spec->scan_cache);
}

/* An F32 weight. */
static int32_t declare(spey_blocks *b, const spey_weight_names *names, spey_weight weight)
{
    weight.dtype = SPEY_F32;
    weight.cut = SPEY_CUT_ROWS;
    return spey_blocks_declare(b, names, &weight);
}

static spey_value slice(spey_blocks *b, spey_value x, int64_t begin, int64_t cols)
{
    spey_node node = { .op = SPEY_GRAPH_SLICE, .n_inputs = 1, .inputs = { x } };
    spey_node_set_int(&node, SPEY_ATTR_BEGIN, begin);
    spey_node_set_int(&node, SPEY_ATTR_COLS, cols);
    return spey_blocks_append(b, &node);
}

static spey_value convolve(spey_blocks *b, spey_value x, const spey_mamba_spec *spec)
{
    spey_node node = { .op = SPEY_GRAPH_CAUSAL_CONV, .n_inputs = 1, .inputs = { x } };
    node.weights[node.n_weights++] =
        declare(b, &(spey_weight_names){ "mixer.conv", spec->conv, ".weight", false },
                (spey_weight){ .n_dims = 3, .dims = { spec->inner, 1, spec->width } });
    if (spec->conv_bias)
        node.weights[node.n_weights++] =
            declare(b, &(spey_weight_names){ "mixer.conv", spec->conv, ".bias", true },
                    (spey_weight){ .n_dims = 1, .dims = { spec->inner } });
    spey_node_set_int(&node, SPEY_ATTR_CACHE, spec->conv_cache);
    spey_node_set_int(&node, SPEY_ATTR_LAYER, spec->layer);
    return spey_block_unary(b, spey_blocks_append(b, &node), spec->act, 1, 0);
}

static spey_value scan(spey_blocks *b, spey_value u, const spey_mamba_spec *spec)
{
    /* Exponents come out of these two, and they are small: in 16 bits they would cost more than they save. */
    const spey_linear_spec x_proj = { .name = "mixer.x",
                                      .tensor = spec->x,
                                      .outputs = spec->rank + 2 * spec->states,
                                      .exact = true,
                                      .cut = SPEY_CUT_COLS };
    const spey_linear_spec dt_proj = { .name = "mixer.dt",
                                       .tensor = spec->dt,
                                       .outputs = spec->inner,
                                       .bias = true,
                                       .exact = true,
                                       .cut = SPEY_CUT_ROWS };
    spey_value all = spey_block_linear(b, u, &x_proj);
    spey_value dt = spey_block_linear(b, slice(b, all, 0, spec->rank), &dt_proj);
    spey_node node = { .op = SPEY_GRAPH_SELECTIVE_SCAN,
                       .n_inputs = 4,
                       .inputs = { u, dt, slice(b, all, spec->rank, spec->states),
                                   slice(b, all, spec->rank + spec->states, spec->states) } };
    node.weights[node.n_weights++] =
        declare(b, &(spey_weight_names){ "mixer.a_log", spec->a_log, "", false },
                (spey_weight){ .n_dims = 2, .dims = { spec->inner, spec->states } });
    node.weights[node.n_weights++] =
        declare(b, &(spey_weight_names){ "mixer.d", spec->d, "", false },
                (spey_weight){ .n_dims = 1, .dims = { spec->inner } });
    spey_node_set_int(&node, SPEY_ATTR_CACHE, spec->scan_cache);
    spey_node_set_int(&node, SPEY_ATTR_LAYER, spec->layer);
    return spey_blocks_append(b, &node);
}

spey_value spey_block_mamba(spey_blocks *b, spey_value x, const spey_mamba_spec *spec)
{
    const spey_linear_spec in = { .name = "mixer.in",
                                  .tensor = spec->in,
                                  .outputs = 2 * spec->inner,
                                  .bias = spec->bias,
                                  .cut = SPEY_CUT_ROWS };
    const spey_linear_spec out = { .name = "mixer.out",
                                   .tensor = spec->out,
                                   .outputs = spey_blocks_cols(b, x),
                                   .bias = spec->bias,
                                   .cut = SPEY_CUT_COLS };
    spey_value both = spey_block_linear(b, x, &in);
    spey_value u = convolve(b, slice(b, both, 0, spec->inner), spec);
    spey_value gate =
        spey_block_unary(b, slice(b, both, spec->inner, spec->inner), spec->act, 1, 0);
    return spey_block_linear(b, spey_block_mul(b, gate, scan(b, u, spec)), &out);
}
