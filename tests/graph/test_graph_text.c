/* The text form: exact round trips, and an error with its line for everything else. */
#include "graph_test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "random_graph.h"

static void expect_round_trip(const spey_graph *graph)
{
    char *text = text_of(graph);
    spey_graph *again = graph_of(text);
    char *text_again = text_of(again);
    assert_string_equal(text, text_again);
    spey_free(text);
    spey_free(text_again);
    spey_graph_free(again);
}

static void text_comes_back_as_it_was(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        spey_graph *graph = random_graph(seed);
        expect_round_trip(graph);
        spey_graph_free(graph);
    }
}

#define BEGIN "spey-graph 1\nweight e bf16 [4,8] cut=rows\nweight w f32 [8]\n"
#define END "%1 = gather(%0) : outputs 8\noutput %1\n"

static void every_number_keeps_all_its_bits(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 7 };
    for (int i = 0; i < 2000; i++) {
        uint64_t bits = spey_rng_next(&rng);
        double number;
        memcpy(&number, &bits, 8);
        if (!isfinite(number) || fabs(number) > 1e9) number = spey_rng_range(&rng, -1e3, 1e3);
        if (i == 0) number = 5e-324;
        if (i == 1) number = -0.0;
        if (i == 2) number = 0.1;
        spey_graph *graph = graph_of(BEGIN "%0 = embed() e : tokens 8\n" END);
        spey_node_set_number(&graph->nodes[0], SPEY_ATTR_SCALE, number);
        char *text = text_of(graph);
        spey_graph *again = graph_of(text);
        double back = spey_node_number(&again->nodes[0], SPEY_ATTR_SCALE, 0);
        assert_memory_equal(&back, &number, sizeof back);
        spey_free(text);
        spey_graph_free(again);
        spey_graph_free(graph);
    }
}

static void numbers_are_short(void **state)
{
    (void)state;
    static const struct {
        double number;
        const char *text;
    } cases[] = { { 30, "=30}" },
                  { 500000, "=500000}" },
                  { 1e-5, "=1e-05}" },
                  { 0.1, "=0.1}" },
                  { 1.0 / 3, "=0.3333333333333333}" },
                  { -2.5, "=-2.5}" } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_graph *graph = graph_of(BEGIN "%0 = embed() e : tokens 8\n" END);
        spey_node_set_number(&graph->nodes[0], SPEY_ATTR_SCALE, cases[i].number);
        char *text = text_of(graph);
        if (!strstr(text, cases[i].text)) fail_msg("%s is not in\n%s", cases[i].text, text);
        spey_free(text);
        spey_graph_free(graph);
    }
}

static void parts_are_declared_inside_the_folded_weight(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of("spey-graph 1\nweight e f32 [4,8]\nweight b bf16 [2,8] cut=rows\n"
                 "weight ab bf16 [6,8] cut=rows parts=a:4,b:2\n"
                 "%0 = embed() e : tokens 8\n%1 = linear(%0) ab : tokens 6\n"
                 "%2 = linear(%0) b : tokens 2\n%3 = gather(%1) : outputs 6\noutput %3\n");
    const spey_weight *folded = &graph->weights[spey_graph_find_weight(graph, "ab")];
    const spey_weight *a = &graph->weights[folded->parts[0]],
                      *b = &graph->weights[folded->parts[1]];
    assert_string_equal(a->name, "a");
    assert_int_equal(a->dtype, SPEY_BF16);
    assert_int_equal(a->cut, SPEY_CUT_ROWS);
    assert_int_equal(a->dims[0], 4);
    assert_int_equal(a->dims[1], 8);
    assert_int_equal(spey_graph_find_weight(graph, "b"), folded->parts[1]); /* a node uses it too */
    assert_int_equal(b->dims[0], 2);
    expect_round_trip(graph);
    spey_graph_free(graph);
}

#define SCALED                                                                 \
    "spey-graph 1\nweight e f32 [4,8]\nweight s f32 [6]\nweight one f32 [1]\n" \
    "weight x f32 [1]\nweight st f32 [2,3]\n"

