/* Rewriting graphs: cleaning, sorting, checking. */
#include "graph_test.h"

#include "random_graph.h"

#define HEADER                                              \
    "spey-graph 1\nweight e f32 [9,12]\nweight f f32 [2]\n" \
    "cache 0 kv layers=2 heads=1 k_dim=4 v_dim=4\n%0 = embed() e : tokens 12\n"

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

static void a_state_is_carried_on_once(void **state)
{
    (void)state;
    spey_graph *graph;
    static const char text[] =
        "spey-graph 1\nweight e f32 [9,4]\nweight w f32 [4,1,3]\ncache 0 state layers=1 elements=8\n"
        "%0 = embed() e : tokens 4\n%1 = causal_conv(%0) w : tokens 4 {cache=0 layer=0}\n"
        "%2 = causal_conv(%1) w : tokens 4 {cache=0 layer=0}\n%3 = gather(%2) : outputs 4\noutput %3\n";
    must_fail(spey_graph_parse("test", text, strlen(text), &graph), SPEY_FORMAT,
              "cache 0, layer 0 is appended to twice");
}

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_is_filled_once_and_before_it_is_read),
        cmocka_unit_test(a_state_is_carried_on_once),
        cmocka_unit_test(cleaning_drops_what_nobody_reads),
        cmocka_unit_test(cleaning_puts_nodes_before_their_readers),
        cmocka_unit_test(a_cycle_is_an_error_and_changes_nothing),
        cmocka_unit_test(a_removed_node_must_have_no_readers),
        cmocka_unit_test(cleaning_twice_is_cleaning_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
