/* The mixer: what it draws, in order, and the states that it declares. */
#include "model_test.h"

#include <stdio.h>

#include "model/mamba_block.h"

static const spey_mamba_spec small = { .inner = 12,
                                       .states = 3,
                                       .rank = 2,
                                       .width = 4,
                                       .act = "silu",
                                       .in = "in_proj",
                                       .conv = "conv1d",
                                       .x = "x_proj",
                                       .dt = "dt_proj",
                                       .a_log = "A_log",
                                       .d = "D",
                                       .out = "out_proj" };

static spey_graph *draw(spey_mamba_spec spec)
{
    spey_blocks b = { .dtype = SPEY_BF16 };
    must(spey_graph_new(&b.graph));
    spey_block_mamba_caches(&b, 2, &spec);
    spey_value x = spey_block_embed(&b, "wte", 10, 8, 1);
    spey_blocks_enter_layer(&b, "h.", 1);
    spec.layer = 1;
    x = spey_block_mamba(&b, x, &spec);
    must(b.status);
    assert_int_equal(spey_blocks_cols(&b, x), 8);
    return b.graph;
}

static void the_mixer_is_drawn_in_the_papers_order(void **state)
{
    (void)state;
    spey_graph *graph = draw(small);
    char ops[512] = "";
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        const char *name = node->op == SPEY_GRAPH_LINEAR ? graph->weights[node->weights[0]].name
                                                         : spey_graph_op_name(node->op);
        snprintf(ops + strlen(ops), sizeof ops - strlen(ops), "%s%s", n ? " " : "", name);
    }
    assert_string_equal(ops,
                        "embed layer.1.mixer.in slice causal_conv unary slice unary "
                        "layer.1.mixer.x slice layer.1.mixer.dt slice slice selective_scan glu "
                        "layer.1.mixer.out");
    spey_graph_free(graph);
}

static void states_are_those_of_all_layers(void **state)
{
    (void)state;
    spey_graph *graph = draw(small);
    assert_int_equal(graph->n_caches, 2);
    assert_int_equal(graph->caches[0].layers, 2);
    assert_int_equal(graph->caches[0].state, 12 * 3); /* the three rows before */
    assert_int_equal(graph->caches[1].state, 12 * 3);
    spey_graph_free(graph);
}

static void biases_are_where_the_spec_says(void **state)
{
    (void)state;
    static const char *const optional[] = { "layer.1.mixer.in.bias", "layer.1.mixer.out.bias",
                                            "layer.1.mixer.conv.bias" };
    spey_mamba_spec spec = small;
    spey_graph *without = draw(spec);
    spec.bias = spec.conv_bias = true;
    spey_graph *with = draw(spec);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(spey_graph_find_weight(without, optional[i]), -1);
        assert_int_not_equal(spey_graph_find_weight(with, optional[i]), -1);
    }
    int32_t dt = spey_graph_find_weight(without, "layer.1.mixer.dt");
    assert_int_equal(without->weights[dt].dtype, SPEY_F32);
    assert_int_not_equal(spey_graph_find_weight(without, "layer.1.mixer.dt.bias"), -1);
    spey_graph_free(without);
    spey_graph_free(with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_mixer_is_drawn_in_the_papers_order),
        cmocka_unit_test(states_are_those_of_all_layers),
        cmocka_unit_test(biases_are_where_the_spec_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