static void scales_come_before_what_they_scale(void **state)
{
    (void)state;
    spey_graph *graph = graph_of(
        SCALED "weight ab e4m3 [6,8] cut=rows scale=s input_scale=x parts=a:4,b:2\n"
               "weight c e4m3 [6,6] scale=one input=token\nweight d e4m3 [2,3,6] scale=st\n"
               "%0 = embed() e : tokens 8\n%1 = linear(%0) ab : tokens 6\n"
               "%2 = linear(%1) c : tokens 6\n%3 = expert_linear(%2) d : tokens 6\n"
               "%4 = gather(%3) : outputs 6\noutput %4\n");
    const spey_weight *ab = &graph->weights[spey_graph_find_weight(graph, "ab")];
    const spey_weight *c = &graph->weights[spey_graph_find_weight(graph, "c")];
    assert_string_equal(graph->weights[ab->scale].name, "s");
    assert_string_equal(graph->weights[ab->input_scale].name, "x");
    assert_int_equal(ab->input, SPEY_INPUT_STATIC);
    assert_int_equal(c->input, SPEY_INPUT_TOKEN);
    assert_int_equal(graph->weights[ab->parts[1]].dtype, SPEY_E4M3);
    expect_round_trip(graph);
    spey_graph_free(graph);
}

/* Two matrices may name one scale, and one matrix the same scale twice. */
static void a_shared_scale_is_written_once(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of(SCALED "weight a e4m3 [6,8] scale=one input_scale=one\n"
                        "weight b e4m3 [6,6] scale=one input_scale=x\n"
                        "%0 = embed() e : tokens 8\n%1 = linear(%0) a : tokens 6\n"
                        "%2 = linear(%1) b : tokens 6\n%3 = gather(%2) : outputs 6\noutput %3\n");
    expect_round_trip(graph);
    spey_graph_free(graph);
}

static void a_matrix_made_e4m3_reads_back_so(void **state)
{
    (void)state;
    spey_graph *graph = graph_of("spey-graph 1\nweight e f32 [4,8]\nweight a bf16 [6,8] cut=rows\n"
                                 "%0 = embed() e : tokens 8\n%1 = linear(%0) a : tokens 6\n"
                                 "%2 = gather(%1) : outputs 6\noutput %2\n");
    const float scales[] = { 1, 2, 3, 4, 5, 6 };
    const spey_weight_quant quant = { .scales = scales,
                                      .input = SPEY_INPUT_STATIC,
                                      .input_scale = 0.5f };
    int32_t index = spey_graph_find_weight(graph, "a"), found[2];
    assert_int_equal(spey_graph_quantize_weight(graph, index, &quant), SPEY_OK);
    assert_int_equal(spey_graph_check(graph), SPEY_OK);
    assert_int_equal(spey_graph_scales(graph, index, found), 2);
    assert_string_equal(graph->weights[found[0]].name, "a.scale");
    assert_int_equal(graph->weights[found[0]].cut, SPEY_CUT_ROWS);
    assert_true(graph->weights[found[0]].source.values[5] == 6);
    assert_true(graph->weights[found[1]].source.values[0] == 0.5f);
    expect_round_trip(graph);
    spey_graph_free(graph);
}

