/* Encoders and decoders: what is drawn in which order, and where keys and values go. */
#include "model_test.h"

#include <stdio.h>

static const char t5[] =
    "{'architectures': ['T5ForConditionalGeneration'], 'd_model': 8, 'vocab_size': 32, 'num_layers': 2, "
    "'num_decoder_layers': 1, 'num_heads': 2, 'd_kv': 3, 'd_ff': 6, 'decoder_start_token_id': 0}";
static const char bart[] =
    "{'architectures': ['BartForConditionalGeneration'], 'd_model': 8, 'vocab_size': 32, 'encoder_layers': 1, "
    "'decoder_layers': 1, 'encoder_attention_heads': 4, 'decoder_attention_heads': 2, "
    "'encoder_ffn_dim': 5, 'decoder_ffn_dim': 6, 'scale_embedding': true, 'decoder_start_token_id': 2, "
    "'forced_bos_token_id': 0}";

static spey_graph *draw(const char *base, const char *patch, spey_model_info *info)
{
    spey_model *model;
    spey_graph *graph;
    json_t *config = patched(base, patch);
    must(spey_model_new("config.json", config, &model));
    must(spey_model_draw(model, SPEY_F32, &graph));
    spey_model_get_info(model, info);
    spey_model_free(model);
    json_decref(config);
    return graph;
}

/* Ops in order, linears and norms by the names of their weights; those of source rows or of the others. */
static void expect_ops(const spey_graph *graph, bool encoder, const char *expected)
{
    char ops[1024] = "";
    for (int n = 0; n < graph->n_nodes; n++) {
        const spey_node *node = &graph->nodes[n];
        if ((spey_graph_node_rows(graph, node) == SPEY_ROWS_SOURCE) != encoder) continue;
        bool named = node->op == SPEY_GRAPH_LINEAR || node->op == SPEY_GRAPH_NORM;
        snprintf(ops + strlen(ops), sizeof ops - strlen(ops), "%s%s", *ops ? " " : "",
                 named ? graph->weights[node->weights[0]].name : spey_graph_op_name(node->op));
    }
    assert_string_equal(ops, expected);
}

#define LAYER(name)                                                                         \
    name "attn_norm " name "attn.q " name "attn.k " name "attn.v kv_append attention " name \
         "attn.o add "
#define CROSS(name) name "cross_norm " name "cross.q attention " name "cross.o add "
#define MLP(name) name "mlp_norm " name "mlp.up unary " name "mlp.down add "

static void norms_come_before_the_branches(void **state)
{
    (void)state;
    spey_model_info info;
    spey_graph *graph = draw(t5, "{}", &info);
    expect_ops(
        graph, true,
        "embed " LAYER("encoder.layer.0.") MLP("encoder.layer.0.") LAYER("encoder.layer.1.")
            MLP("encoder.layer.1.") "encoder.end_norm layer.0.cross.k layer.0.cross.v kv_append");
    expect_ops(graph, false,
               "embed " LAYER("layer.0.") CROSS("layer.0.")
                   MLP("layer.0.") "gather final_norm embed unary");
    assert_int_equal(info.decoder_start_id, 0);
    assert_int_equal(info.forced_bos_id, -1);
    assert_int_equal(info.forced_eos_id, -1);
    assert_true(info.exact);
    spey_graph_free(graph);
}

static void norms_come_behind_the_branches(void **state)
{
    (void)state;
    spey_model_info info;
    spey_graph *graph = draw(bart, "{}", &info);
    expect_ops(
        graph, true,
        "embed embed add encoder.embed_norm encoder.layer.0.attn.q encoder.layer.0.attn.k "
        "encoder.layer.0.attn.v kv_append attention encoder.layer.0.attn.o add "
        "encoder.layer.0.attn_norm encoder.layer.0.mlp.up unary encoder.layer.0.mlp.down add "
        "encoder.layer.0.mlp_norm layer.0.cross.k layer.0.cross.v kv_append");
    expect_ops(graph, false,
               "embed embed add embed_norm layer.0.attn.q layer.0.attn.k layer.0.attn.v kv_append "
               "attention layer.0.attn.o add layer.0.attn_norm layer.0.cross.q attention "
               "layer.0.cross.o add layer.0.cross_norm layer.0.mlp.up unary layer.0.mlp.down add "
               "layer.0.mlp_norm gather embed");
    assert_int_equal(info.decoder_start_id, 2);
    assert_int_equal(info.forced_bos_id, 0);
    assert_int_equal(info.forced_eos_id, 2); /* BartConfig's own */
    const spey_weight *bias = &graph->weights[spey_graph_find_weight(graph, "lm_head.bias")];
    assert_string_equal(bias->source.tensor, "final_logits_bias");
    assert_true(bias->source.as_row);
    spey_graph_free(graph);
}

static void caches_have_the_heads_of_who_attends(void **state)
{
    (void)state;
    spey_model_info info;
    spey_graph *graph = draw(bart, "{}", &info);
    assert_int_equal(graph->n_caches, 3);
    assert_false(graph->caches[0].source);
    assert_int_equal(graph->caches[0].heads, 2);
    assert_true(graph->caches[1].source && !graph->caches[1].scratch);
    assert_int_equal(graph->caches[1].heads, 2);
    assert_true(graph->caches[2].source && graph->caches[2].scratch);
    assert_int_equal(graph->caches[2].heads, 4);
    spey_graph_free(graph);
    graph = draw(t5, "{}", &info);
    assert_int_equal(graph->caches[1].layers, 1); /* the decoder's */
    assert_int_equal(graph->caches[2].layers, 2); /* the encoder's */
    spey_graph_free(graph);
}

static void t5_after_the_first_gates_and_has_a_head(void **state)
{
    (void)state;
    spey_model_info info;
    spey_graph *graph =
        draw(t5, "{'feed_forward_proj': 'gated-gelu', 'tie_word_embeddings': false}", &info);
    expect_ops(
        graph, false,
        "embed " LAYER("layer.0.") CROSS(
            "layer.0.") "layer.0.mlp_norm layer.0.mlp.gate layer.0.mlp.up unary glu layer.0.mlp.down add "
                        "gather final_norm lm_head");
    spey_graph_free(graph);
    /* transformers 5 writes what it means beside what it always says. */
    graph = draw(t5, "{'tie_word_embeddings': true, 'scale_decoder_outputs': false}", &info);
    expect_ops(graph, false,
               "embed " LAYER("layer.0.") CROSS("layer.0.")
                   MLP("layer.0.") "gather final_norm lm_head");
    spey_graph_free(graph);
}

static void a_decoder_begins_as_generate_finds_it(void **state)
{
    (void)state;
    static const struct {
        const char *patch;
        int32_t start;
    } cases[] = {
        { "{'decoder_start_token_id': 7, 'bos_token_id': 5, 'pad_token_id': 3}", 7 },
        { "{'decoder_start_token_id': '-', 'bos_token_id': 5, 'pad_token_id': 3}", 5 },
        { "{'decoder_start_token_id': null, 'pad_token_id': 3}", 3 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_model_info info;
        spey_graph_free(draw(t5, cases[i].patch, &info));
        assert_int_equal(info.decoder_start_id, cases[i].start);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_come_before_the_branches),
        cmocka_unit_test(norms_come_behind_the_branches),
        cmocka_unit_test(caches_have_the_heads_of_who_attends),
        cmocka_unit_test(t5_after_the_first_gates_and_has_a_head),
        cmocka_unit_test(a_decoder_begins_as_generate_finds_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
