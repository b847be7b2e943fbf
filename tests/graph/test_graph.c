/* Building graphs: weights, and what is in use. */
#include "graph_test.h"

static int32_t add_matrix(spey_graph *graph, const char *name, int64_t rows, int64_t cols)
{
    int32_t index;
    spey_weight weight = { .name = name, .dtype = SPEY_F32, .n_dims = 2, .dims = { rows, cols } };
    must(spey_graph_add_weight(graph, &weight, &index));
    return index;
}

static void weights_are_named_once_and_plainly(void **state)
{
    (void)state;
    spey_graph *graph;
    int32_t index;
    must(spey_graph_new(&graph));
    add_matrix(graph, "layer.0.attn.q", 4, 4);
    assert_int_equal(spey_graph_find_weight(graph, "layer.0.attn.q"), 0);
    assert_int_equal(spey_graph_find_weight(graph, "layer.0.attn.k"), -1);
    spey_weight weight = {
        .name = "layer.0.attn.q", .dtype = SPEY_F32, .n_dims = 1, .dims = { 4 }
    };
    must_fail(spey_graph_add_weight(graph, &weight, &index), SPEY_INVALID, "declared twice");
    weight.name = "two words";
    must_fail(spey_graph_add_weight(graph, &weight, &index), SPEY_INVALID, "letters, digits");
    weight.name = "";
    must_fail(spey_graph_add_weight(graph, &weight, &index), SPEY_INVALID, "0 bytes");
    weight.name = "x";
    weight.n_dims = 5;
    must_fail(spey_graph_add_weight(graph, &weight, &index), SPEY_INVALID, "5 dims");
    spey_graph_free(graph);
}

static void used_weights_are_those_that_nodes_read(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        "spey-graph 1\nweight e f32 [4,8]\nweight idle f32 [3]\nweight ab f32 [6,8] parts=a:4,b:2\n"
        "%0 = embed() e : tokens 8\n%1 = linear(%0) ab : tokens 6\n%2 = gather(%1) : outputs 6\noutput %2\n");
    bool used[8];
    spey_graph_mark_weights(graph, used);
    assert_true(used[spey_graph_find_weight(graph, "e")]);
    assert_true(used[spey_graph_find_weight(graph, "ab")]);
    assert_false(used[spey_graph_find_weight(graph, "a")]);
    assert_false(used[spey_graph_find_weight(graph, "idle")]);
    spey_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_named_once_and_plainly),
        cmocka_unit_test(used_weights_are_those_that_nodes_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