static void a_cache_has_scales_of_its_heads(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of("spey-graph 1\nweight e f32 [4,8]\n"
                 "cache 0 kv layers=2 heads=3 k_dim=8 v_dim=8 window=5\n"
                 "%0 = embed() e : tokens 8\n%1 = gather(%0) : outputs 8\noutput %1\n");
    const float scales[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
    assert_false(graph->caches[0].scaled);
    assert_int_equal(spey_graph_scale_cache(graph, 0, scales), SPEY_OK);
    assert_int_equal(spey_graph_check(graph), SPEY_OK);
    assert_true(graph->caches[0].scaled);
    const spey_weight *weight = &graph->weights[graph->caches[0].scales];
    assert_string_equal(weight->name, "cache.0.scales");
    assert_true(weight->source.values[11] == 12);
    expect_round_trip(graph);
    spey_graph_free(graph);
}

static void a_group_of_states_has_a_size(void **state)
{
    (void)state;
    spey_graph *graph = graph_of("spey-graph 1\nweight e f32 [4,8]\nweight w f32 [8,1,4]\n"
                                 "cache 0 kv layers=1 heads=1 k_dim=1 v_dim=1\n"
                                 "cache 1 state layers=2 elements=24\n%0 = embed() e : tokens 8\n"
                                 "%1 = causal_conv(%0) w : tokens 8 {cache=1 layer=1}\n"
                                 "%2 = gather(%1) : outputs 8\noutput %2\n");
    assert_int_equal(graph->caches[0].state, 0);
    assert_int_equal(graph->caches[1].state, 24);
    assert_int_equal(graph->caches[1].layers, 2);
    expect_round_trip(graph);
    spey_graph_free(graph);
}

static void an_encoder_has_rows_and_groups_of_its_own(void **state)
{
    (void)state;
    static const char text[] =
        "spey-graph 1\nweight e f32 [9,4]\n"
        "cache 0 kv layers=1 heads=2 k_dim=2 v_dim=2\n"
        "cache 1 cross layers=1 heads=2 k_dim=2 v_dim=2\n"
        "cache 2 scratch layers=1 heads=2 k_dim=2 v_dim=2\n"
        "%0 = embed() e : source 4 {encoder=1}\n"
        "kv_append(%0, %0) {heads=2 k_dim=2 v_dim=2 cache=2 layer=0}\n"
        "%1 = attention(%0) : source 4 {scale=1 heads=2 kv_heads=2 k_dim=2 v_dim=2 cache=2 layer=0 causal=0}\n"
        "kv_append(%1, %1) {heads=2 k_dim=2 v_dim=2 cache=1 layer=0}\n"
        "%2 = embed() e : tokens 4\n"
        "%3 = attention(%2) : tokens 4 {scale=1 heads=2 kv_heads=2 k_dim=2 v_dim=2 cache=1 layer=0 causal=0}\n"
        "%4 = gather(%3) : outputs 4\n"
        "output %4\n";
    spey_graph *graph = graph_of(text);
    char *again = text_of(graph);
    assert_string_equal(again, text);
    assert_true(graph->caches[1].source && !graph->caches[1].scratch);
    assert_true(graph->caches[2].source && graph->caches[2].scratch);
    spey_free(again);
    spey_graph_free(graph);
}

static void comments_and_blank_lines_are_skipped(void **state)
{
    (void)state;
    spey_graph *graph =
        graph_of("spey-graph 1\n\n# e is the table\nweight e f32 [4,8]\n"
                 "%0 = embed() e : tokens 8\n%1 = gather(%0) : outputs 8\noutput %1");
    assert_int_equal(graph->n_nodes, 2);
    spey_graph_free(graph);
}

/* ---- errors ---- */

static const struct {
    const char *text, *error;
} bad[] = {
    { "", "the graph has no output" },
    { "spey-graph 2\n", "test:1: unknown version" },
    { "spey-graph 1x\n", "test:1: unknown version" },
    { "spey graph\n", "test:1: expected \"spey-graph \"" },
    { "spey-graph 1\nweight\n", "test:2: " },
    { "spey-graph 1\nweight e f33 [4]\n", "test:2: weight e: unknown dtype \"f33\"" },
    { "spey-graph 1\nweight e f32 [4,-1]\n", "weight e: dimension 1 is -1" },
    { "spey-graph 1\nweight e f32 [0]\n", "dimension 0 is 0" },
    { "spey-graph 1\nweight e f32 [2147483647,2147483647,2147483647]\n",
      "weight e: dimension 1 is 2147483647" },
    { "spey-graph 1\nweight e f32 [99999999999999999999]\n", "not a whole number" },
    { "spey-graph 1\nweight e f32 [1,1,1,1,1]\n", "more than 4 dims" },
    { "spey-graph 1\nweight e f32 []\n", "expected a word" },
    { "spey-graph 1\nweight e f32 [4\n", "expected \"]\"" },
    { "spey-graph 1\nweight e f32 [4] cut=diagonal\n", "cut is neither" },
    { "spey-graph 1\nweight e f32 [4] what\n", "unexpected \"what\"" },
    { "spey-graph 1\nweight e f32 [4]\nweight e f32 [4]\n", "test:3: weight e is declared twice" },
    { "spey-graph 1\nweight e f32 [4] parts=a:1,b:2\n", "weight e has 4 rows, its parts 3" },
    { "spey-graph 1\nweight e f32 [4] parts=a:4,a:5\n", "part a has 4 rows elsewhere" },
    { "spey-graph 1\nweight e f32 [4] parts=e:4,e:4\n", "weight e" },
    { "spey-graph 1\nweight a bf16 [4]\nweight e f32 [4] parts=a:4\n",
      "part a is not a leaf of the same dtype" },
    { "spey-graph 1\ncache 1 kv layers=1 heads=1 k_dim=1 v_dim=1\n", "cache 1, expected 0" },
    { "spey-graph 1\ncache 0 kv layers=0 heads=1 k_dim=1 v_dim=1\n", "cache 0: layers=0" },
    { "spey-graph 1\ncache 0 kv layers=1 heads=1 k_dim=1 v_dim=1 scales=s\n",
      "scale s is not declared" },
    { "spey-graph 1\nweight s f32 [1,2,2]\ncache 0 kv layers=1 heads=1 k_dim=1 v_dim=1 scales=s\n",
      "cache 0: scales s are not f32 [layers,2,heads]" },
    { "spey-graph 1\nweight s bf16 [1,2,1]\ncache 0 kv layers=1 heads=1 k_dim=1 v_dim=1 scales=s\n",
      "cache 0: scales s are not f32 [layers,2,heads]" },
    { "spey-graph 1\nweight s f32 [1,2,1]\ncache 0 state layers=1 elements=1 scales=s\n",
      "unexpected \"scales=s\"" },
    { "spey-graph 1\ncache 0 state layers=0 elements=1\n", "cache 0: layers=0 elements=1" },
    { "spey-graph 1\ncache 0 state layers=1 elements=0\n", "a state without elements" },
    { "spey-graph 1\ncache 0 state layers=1 heads=1\n", "expected \" elements\"" },
    { "spey-graph 1\ncache 0 kv layers=1 heads=1 k_dim=1\n", "expected \" v_dim\"" },
    { "spey-graph 1\ncache 0 cross layers=1 heads=1 k_dim=1 v_dim=1 window=4\n",
      "cache 0: layers=1" },
    { BEGIN "%1 = embed() e : tokens 8\n", "test:4: %1 is made, expected %0" },
    { BEGIN "%0 = embedd() e : tokens 8\n", "unknown op \"embedd\"" },
    { BEGIN "%0 = embed() f : tokens 8\n", "weight f is not declared" },
    { BEGIN "%0 = embed() w : tokens 8\n", "embed: weight w has 1 dims, expected 2" },
    { BEGIN "%0 = embed() e : tokens 9\n", "%0 is tokens 9, but embed makes tokens 8" },
    { BEGIN "%0 = embed() e : outputs 8\n", "%0 is outputs 8, but embed makes tokens 8" },
    { BEGIN "%0 = embed() e : tokens 8 {act=silu}\n", "embed has no act" },
    { BEGIN "%0 = embed() e : tokens 8 {scale=1 scale=2}\n", "scale is given twice" },
    { BEGIN "%0 = embed() e : tokens 8 {scale=nan}\n", "\"nan\" is not a number" },
    { BEGIN "%0 = embed() e : tokens 8 {scale=1e999}\n", "\"1e999\" is not a number" },
    { BEGIN "%0 = embed() e : tokens 8 {scale=0x10}\n", "\"0x10\" is not a number" },
    { BEGIN "%0 = embed() e : tokens 8 {scale=1e30}\n", "scale is 1e+30, expected" },
    { BEGIN "%0 = embed() e : tokens 8 {}\n", "expected a word" },
    { BEGIN "%0 = embed() e : tokens 8 {scale=1\n", "expected \"}\"" },
    { BEGIN "embed() e\n", "embed has 0 results, expected 1" },
    { BEGIN "%0 = unary(%0) : tokens 8\n", "%0 is not made by an earlier line" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = unary(%7) : tokens 8\n", "test:5: %7 is not made" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = unary(%0, %0) : tokens 8\n",
      "unary has 2 inputs, expected 1…1" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = unary(%0 %0) : tokens 8\n", "expected \", \"" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = unary(%0) : tokens 8 {act=swish}\n",
      "unknown act \"swish\"" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = norm(%0) w : tokens 8 {kind=rms}\n",
      "norm: eps is missing" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = norm(%0) w : tokens 8 {kind=rms eps=0 groups=3}\n",
      "8 columns do not divide into 3 groups" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = slice(%0) : tokens 4 {begin=5 cols=4}\n",
      "columns 5 to 9 of %0, which has 8" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = linear(%0) w : tokens 8\n",
      "weight w has 1 dims, expected 2" },
    { SCALED "weight a e4m3 [6,8]\n%0 = embed() e : tokens 8\n%1 = linear(%0) a : tokens 6\n",
      "weight a is e4m3 and has no scales" },
    { SCALED "weight a e4m3 [6,8] scale=t\n", "scale t is not declared" },
    { SCALED "weight a bf16 [6,8] scale=s\n", "weight a is bf16: it has no scales" },
    { SCALED "weight a e4m3 [6,8] scale=s input=token input_scale=x\n", "two ways to scale" },
    { SCALED "weight a e4m3 [4,8] scale=s\n%0 = embed() e : tokens 8\n"
             "%1 = linear(%0) a : tokens 4\n",
      "weight s does not fit as scales of a" },
    { SCALED "weight a e4m3 [6,8] scale=s input_scale=s\n%0 = embed() e : tokens 8\n"
             "%1 = linear(%0) a : tokens 6\n",
      "weight s does not fit as scales of a" },
    { SCALED "weight a e4m3 [6,8] scale=e\n%0 = embed() e : tokens 8\n"
             "%1 = linear(%0) a : tokens 6\n",
      "weight e does not fit as scales of a" },
    { SCALED "weight d e4m3 [2,3,8] scale=one\n%0 = embed() e : tokens 8\n"
             "%1 = expert_linear(%0) d : tokens 6\n",
      "weight one does not fit as scales of d" },
    { SCALED "weight a e4m3 [6,8] scale=s\n%0 = embed() a : tokens 8\n",
      "weight a is e4m3, expected f32, f16 or bf16" },
    { BEGIN "%0 = embed() e : tokens 8\noutput %0\n",
      "output %0 has tokens rows, expected outputs" },
    { BEGIN "%0 = embed() e : tokens 8\n" END "%2 = unary(%1) : outputs 8\n",
      "text after the output" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = gather(%0) : outputs 8\n%2 = gather(%1) : outputs 8\n",
      "has outputs rows, expected tokens" },
    { BEGIN "%0 = embed() e : tokens 8\n%1 = gather(%0) : outputs 8\n%2 = add(%0, %1) : tokens 8\n",
      "(%1) has outputs rows, expected tokens" },
};

static void each_fault_is_one_clear_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        spey_graph *graph;
        assert_int_not_equal(spey_graph_parse("test", bad[i].text, strlen(bad[i].text), &graph),
                             SPEY_OK);
        assert_null(graph);
        if (!strstr(spey_last_error(), bad[i].error))
            fail_msg("\"%s\" does not say \"%s\"", spey_last_error(), bad[i].error);
    }
}

