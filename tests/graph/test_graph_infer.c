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

static void recurrent_ops_say_what_does_not_fit(void **state)
{
    (void)state;
#define STATES                                                                                  \
    "spey-graph 1\nweight e f32 [9,4]\nweight w f32 [4,1,3]\nweight a f32 [4,4]\n"              \
    "weight d f32 [4]\ncache 0 state layers=1 elements=8\ncache 1 state layers=1 elements=16\n" \
    "%0 = embed() e : tokens 4\n"
    static const struct {
        const char *text, *error;
    } cases[] = {
        { STATES "%1 = causal_conv(%0) w : tokens 4 {cache=1 layer=0}\n",
          "causal_conv: a state of 8 elements, cache 1 has 16" },
        { STATES "%1 = causal_conv(%0) w : tokens 4 {cache=0 layer=1}\n", "cache 0 has 1 layers" },
        { STATES "%1 = causal_conv(%0) w : tokens 4 {cache=2 layer=0}\n",
          "cache 2 is not declared" },
        { STATES "%1 = causal_conv(%0) a : tokens 4 {cache=0 layer=0}\n",
          "weight a has 2 dims, expected 3" },
        { STATES "%1 = selective_scan(%0, %0, %0, %0) a d : tokens 4 {cache=0 layer=0}\n",
          "selective_scan: a state of 16 elements, cache 0 has 8" },
        { STATES "%1 = slice(%0) : tokens 3 {begin=0 cols=3}\n"
                 "%2 = selective_scan(%0, %0, %0, %1) a d : tokens 4 {cache=1 layer=0}\n",
          "input 3 (%1) has 3 columns, expected 4" },
        { STATES "%1 = slice(%0) : tokens 3 {begin=0 cols=3}\n"
                 "%2 = selective_scan(%0, %0, %1, %1) a d : tokens 4 {cache=1 layer=0}\n",
          "weight a is not f32 [4,3]" },
        { STATES "kv_append(%0, %0) {heads=1 k_dim=4 v_dim=4 cache=0 layer=0}\n",
          "cache 0 has 0 of 0 and 0" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_graph *graph;
        must_fail(spey_graph_parse("test", cases[i].text, strlen(cases[i].text), &graph),
                  SPEY_FORMAT, cases[i].error);
    }
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

#define EXPERTS                                                                                \
    "spey-graph 1\nweight e f32 [9,6]\nweight r f32 [4,6]\nweight s f32 [4,5,6]\n"             \
    "weight s3 f32 [3,5,6]\nweight b f32 [4,4]\nweight c f32 [3]\n%0 = embed() e : tokens 6\n" \
    "%1 = linear(%0) r : tokens 4\n"
#define ROUTE "%2 = route(%1) : tokens 4 {top_k=2}\n"

static void routing_and_experts_must_fit(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } faults[] = {
        { EXPERTS "%2 = route(%1) : tokens 10 {top_k=5}\n", "5 of 4 experts" },
        { EXPERTS "%2 = route(%1) : tokens 4 {top_k=2 groups=3}\n", "of 3 groups" },
        { EXPERTS "%2 = route(%1) : tokens 4 {top_k=2 groups=2 top_groups=3}\n",
          "best 3 of 2 groups" },
        { EXPERTS "%2 = route(%1) : tokens 6 {top_k=3 groups=2 top_groups=1}\n",
          "3 of 4 experts in the best 1" },
        { EXPERTS "%2 = route(%1) : tokens 2 {top_k=1 groups=4 group_best=2}\n", "groups by 2" },
        { EXPERTS "%2 = route(%1) c : tokens 4 {top_k=2}\n", "weight c has 1 dims" },
        { EXPERTS "%2 = route(%1) : tokens 4 {top_k=2 scoring=max}\n", "max" },
        { EXPERTS ROUTE "%3 = add(%1, %2) : tokens 4\n", "made by route, expected activations" },
        { EXPERTS "%2 = expert_linear(%0, %1) s : tokens 10\n", "made by linear, expected route" },
        { EXPERTS ROUTE "%3 = expert_linear(%0, %2) s3 : tokens 10\n",
          "to 4 experts, weight s3 has 3" },
        { EXPERTS ROUTE "%3 = expert_linear(%1, %2) s : tokens 10\n",
          "has 4 columns, expected 12" },
        { EXPERTS ROUTE "%3 = expert_linear(%0, %2) r : tokens 10\n", "has 2 dims, expected 3" },
        { EXPERTS ROUTE "%3 = expert_linear(%0, %2) s b : tokens 10\n", "b is not f32 [4,5]" },
        { EXPERTS "%2 = expert_linear(%0) s : tokens 5 {sum=1}\n", "a sum needs routing" },
        { EXPERTS "%2 = concat(%0, %1) : tokens 10 {heads=4}\n", "6 columns, not 4 pieces" },
        { EXPERTS "%2 = concat(%0, %1) : tokens 10 {heads=3}\n", "4 columns, not 3 pieces" },
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        spey_graph *graph;
        must_fail(spey_graph_parse("test", faults[i].text, strlen(faults[i].text), &graph),
                  SPEY_FORMAT, faults[i].error);
    }
    static const char fits[] =
        EXPERTS ROUTE "%3 = expert_linear(%0, %2) s : tokens 10\n"
                      "%4 = expert_linear(%0) s : tokens 20\n"
                      "%5 = concat(%0, %1) : tokens 18 {heads=3 shared=1}\n"
                      "%6 = concat(%0, %1) : tokens 10 {heads=2}\n%7 = gather(%6) : outputs 10\n"
                      "output %7\n";
    spey_graph_free(graph_of(fits));
}

#define CODERS                                                                 \
    "spey-graph 1\nweight e f32 [9,4]\nweight r f32 [6,2]\nweight s f32 [2]\n" \
    "cache 0 kv layers=1 heads=2 k_dim=2 v_dim=2\n"                            \
    "cache 1 cross layers=1 heads=2 k_dim=2 v_dim=2\n"                         \
    "cache 2 scratch layers=2 heads=2 k_dim=2 v_dim=2\n"                       \
    "%0 = embed() e : source 4 {encoder=1}\n%1 = embed() e : tokens 4\n"
#define AT(c) "cache=" #c " layer=0"
#define APPEND "heads=2 k_dim=2 v_dim=2"
#define ATTEND "heads=2 kv_heads=2 k_dim=2 v_dim=2 scale=1"

static void encoder_and_decoder_meet_in_cross_groups(void **state)
{
    (void)state;
    static const struct {
        const char *text, *error;
    } cases[] = {
        { CODERS "%2 = add(%0, %1) : source 4\n",
          "add: input 1 (%1) has tokens rows, expected source" },
        { CODERS "%2 = gather(%0) : outputs 4\n",
          "gather: input 0 (%0) has source rows, expected tokens" },
        { CODERS "kv_append(%0, %1) {" AT(1) " " APPEND "}\n",
          "kv_append: input 1 (%1) has tokens rows, expected source" },
        { CODERS "kv_append(%0, %0) {" AT(0) " " APPEND "}\n",
          "kv_append: source rows into cache 0, which is for tokens" },
        { CODERS "kv_append(%1, %1) {" AT(1) " " APPEND "}\n",
          "kv_append: tokens rows into cache 1, which is for the encoder's" },
        { CODERS "%2 = attention(%0) : source 4 {" AT(0) " " ATTEND "}\n",
          "the encoder attends to the decoder's cache" },
        { CODERS "%2 = attention(%1) : tokens 4 {" AT(2) " " ATTEND " causal=0}\n",
          "the decoder attends to the encoder's scratch" },
        { CODERS "%2 = attention(%1) : tokens 4 {" AT(1) " " ATTEND "}\n",
          "cross-attention is causal, or has a window, alibi or relative" },
        { CODERS "%2 = attention(%1) r : tokens 4 {" AT(1) " " ATTEND
                                                           " causal=0 relative=1 distance=9}\n",
          "cross-attention is causal, or has a window, alibi or relative" },
        { CODERS "%2 = attention(%1) : tokens 4 {" AT(0) " " ATTEND " relative=1 distance=9}\n",
          "alibi, relative and sinks name 1 weights, it has 0" },
        { CODERS "%2 = attention(%1) e : tokens 4 {" AT(0) " " ATTEND " relative=1 distance=9}\n",
          "distance 9 and weight e of f32 [9,4], expected f32 [buckets,2]" },
        { CODERS "%2 = attention(%1) r : tokens 4 {" AT(0) " " ATTEND " relative=1 distance=3}\n",
          "distance 3 and weight r of f32 [6,2]" },
        { CODERS "%2 = attention(%1) r : tokens 4 {" AT(0) " " ATTEND " relative=1}\n",
          "distance 0 and weight r of f32 [6,2]" },
        { CODERS "%2 = attention(%1) s : tokens 4 {" AT(0) " " ATTEND " relative=1 distance=9}\n",
          "weight s has 1 dims, expected 2" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_graph *graph;
        must_fail(spey_graph_parse("test", cases[i].text, strlen(cases[i].text), &graph),
                  SPEY_FORMAT, cases[i].error);
    }
}

static void attention_names_its_weights_in_order(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(CODERS "kv_append(%0, %0) {" AT(
        1) " " APPEND "}\n"
           "kv_append(%1, %1) {" AT(0) " " APPEND "}\n"
                                       "%2 = attention(%1) s r s : tokens 4 {" AT(
                                           0) " " ATTEND " alibi=1 relative=1 distance=9 sinks=1}\n"
                                              "%3 = attention(%2) : tokens 4 {" AT(
                                                  1) " " ATTEND " causal=0}\n"
                                                     "%4 = gather(%3) : outputs 4\noutput %4\n");
    assert_true(spey_graph_has_encoder(graph));
    assert_int_equal(spey_graph_node_rows(graph, &graph->nodes[2]), SPEY_ROWS_SOURCE);
    assert_int_equal(spey_graph_node_rows(graph, &graph->nodes[5]), SPEY_ROWS_TOKENS);
    assert_int_equal(spey_graph_node_rows(graph, &graph->nodes[6]), SPEY_ROWS_OUTPUTS);
    spey_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(acts_are_those_of_the_kernels),
        cmocka_unit_test(a_linear_says_what_does_not_fit),
        cmocka_unit_test(an_embedding_begins_inside_its_table),
        cmocka_unit_test(tables_are_for_rope_alone),
        cmocka_unit_test(recurrent_ops_say_what_does_not_fit),
        cmocka_unit_test(a_window_must_be_kept_by_the_cache),
        cmocka_unit_test(routing_and_experts_must_fit),
        cmocka_unit_test(encoder_and_decoder_meet_in_cross_groups),
        cmocka_unit_test(attention_names_its_weights_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
