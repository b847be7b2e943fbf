/* Block builders: what the arguments that no Llama uses draw. */
#include "model_test.h"

#include <math.h>

#include "model/blocks.h"

typedef struct drawing {
    spey_blocks b;
    spey_value x; /* 8 columns */
} drawing;

static drawing begin(void)
{
    drawing d = { .b = { .dtype = SPEY_BF16 } };
    spey_cache_group group = { .layers = 1, .heads = 2, .k_dim = 4, .v_dim = 4 };
    int cache;
    must(spey_graph_new(&d.b.graph));
    spey_blocks_add_cache(&d.b, &group, &cache);
    d.x = spey_block_embed(&d.b, "wte", 10, 8, 2.5);
    spey_blocks_enter_layer(&d.b, "h.", 0);
    return d;
}

static const spey_weight_source *source_of(const drawing *d, const char *name)
{
    int32_t index = spey_graph_find_weight(d->b.graph, name);
    if (index < 0) fail_msg("there is no weight %s", name);
    return &d->b.graph->weights[index].source;
}

static void expect_rows(const drawing *d, const char *name, const spey_row_pieces *rows)
{
    const spey_weight_source *source = source_of(d, name);
    if (source->row_begin != rows->begin || source->row_piece != rows->piece ||
        source->row_stride != rows->stride || source->n_pieces != rows->n_pieces)
        fail_msg("%s: %lld pieces of %lld from %lld, %lld apart", name, (long long)source->n_pieces,
                 (long long)source->row_piece, (long long)source->row_begin,
                 (long long)source->row_stride);
}

static const spey_attention_spec fused = {
    .heads = 4, .kv_heads = 2, .head_dim = 4, .qkv = "qkv", .o = "o", .qkv_bias = true
};

static void a_stacked_tensor_is_taken_apart(void **state)
{
    (void)state;
    drawing d = begin();
    spey_attention_spec spec = fused;
    spec.layout = SPEY_QKV_STACKED;
    spec.transpose = true;
    spey_block_attention(&d.b, d.x, &spec);
    must(d.b.status);
    expect_rows(&d, "layer.0.attn.q", &(spey_row_pieces){ 0, 16, 16, 1 });
    expect_rows(&d, "layer.0.attn.k", &(spey_row_pieces){ 16, 8, 8, 1 });
    expect_rows(&d, "layer.0.attn.v", &(spey_row_pieces){ 24, 8, 8, 1 });
    expect_rows(&d, "layer.0.attn.v.bias", &(spey_row_pieces){ 24, 8, 8, 1 });
    assert_true(source_of(&d, "layer.0.attn.k")->transpose);
    assert_false(source_of(&d, "layer.0.attn.k.bias")->transpose);
    assert_string_equal(source_of(&d, "layer.0.attn.k")->tensor, "h.0.qkv.weight");
    spey_graph_free(d.b.graph);
}

static void a_grouped_tensor_is_taken_apart(void **state)
{
    (void)state;
    drawing d = begin();
    spey_attention_spec spec = fused;
    spec.layout = SPEY_QKV_GROUPED;
    spey_block_attention(&d.b, d.x, &spec);
    must(d.b.status);
    expect_rows(&d, "layer.0.attn.q", &(spey_row_pieces){ 0, 8, 16, 2 });
    expect_rows(&d, "layer.0.attn.k", &(spey_row_pieces){ 8, 4, 16, 2 });
    expect_rows(&d, "layer.0.attn.v", &(spey_row_pieces){ 12, 4, 16, 2 });
    spey_graph_free(d.b.graph);
}

static void alibi_slopes_are_those_of_the_paper(void **state)
{
    (void)state;
    static const float six[] = { 0.25f, 0.0625f, 0.015625f, 0.00390625f, 0.5f, 0.125f };
    drawing d = begin();
    spey_block_alibi(&d.b, "alibi", 6, 1);
    const float *slopes = source_of(&d, "alibi")->values;
    for (int h = 0; h < 6; h++)
        assert_true(slopes[h] == six[h]);
    spey_graph_free(d.b.graph);
}

static void quirks_are_attributes(void **state)
{
    (void)state;
    drawing d = begin();
    spey_norm_spec norm = { .kind = "layer", .eps = 0.5, .offset = 1, .bias = true };
    spey_norm_spec plain = { .kind = "rms", .eps = 0, .plain = true };
    spey_value x = spey_block_norm(&d.b, d.x, "norm", "ln", &norm);
    x = spey_block_norm_groups(&d.b, x, "none", "none", &plain, 2);
    x = spey_block_add(&d.b, d.x, x, 0.25);
    x = spey_block_mlp(
        &d.b, x,
        &(spey_mlp_spec){ .gate_up = "gate_up", .down = "down", .intermediate = 6, .act = "gelu" });
    x = spey_block_mlp(
        &d.b, x,
        &(spey_mlp_spec){ .up = "up", .down = "down2", .intermediate = 6, .act = "relu2" });
    assert_int_equal(d.b.status, SPEY_INVALID); /* two MLPs in one layer: weights of one name */
    must_fail(d.b.status, SPEY_INVALID, "mlp.up is declared twice");
    assert_int_equal(x, SPEY_NO_VALUE);
    expect_rows(&d, "layer.0.mlp.up", &(spey_row_pieces){ 6, 6, 6, 1 });
    d.b.graph->output = SPEY_NO_VALUE;
    char *text = text_of(d.b.graph);
    static const char *const lines[] = {
        "%0 = embed() embed : tokens 8 {scale=2.5}\n",
        "%1 = norm(%0) layer.0.norm layer.0.norm.bias : tokens 8 {kind=layer eps=0.5 offset=1}\n",
        "%2 = norm(%1) : tokens 8 {kind=rms eps=0 groups=2}\n",
        "%3 = add(%0, %2) : tokens 8 {scale=0.25}\n",
        "%6 = unary(%4) : tokens 6 {act=gelu}\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("%s is not in\n%s", lines[i], text);
    spey_free(text);
    spey_graph_free(d.b.graph);
}

static void the_head_keeps_wanted_rows_first(void **state)
{
    (void)state;
    drawing d = begin();
    spey_norm_spec norm = { .kind = "rms", .eps = 0 };
    spey_blocks_leave_layer(&d.b);
    spey_block_head(
        &d.b, d.x,
        &(spey_head_spec){
            .norm = &norm, .norm_tensor = "ln_f", .vocab = 10, .scale = 0.5, .softcap = 30 });
    must(d.b.status);
    must(spey_graph_check(d.b.graph));
    char *text = text_of(d.b.graph);
    const char *expected =
        "%1 = gather(%0) : outputs 8\n%2 = norm(%1) final_norm : outputs 8 {kind=rms eps=0}\n"
        "%3 = linear(%2) embed : outputs 10\n%4 = unary(%3) : outputs 10 {scale=0.5 softcap=30}\noutput %4\n";
    if (!strstr(text, expected)) fail_msg("%s", text);
    spey_free(text);
    spey_graph_free(d.b.graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stacked_tensor_is_taken_apart),
        cmocka_unit_test(a_grouped_tensor_is_taken_apart),
        cmocka_unit_test(alibi_slopes_are_those_of_the_paper),
        cmocka_unit_test(quirks_are_attributes),
        cmocka_unit_test(the_head_keeps_wanted_rows_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
