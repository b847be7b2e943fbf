/* Latent attention: where the parts of its projections lie. */
#include "model_test.h"

#include "model/mla_block.h"

static const spey_norm_spec norm = { .kind = "rms", .eps = 0.5 };

static const spey_mla_spec latent = { .kv_rank = 5,
                                      .nope = 3,
                                      .q_a = "q_a",
                                      .q_norm = "q_a_norm",
                                      .q_b = "q_b",
                                      .kv_a = "kv_a",
                                      .kv_norm = "kv_norm",
                                      .kv_b = "kv_b",
                                      .norm = &norm };

/* Two heads of 3 + 2 and values of 4. */
static spey_graph *draw(const spey_mla_spec *mla)
{
    spey_blocks b = { .dtype = SPEY_F32 };
    const spey_cache_group group = { .layers = 1, .heads = 1, .k_dim = 7, .v_dim = 5 };
    const spey_rope_config rope = { .rotary = 2, .theta = 10, .magnitude = 1 };
    int cache;
    must(spey_graph_new(&b.graph));
    spey_blocks_add_cache(&b, &group, &cache);
    spey_value x = spey_block_embed(&b, "wte", 10, 8, 1);
    const spey_attention_spec attention = { .heads = 2,
                                            .kv_heads = 2,
                                            .head_dim = 5,
                                            .v_dim = 4,
                                            .q = "q",
                                            .o = "o",
                                            .rotary = 2,
                                            .pairing = "interleaved",
                                            .scale = 0.5,
                                            .rope = spey_block_rope_table(&b, "rope", &rope) };
    spey_block_mla(&b, x, &attention, mla);
    must(b.status);
    return b.graph;
}

static void expect_rows(const spey_graph *graph, const char *name, const char *tensor,
                        spey_row_pieces rows)
{
    int32_t index = spey_graph_find_weight(graph, name);
    if (index < 0) fail_msg("there is no weight %s", name);
    const spey_weight_source *source = &graph->weights[index].source;
    assert_string_equal(source->tensor, tensor);
    assert_int_equal(source->row_begin, rows.begin);
    assert_int_equal(source->row_piece, rows.piece);
    assert_int_equal(source->row_stride, rows.stride);
    assert_int_equal(source->n_pieces, rows.n_pieces);
}

static void heads_are_taken_apart(void **state)
{
    (void)state;
    spey_graph *graph = draw(&latent);
    expect_rows(graph, "attn.q_nope", "q.weight", (spey_row_pieces){ 0, 3, 5, 2 });
    expect_rows(graph, "attn.q_rope", "q.weight", (spey_row_pieces){ 3, 2, 5, 2 });
    expect_rows(graph, "attn.latent", "kv_a.weight", (spey_row_pieces){ 0, 5, 5, 1 });
    expect_rows(graph, "attn.key", "kv_a.weight", (spey_row_pieces){ 5, 2, 2, 1 });
    expect_rows(graph, "attn.k_up", "kv_b.weight", (spey_row_pieces){ 0, 3, 7, 2 });
    expect_rows(graph, "attn.v_up", "kv_b.weight", (spey_row_pieces){ 3, 4, 7, 2 });
    graph->output = SPEY_NO_VALUE;
    char *text = text_of(graph);
    static const char *const lines[] = {
        "weight attn.k_up f32 [2,5,3]", "weight attn.v_up f32 [2,4,5]",
        " attn.k_up : tokens 10\n",     " : tokens 14 {heads=2}",
        " : tokens 7 {heads=1}",        "{heads=1 k_dim=7 v_dim=5 cache=0 layer=0}",
        " attn.v_up : tokens 8\n"
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text, lines[i])) fail_msg("%s is not in\n%s", lines[i], text);
    spey_free(text);
    spey_graph_free(graph);
}

static void queries_may_come_from_a_small_latent_too(void **state)
{
    (void)state;
    spey_mla_spec mla = latent;
    mla.q_rank = 6;
    mla.bias = true;
    spey_graph *graph = draw(&mla);
    expect_rows(graph, "attn.q_nope", "q_b.weight", (spey_row_pieces){ 0, 3, 5, 2 });
    assert_true(spey_graph_find_weight(graph, "attn.q_a.bias") >= 0);
    assert_true(spey_graph_find_weight(graph, "attn.q_nope.bias") < 0);
    expect_rows(graph, "attn.key.bias", "kv_a.bias", (spey_row_pieces){ 5, 2, 2, 1 });
    spey_graph_free(graph);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_taken_apart),
        cmocka_unit_test(queries_may_come_from_a_small_latent_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
