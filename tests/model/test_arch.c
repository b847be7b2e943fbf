/* What architectures read in common. */
#include "model_test.h"

#include "model/arch.h"

static spey_arch_config read_decoder(const char *text, const spey_decoder_missing *missing)
{
    json_t *json = json_of(text);
    spey_config config = { .where = "config.json", .json = json };
    spey_arch_config c = { 0 };
    spey_arch_read_decoder(&config, missing, &c);
    must(config.status);
    json_decref(json);
    return c;
}

static void sizes_have_many_spellings(void **state)
{
    (void)state;
    static const char *const spellings[] = {
        "{'vocab_size': 9, 'hidden_size': 8, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'intermediate_size': 7, 'max_position_embeddings': 5}",
        "{'vocab_size': 9, 'n_embd': 8, 'n_layer': 3, 'n_head': 4, 'n_inner': 7, 'n_positions': 5}",
        "{'vocab_size': 9, 'd_model': 8, 'n_layers': 3, 'n_heads': 4, 'ffn_hidden_size': 7, 'max_seq_len': 5}",
    };
    for (size_t i = 0; i < 3; i++) {
        spey_arch_config c = read_decoder(spellings[i], NULL);
        assert_int_equal(c.hidden, 8);
        assert_int_equal(c.layers, 3);
        assert_int_equal(c.heads, 4);
        assert_int_equal(c.kv_heads, 4);
        assert_int_equal(c.head_dim, 2);
        assert_int_equal(c.intermediate, 7);
        assert_int_equal(c.positions, 5);
    }
}

static void what_is_missing_is_what_the_class_says(void **state)
{
    (void)state;
    static const char bare[] =
        "{'vocab_size': 9, 'hidden_size': 9, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'n_inner': null}";
    spey_decoder_missing missing = { .head_dim = 16, .tied = true, .act = "gelu_new" };
    spey_arch_config c = read_decoder(bare, &missing);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.intermediate, 36);
    assert_true(c.tied);
    assert_string_equal(c.act, "gelu_tanh");
}

static void expect_window(const char *patch, int64_t window)
{
    spey_model *model;
    spey_graph *graph;
    json_t *config =
        patched("{'architectures': ['LlamaForCausalLM'], 'hidden_size': 8, 'vocab_size': 32, "
                "'num_hidden_layers': 1, 'num_attention_heads': 4}",
                patch);
    must(spey_model_new("config.json", config, &model));
    json_decref(config);
    must(spey_model_draw(model, SPEY_F32, &graph));
    assert_int_equal(graph->caches[0].window, window);
    spey_graph_free(graph);
    spey_model_free(model);
}

static void only_mistral_has_a_window_and_null_is_none(void **state)
{
    (void)state;
    expect_window("{'sliding_window': 16}", 0);
    expect_window("{'architectures': ['MistralForCausalLM'], 'sliding_window': 16}", 16);
    expect_window("{'architectures': ['MistralForCausalLM'], 'sliding_window': null}", 0);
    expect_window("{'architectures': ['MistralForCausalLM']}", 4096); /* MistralConfig's default */
}

static void windows_follow_layer_types_or_the_pattern(void **state)
{
    (void)state;
    json_t *json =
        json_of("{'layer_types': ['full_attention', 'sliding_attention', 'full_attention']}");
    spey_config config = { .where = "config.json", .json = json };
    spey_arch_config c = { .layers = 3 };
    spey_arch_read_layer_windows(&config, 7, 3, &c);
    must(config.status);
    assert_true(c.windows[0] == 0 && c.windows[1] == 7 && c.windows[2] == 0);
    json_object_clear(json);
    spey_arch_read_layer_windows(&config, 7, 3, &c);
    must(config.status);
    assert_true(c.windows[0] == 7 && c.windows[1] == 7 && c.windows[2] == 0);
    json_decref(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_many_spellings),
        cmocka_unit_test(what_is_missing_is_what_the_class_says),
        cmocka_unit_test(only_mistral_has_a_window_and_null_is_none),
        cmocka_unit_test(windows_follow_layer_types_or_the_pattern),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
