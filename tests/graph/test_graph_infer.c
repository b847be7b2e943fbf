/* What ops demand of their operands. */
#include "graph_test.h"

#include "graph/graph_infer.h"
#include "kernels/activation.h"

static const char *const activation_texts[] = {
#define TEXT(NAME, text) text,
    SPEY_ACTIVATION_LIST(TEXT)
#undef TEXT
};

static int32_t add_matrix(spey_graph *graph, const char *name, int64_t rows, int64_t cols)
{
    int32_t index;
    spey_weight weight = { .name = name, .dtype = SPEY_F32, .n_dims = 2, .dims = { rows, cols } };
    must(spey_graph_add_weight(graph, &weight, &index));
    return index;
}

#define HEADER                                              \
    "spey-graph 1\nweight e f32 [9,12]\nweight f f32 [2]\n" \
    "cache 0 kv layers=2 heads=1 k_dim=4 v_dim=4\n%0 = embed() e : tokens 12\n"

static void acts_are_those_of_the_kernels(void **state)
{
    (void)state;
    for (int a = 0; a < SPEY_ACT_COUNT; a++)
        assert_non_null(
            spey_attr_find_text(SPEY_ATTR_ACT, activation_texts[a], strlen(activation_texts[a])));
    assert_null(spey_attr_find_text(SPEY_ATTR_ACT, "gelu_", 5));
}

static void a_linear_says_what_does_not_fit(void **state)
{
    (void)state;
    spey_graph *graph;
    int32_t node;
    must(spey_graph_new(&graph));
    spey_node embed = { .op = SPEY_GRAPH_EMBED,
                        .n_weights = 1,
                        .weights = { add_matrix(graph, "embed", 10, 6) } };
    must(spey_graph_add_node(graph, &embed, &node));
    assert_int_equal(graph->values[0].cols, 6);
    spey_node linear = { .op = SPEY_GRAPH_LINEAR,
                         .n_inputs = 1,
                         .inputs = { 0 },
                         .n_weights = 1,
                         .weights = { add_matrix(graph, "w", 3, 5) } };
    must_fail(spey_graph_add_node(graph, &linear, NULL), SPEY_INVALID,
              "linear: input %0 has 6 columns, weight w is [3,5]");
    linear.inputs[0] = 4;
    must_fail(spey_graph_add_node(graph, &linear, NULL), SPEY_INVALID,
              "value %4, which does not exist");
    assert_int_equal(graph->n_nodes, 1);
    spey_graph_free(graph);
}

static void an_embedding_begins_inside_its_table(void **state)
{
    (void)state;
    spey_graph *graph;
    static const char text[] =
        "spey-graph 1\nweight e f32 [9,12]\n%0 = embed() e : tokens 12 {source=positions begin=9}\n";
    must_fail(spey_graph_parse("test", text, strlen(text), &graph), SPEY_FORMAT,
              "begin is 9, weight e has 9 rows");
}

static void tables_are_for_rope_alone(void **state)
{
    (void)state;
    spey_graph *graph;
    static const char text[] =
        HEADER "%1 = rope_table() f : tokens 4 {rotary=4}\n%2 = unary(%1) : tokens 4\n";
    must_fail(spey_graph_parse("test", text, strlen(text), &graph), SPEY_FORMAT,
              "made by rope_table, expected activations");
}

static void a_window_must_be_kept_by_the_cache(void **state)
{
    (void)state;
    spey_graph *graph;
    static const char text[] =
        "spey-graph 1\nweight e f32 [9,4]\ncache 0 kv layers=1 heads=1 k_dim=4 v_dim=4 window=8\n"
        "%0 = embed() e : tokens 4\nkv_append(%0, %0) {heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n"
        "%1 = attention(%0) : tokens 4 {scale=1 heads=1 kv_heads=1 k_dim=4 v_dim=4 cache=0 layer=0 window=9}\n";
    must_fail(spey_graph_parse("test", text, strlen(text), &graph), SPEY_FORMAT,
              "window is 9, but its cache keeps 8");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acts_are_those_of_the_kernels),
        cmocka_unit_test(a_linear_says_what_does_not_fit),
        cmocka_unit_test(an_embedding_begins_inside_its_table),
        cmocka_unit_test(tables_are_for_rope_alone),
        cmocka_unit_test(a_window_must_be_kept_by_the_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