/* Cut anywhere, or with any byte changed: an error or a graph that writes itself. */
static void damaged_text_never_crashes(void **state)
{
    (void)state;
    spey_rng rng = { .seed = 11 };
    spey_graph *graph = random_graph(5), *parsed;
    char *text = text_of(graph);
    size_t n = strlen(text);
    for (int i = 0; i < 4000; i++) {
        size_t at = spey_rng_below(&rng, n), length = i % 2 ? n : at;
        char kept = text[at];
        if (i % 2) text[at] = "%(){}=:,. \n019aez\xff"[spey_rng_below(&rng, 18)];
        if (spey_graph_parse("test", text, length, &parsed) == SPEY_OK) expect_round_trip(parsed);
        spey_graph_free(parsed);
        text[at] = kept;
    }
    spey_free(text);
    spey_graph_free(graph);
}

static void reading_and_writing_survive_every_failed_allocation(void **state)
{
    (void)state;
    spey_graph *graph = random_graph(2);
    char *text = text_of(graph);
    spey_graph_free(graph);
    uint64_t live = spey_alloc_read_stats().n_live;
    for (uint64_t n = 1;; n++) {
        spey_strbuf out = { 0 };
        spey_alloc_fail_nth(n);
        spey_status status = spey_graph_parse("test", text, strlen(text), &graph);
        if (status == SPEY_OK) status = spey_graph_write(graph, &out);
        spey_alloc_fail_nth(0);
        spey_strbuf_deinit(&out);
        spey_graph_free(graph);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
    }
    spey_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_comes_back_as_it_was),
        cmocka_unit_test(every_number_keeps_all_its_bits),
        cmocka_unit_test(numbers_are_short),
        cmocka_unit_test(parts_are_declared_inside_the_folded_weight),
        cmocka_unit_test(scales_come_before_what_they_scale),
        cmocka_unit_test(a_shared_scale_is_written_once),
        cmocka_unit_test(a_matrix_made_e4m3_reads_back_so),
        cmocka_unit_test(a_cache_has_scales_of_its_heads),
        cmocka_unit_test(a_group_of_states_has_a_size),
        cmocka_unit_test(an_encoder_has_rows_and_groups_of_its_own),
        cmocka_unit_test(comments_and_blank_lines_are_skipped),
        cmocka_unit_test(each_fault_is_one_clear_error),
        cmocka_unit_test(damaged_text_never_crashes),
        cmocka_unit_test(reading_and_writing_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
