/* Experts: what the arguments draw, and where the checkpoint has the weights. */
#include "model_test.h"

#include "model/moe_block.h"

typedef struct drawing {
    spey_blocks b;
    spey_value x; /* 8 columns */
} drawing;

static drawing begin(void)
{
    drawing d = { .b = { .dtype = SPEY_BF16 } };
    must(spey_graph_new(&d.b.graph));
    d.x = spey_block_embed(&d.b, "wte", 10, 8, 1);
    spey_blocks_enter_layer(&d.b, "h.", 0);
    return d;
}

/* Every line is in the graph's text. */
static void expect_lines(drawing *d, const char *const *lines)
{
    must(d->b.status);
    d->b.graph->output = SPEY_NO_VALUE;
    char *text = text_of(d->b.graph);
    for (; *lines; lines++)
        if (!strstr(text, *lines)) fail_msg("%s is not in\n%s", *lines, text);
    spey_free(text);
    spey_graph_free(d->b.graph);
}

static const spey_weight *weight_of(const drawing *d, const char *name)
{
    int32_t index = spey_graph_find_weight(d->b.graph, name);
    if (index < 0) fail_msg("there is no weight %s", name);
    return &d->b.graph->weights[index];
}

static const spey_moe_spec plain = { .experts = 4,
                                     .top_k = 2,
                                     .intermediate = 6,
                                     .router = "gate",
                                     .stack = SPEY_STACK_TENSORS,
                                     .gate = "experts.*.w1",
                                     .up = "experts.*.w3",
                                     .down = "experts.*.w2",
                                     .act = "silu" };

static void experts_are_stacks_that_a_route_chooses_from(void **state)
{
    (void)state;
    drawing d = begin();
    spey_block_moe(&d.b, d.x, &plain);
    must(d.b.status);
    assert_int_equal(weight_of(&d, "layer.0.moe.up")->source.stack, SPEY_STACK_TENSORS);
    assert_string_equal(weight_of(&d, "layer.0.moe.up")->source.tensor, "h.0.experts.*.w3.weight");
    expect_lines(&d, (const char *const[]){
                         "weight layer.0.moe.router f32 [4,8]\n",
                         "weight layer.0.moe.down bf16 [4,8,6]",
                         "%1 = linear(%0) layer.0.moe.router : tokens 4\n",
                         "%2 = route(%1) : tokens 4 {top_k=2}\n",
                         "%3 = expert_linear(%0, %2) layer.0.moe.gate : tokens 12\n",
                         "%4 = expert_linear(%0, %2) layer.0.moe.up : tokens 12\n",
                         "%7 = expert_linear(%6, %2) layer.0.moe.down : tokens 8 {sum=1}\n",
                         NULL,
                     });
}

static void a_router_has_its_quirks(void **state)
{
    (void)state;
    drawing d = begin();
    spey_moe_spec spec = plain;
    spec.scoring = "sigmoid";
    spec.correction = "gate.correction";
    spec.normalise = true;
    spec.scale = 2.5;
    spec.groups = 2;
    spec.top_groups = 1;
    spec.group_best = 2;
    spey_block_moe(&d.b, d.x, &spec);
    must(d.b.status);
    assert_string_equal(weight_of(&d, "layer.0.moe.correction")->source.tensor,
                        "h.0.gate.correction");
    expect_lines(&d, (const char *const[]){
                         "%2 = route(%1) layer.0.moe.correction : tokens 4 {scoring=sigmoid "
                         "scale=2.5 groups=2 top_k=2 top_groups=1 group_best=2 normalise=1}\n",
                         NULL,
                     });
}

static void one_tensor_may_hold_all_gates_and_ups(void **state)
{
    (void)state;
    drawing d = begin();
    spey_moe_spec spec = plain;
    spec.stack = SPEY_STACK_ONE;
    spec.gate_up = "experts.gate_up";
    spec.down = "experts.down";
    spec.interleaved = spec.bias = spec.transpose = true;
    spec.act = "quick_gelu";
    spec.limit = 7;
    spec.up_offset = 1;
    spey_block_moe(&d.b, d.x, &spec);
    must(d.b.status);
    const spey_weight *up = weight_of(&d, "layer.0.moe.up");
    assert_string_equal(up->source.tensor, "h.0.experts.gate_up");
    assert_int_equal(up->source.row_begin, 1);
    assert_int_equal(up->source.row_stride, 2);
    assert_int_equal(up->source.n_pieces, 6);
    assert_true(up->source.transpose);
    const spey_weight *bias = weight_of(&d, "layer.0.moe.up.bias");
    assert_string_equal(bias->source.tensor, "h.0.experts.gate_up_bias");
    assert_false(bias->source.transpose);
    expect_lines(&d, (const char *const[]){
                         "weight layer.0.moe.up.bias f32 [4,6]",
                         "%5 = glu(%3, %4) : tokens 12 {act=quick_gelu offset=1 limit=7}\n",
                         "%6 = expert_linear(%5, %2) layer.0.moe.down layer.0.moe.down.bias : "
                         "tokens 8 {sum=1}\n",
                         NULL,
                     });
}

static void a_weighed_mlp_is_one_expert(void **state)
{
    (void)state;
    drawing d = begin();
    const spey_mlp_spec shared = { .gate = "s.gate",
                                   .up = "s.up",
                                   .down = "s.down",
                                   .intermediate = 6,
                                   .act = "silu",
                                   .weigh = "s.weigh" };
    spey_block_mlp(&d.b, d.x, &shared);
    expect_lines(&d, (const char *const[]){
                         "weight layer.0.mlp.down bf16 [1,8,6]",
                         "= linear(%0) layer.0.mlp.weigh : tokens 1\n",
                         "route(%5) : tokens 2 {scoring=sigmoid top_k=1}\n",
                         "expert_linear(%4, %6) layer.0.mlp.down : tokens 8 {sum=1}\n",
                         NULL,
                     });
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_stacks_that_a_route_chooses_from),
        cmocka_unit_test(a_router_has_its_quirks),
        cmocka_unit_test(one_tensor_may_hold_all_gates_and_ups),
        cmocka_unit_test(a_weighed_mlp_is_one_expert),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
