/* The decoder block: how layers share caches and norms. */
#include "model_test.h"

#include <stdio.h>

#include "model/decoder_block.h"

static void layers_of_one_window_share_a_cache(void **state)
{
    (void)state;
    json_t *config = json_of(
        "{'architectures': ['Gemma3ForCausalLM'], 'hidden_size': 8, 'vocab_size': 32, 'num_hidden_layers': 13, "
        "'num_attention_heads': 2, 'head_dim': 4, 'sliding_window': 16}");
    spey_model *model;
    spey_graph *graph;
    must(spey_model_new("config.json", config, &model));
    must(spey_model_draw(model, SPEY_F32, &graph));
    assert_int_equal(graph->n_caches, 2);
    assert_int_equal(graph->caches[0].window, 16);
    assert_int_equal(graph->caches[0].layers, 11);
    assert_int_equal(graph->caches[1].window, 0);
    assert_int_equal(graph->caches[1].layers, 2);
    char *text = text_of(graph);
    assert_non_null(strstr(text, "cache=1 layer=1}")); /* the twelfth layer */
    assert_non_null(strstr(text, "cache=0 layer=10 window=16}"));
    assert_non_null(strstr(text, "rope_table() rope_local.inv_freq"));
    spey_free(text);
    spey_graph_free(graph);
    spey_model_free(model);
    json_decref(config);
}

/* The lines of a one-layer model that begin with '%' or "kv_append", one op name each. */
static void expect_ops(const spey_arch_config *c, const spey_decoder_spec *spec,
                       const char *expected)
{
    spey_blocks b = { .dtype = SPEY_F32 };
    char ops[512] = "";
    must(spey_graph_new(&b.graph));
    spey_decoder_draw(&b, c, spec);
    must(b.status);
    must(spey_graph_check(b.graph));
    for (int n = 0; n < b.graph->n_nodes; n++) {
        const spey_node *node = &b.graph->nodes[n];
        bool product = node->op == SPEY_GRAPH_LINEAR || node->op == SPEY_GRAPH_NORM;
        const char *name =
            product ? b.graph->weights[node->weights[0]].name : spey_graph_op_name(node->op);
        snprintf(ops + strlen(ops), sizeof ops - strlen(ops), "%s%s", n ? " " : "", name);
    }
    assert_string_equal(ops, expected);
    spey_graph_free(b.graph);
}

static spey_arch_config config_of_one_layer(void)
{
    return (spey_arch_config){ .vocab = 10,
                               .hidden = 8,
                               .layers = 1,
                               .intermediate = 6,
                               .heads = 2,
                               .kv_heads = 1,
                               .head_dim = 4,
                               .act = "gelu",
                               .norm_eps = 1e-5 };
}

#define ATTENTION "layer.0.attn.q layer.0.attn.k layer.0.attn.v kv_append attention layer.0.attn.o "
#define MLP "layer.0.mlp.up unary layer.0.mlp.down "

static void norms_stand_where_the_spec_says(void **state)
{
    (void)state;
    spey_arch_config c = config_of_one_layer();
    spey_decoder_spec spec = spey_decoder_defaults(&c);
    spec.mlp.gate = NULL;
    expect_ops(&c, &spec,
               "embed layer.0.attn_norm " ATTENTION "add layer.0.mlp_norm " MLP
               "add gather final_norm lm_head");
    spec.attn_norm = spec.mlp_norm = NULL;
    spec.attn_post_norm = "a";
    spec.mlp_post_norm = "m";
    expect_ops(&c, &spec,
               "embed " ATTENTION "layer.0.attn_post_norm add " MLP
               "layer.0.mlp_post_norm add gather final_norm lm_head");
}

static void parallel_branches_share_a_norm_or_have_their_own(void **state)
{
    (void)state;
    spey_arch_config c = config_of_one_layer();
    c.parallel = true;
    spey_decoder_spec spec = spey_decoder_defaults(&c);
    spec.mlp.gate = NULL;
    expect_ops(&c, &spec,
               "embed layer.0.attn_norm layer.0.mlp_norm " ATTENTION "add " MLP
               "add gather final_norm lm_head");
    spec.mlp_norm = NULL;
    expect_ops(&c, &spec,
               "embed layer.0.attn_norm " ATTENTION "add " MLP "add gather final_norm lm_head");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layers_of_one_window_share_a_cache),
        cmocka_unit_test(norms_stand_where_the_spec_says),
        cmocka_unit_test(parallel_branches_share_a_norm_or_have_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
