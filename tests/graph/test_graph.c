/* Building and rewriting graphs. */
#include "graph_test.h"

#include "graph/graph_infer.h"
#include "kernels/activation.h"
#include "random_graph.h"

static const char *const activation_texts[] = {
#define TEXT(NAME, text) text,
    SPEY_ACTIVATION_LIST(TEXT)
#undef TEXT
};

static void acts_are_those_of_the_kernels(void **state)
{
    (void)state;
    for (int a = 0; a < SPEY_ACT_COUNT; a++)
        assert_non_null(
            spey_attr_find_text(SPEY_ATTR_ACT, activation_texts[a], strlen(activation_texts[a])));
    assert_null(spey_attr_find_text(SPEY_ATTR_ACT, "gelu_", 5));
}

static int32_t add_matrix(spey_graph *graph, const char *name, int64_t rows, int64_t cols)
{
    int32_t index;
    spey_weight weight = { .name = name, .dtype = SPEY_F32, .n_dims = 2, .dims = { rows, cols } };
    must(spey_graph_add_weight(graph, &weight, &index));
    return index;
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

#define HEADER                                              \
    "spey-graph 1\nweight e f32 [9,12]\nweight f f32 [2]\n" \
    "cache 0 kv layers=2 heads=1 k_dim=4 v_dim=4\n%0 = embed() e : tokens 12\n"

static void tables_are_for_rope_alone(void **state)
{
    (void)state;
    spey_graph *graph;
    static const char text[] =
        HEADER "%1 = rope_table() f : tokens 4 {rotary=4}\n%2 = unary(%1) : tokens 4\n";
    must_fail(spey_graph_parse("test", text, strlen(text), &graph), SPEY_FORMAT,
              "made by rope_table, expected activations");
}

static void a_cache_is_filled_once_and_before_it_is_read(void **state)
{
    (void)state;
    spey_graph *graph;
#define SLICES "%1 = slice(%0) : tokens 4 {begin=0 cols=4}\n"
#define APPEND "kv_append(%1, %1) {heads=1 k_dim=4 v_dim=4 cache=0 layer=1}\n"
#define ATTEND \
    "%2 = attention(%1) : tokens 4 {scale=1 heads=1 kv_heads=1 k_dim=4 v_dim=4 cache=0 layer=1}\n"
#define TAIL "%3 = gather(%2) : outputs 4\noutput %3\n"
    spey_graph_free(graph_of(HEADER SLICES APPEND ATTEND TAIL));
    static const char twice[] = HEADER SLICES APPEND APPEND ATTEND TAIL;
    must_fail(spey_graph_parse("test", twice, strlen(twice), &graph), SPEY_FORMAT,
              "appended to twice");
    static const char early[] = HEADER SLICES ATTEND APPEND TAIL;
    must_fail(spey_graph_parse("test", early, strlen(early), &graph), SPEY_FORMAT,
              "read before it is appended to");
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

/* ---- rewriting ---- */

static void cleaning_drops_what_nobody_reads(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        HEADER "%1 = unary(%0) : tokens 12 {act=relu}\n%2 = unary(%1) : tokens 12 {act=tanh}\n"
               "%3 = slice(%0) : tokens 4 {begin=0 cols=4}\n"
               "kv_append(%3, %3) {heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n"
               "%4 = gather(%0) : outputs 12\noutput %4\n");
    must(spey_graph_clean(graph));
    char *text = text_of(graph);
    assert_string_equal(text, HEADER "%1 = slice(%0) : tokens 4 {begin=0 cols=4}\n"
                                     "kv_append(%1, %1) {heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n"
                                     "%2 = gather(%0) : outputs 12\noutput %2\n");
    spey_free(text);
    spey_graph_free(graph);
}

static void cleaning_puts_nodes_before_their_readers(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        HEADER "%1 = unary(%0) : tokens 12 {act=relu}\n%2 = unary(%1) : tokens 12 {act=tanh}\n"
               "%3 = gather(%2) : outputs 12\noutput %3\n");
    spey_node node = { .op = SPEY_GRAPH_UNARY, .n_inputs = 1, .inputs = { 0 } };
    int32_t index;
    spey_node_set_text(&node, SPEY_ATTR_ACT, "silu");
    must(spey_graph_add_node(graph, &node, &index));
    assert_int_equal(spey_graph_count_uses(graph, 1), 1);
    assert_int_equal(spey_graph_only_user(graph, 1), 2);
    spey_graph_replace_uses(graph, 1, graph->nodes[index].outputs[0]);
    assert_int_equal(spey_graph_count_uses(graph, 1), 0);
    assert_int_equal(spey_graph_only_user(graph, 1), -1);
    must_fail(spey_graph_check(graph), SPEY_INVALID, "before it is made");
    must(spey_graph_clean(graph));
    must(spey_graph_check(graph));
    char *text = text_of(graph);
    assert_string_equal(
        text,
        HEADER "%1 = unary(%0) : tokens 12 {act=silu}\n%2 = unary(%1) : tokens 12 {act=tanh}\n"
               "%3 = gather(%2) : outputs 12\noutput %3\n");
    spey_free(text);
    spey_graph_free(graph);
}

static void a_cycle_is_an_error_and_changes_nothing(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        HEADER "%1 = unary(%0) : tokens 12 {act=relu}\n%2 = unary(%1) : tokens 12 {act=tanh}\n"
               "%3 = gather(%2) : outputs 12\noutput %3\n");
    graph->nodes[1].inputs[0] = 2;
    must_fail(spey_graph_clean(graph), SPEY_INTERNAL, "cycle");
    assert_int_equal(graph->n_nodes, 4);
    spey_graph_free(graph);
}

static void a_removed_node_must_have_no_readers(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        HEADER "%1 = unary(%0) : tokens 12 {act=relu}\n%2 = gather(%1) : outputs 12\noutput %2\n");
    spey_graph_remove_node(graph, 1);
    must_fail(spey_graph_clean(graph), SPEY_INTERNAL, "removed node");
    spey_graph_free(graph);
}

static void cleaning_twice_is_cleaning_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        spey_graph *graph = random_graph(seed);
        must(spey_graph_clean(graph));
        char *once = text_of(graph);
        must(spey_graph_clean(graph));
        must(spey_graph_check(graph));
        char *twice = text_of(graph);
        assert_string_equal(once, twice);
        spey_free(once);
        spey_free(twice);
        spey_graph_free(graph);
    }
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
        cmocka_unit_test(acts_are_those_of_the_kernels),
        cmocka_unit_test(a_linear_says_what_does_not_fit),
        cmocka_unit_test(weights_are_named_once_and_plainly),
        cmocka_unit_test(tables_are_for_rope_alone),
        cmocka_unit_test(a_cache_is_filled_once_and_before_it_is_read),
        cmocka_unit_test(a_window_must_be_kept_by_the_cache),
        cmocka_unit_test(cleaning_drops_what_nobody_reads),
        cmocka_unit_test(cleaning_puts_nodes_before_their_readers),
        cmocka_unit_test(a_cycle_is_an_error_and_changes_nothing),
        cmocka_unit_test(a_removed_node_must_have_no_readers),
        cmocka_unit_test(cleaning_twice_is_cleaning_once),
        cmocka_unit_test(used_weights_are_those_that_nodes_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
