/* config.json to model: what is drawn, and one clear error for each absurdity. */
#include "model_test.h"

#include <stdio.h>

#include "base/file.h"

static const char llama[] =
    "{'architectures': ['LlamaForCausalLM'], 'hidden_size': 8, 'intermediate_size': 12, 'vocab_size': 32,"
    " 'num_hidden_layers': 1, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'torch_dtype': 'bfloat16',"
    " 'rms_norm_eps': 1e-5, 'max_position_embeddings': 64, 'bos_token_id': 1, 'eos_token_id': [2, 3]}";

static spey_status model_of(const char *patch, spey_model **out)
{
    json_t *config = patched(llama, patch);
    spey_status status = spey_model_new("config.json", config, out);
    json_decref(config);
    return status;
}

/* ---- what is drawn ---- */

static void expect_text(spey_model *model, const char *golden)
{
    spey_graph *graph;
    spey_strbuf expected = { 0 };
    must(spey_model_draw(model, SPEY_BF16, &graph));
    must(spey_file_read(golden, 1 << 20, &expected));
    char *text = text_of(graph);
    if (strcmp(text, expected.data) != 0) fail_msg("%s differs from\n%s", golden, text);
    spey_free(text);
    spey_strbuf_deinit(&expected);
    spey_graph_free(graph);
    spey_model_free(model);
}

static void checkpoints_draw_what_is_written_down(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "tests/data/architectures/llama2/config.json", "tests/model/drawn/llama2.txt" },
        { "tests/data/architectures/llama3/config.json", "tests/model/drawn/llama3.txt" },
        { "tests/data/architectures/llama-tied-bias/config.json",
          "tests/model/drawn/llama-tied-bias.txt" },
        { "models/demo/config.json", "tests/model/drawn/demo.txt" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *config;
        spey_model *model;
        must(spey_json_read(cases[i][0], &config));
        must(spey_model_new(cases[i][0], config, &model));
        json_decref(config);
        expect_text(model, cases[i][1]);
    }
}

static void info_holds_what_the_runtime_needs(void **state)
{
    (void)state;
    spey_model *model;
    spey_model_info info;
    must(model_of("{}", &model));
    spey_model_get_info(model, &info);
    spey_model_free(model);
    assert_string_equal(info.arch, "llama");
    assert_int_equal(info.dtype, SPEY_BF16);
    assert_int_equal(info.vocab_size, 32);
    assert_int_equal(info.context_length, 64);
    assert_int_equal(info.bos_id, 1);
    assert_int_equal(info.pad_id, -1);
    assert_int_equal(info.n_eos, 2);
    assert_int_equal(info.eos_ids[1], 3);
    assert_int_equal(info.n_parameters, 32 * 8 * 2 + 3 * 8 + 8 * (8 + 4 + 4 + 8) + 3 * 8 * 12);
    assert_true(info.temperature == 1 && info.top_p == 1 && !info.do_sample);
}

static void scaled_positions_reach_as_far_as_their_factor(void **state)
{
    (void)state;
    static const struct {
        const char *patch;
        int64_t positions;
    } cases[] = {
        { "{'head_dim': 4, 'rope_scaling': {'type': 'dynamic', 'factor': 2.5}}", 160 },
        { "{'rope_scaling': {'type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 64}}",
          256 },
        { "{'rope_scaling': {'type': 'yarn', 'factor': 4, 'original_max_position_embeddings': 16}}",
          64 },
        { "{'head_dim': 4, 'rope_scaling': {'type': 'dynamic', 'factor': 1e6}, 'max_position_embeddings': 1000000}",
          SPEY_POSITIONS_MAX },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spey_model *model;
        spey_model_info info;
        must(model_of(cases[i].patch, &model));
        spey_model_get_info(model, &info);
        spey_model_free(model);
        assert_int_equal(info.context_length, cases[i].positions);
    }
}

static void older_spellings_mean_the_same(void **state)
{
    (void)state;
    static const char *const patches[] = { "{'dtype': 'bfloat16', 'torch_dtype': '-'}",
                                           "{'torch_dtype': 'torch.bfloat16'}",
                                           "{'head_dim': null}",
                                           "{'head_dim': 2}",
                                           "{'rope_theta': 10000}",
                                           "{'rope_scaling': null}",
                                           "{'sliding_window': null}",
                                           "{'max_position_embeddings': 64.0}" };
    spey_model *model;
    spey_graph *graph;
    must(model_of("{}", &model));
    must(spey_model_draw(model, SPEY_F16, &graph));
    char *expected = text_of(graph);
    spey_graph_free(graph);
    spey_model_free(model);
    for (size_t i = 0; i < sizeof patches / sizeof *patches; i++) {
        must(model_of(patches[i], &model));
        must(spey_model_draw(model, SPEY_F16, &graph));
        char *text = text_of(graph);
        assert_string_equal(text, expected);
        spey_free(text);
        spey_graph_free(graph);
        spey_model_free(model);
    }
    spey_free(expected);
}

static const spey_weight *weight_of(const spey_graph *graph, const char *name)
{
    int32_t index = spey_graph_find_weight(graph, name);
    if (index < 0) fail_msg("there is no weight %s", name);
    return &graph->weights[index];
}

static void leaves_say_where_their_rows_come_from(void **state)
{
    (void)state;
    spey_model *model;
    spey_graph *graph;
    must(model_of("{'attention_bias': true, 'rope_theta': 100}", &model));
    must(spey_model_draw(model, SPEY_F16, &graph));
    assert_string_equal(weight_of(graph, "layer.0.attn.k")->source.tensor,
                        "model.layers.0.self_attn.k_proj.weight");
    assert_string_equal(weight_of(graph, "layer.0.attn.k.bias")->source.tensor,
                        "model.layers.0.self_attn.k_proj.bias");
    assert_int_equal(weight_of(graph, "layer.0.attn.k")->dtype, SPEY_F16);
    assert_int_equal(weight_of(graph, "layer.0.attn.k.bias")->dtype, SPEY_F32);
    assert_int_equal(weight_of(graph, "layer.0.attn.o")->cut, SPEY_CUT_COLS);
    assert_string_equal(weight_of(graph, "lm_head")->source.tensor, "lm_head.weight");
    const spey_weight *inv_freq = weight_of(graph, "rope.inv_freq");
    assert_null(inv_freq->source.tensor);
    assert_true(inv_freq->source.values[0] == 1);
    spey_graph_free(graph);
    spey_model_free(model);
}

static void unused_tensors_are_known(void **state)
{
    (void)state;
    spey_model *model;
    must(model_of("{}", &model));
    assert_true(spey_model_ignores_tensor(model, "model.layers.0.self_attn.rotary_emb.inv_freq"));
    assert_false(spey_model_ignores_tensor(model, "lm_head.weight"));
    assert_false(spey_model_ignores_tensor(model, "model.layers.0.self_attn.q_proj.weight"));
    spey_model_free(model);
    must(model_of("{'tie_word_embeddings': true}", &model));
    assert_true(spey_model_ignores_tensor(model, "lm_head.weight"));
    spey_model_free(model);
}

static void base_models_have_shorter_names(void **state)
{
    (void)state;
    char name[SPEY_NAME_BYTES_MAX];
    assert_true(spey_model_tensor_alias("model.layers.0.mlp.up_proj.weight", 0, name));
    assert_string_equal(name, "layers.0.mlp.up_proj.weight");
    assert_false(spey_model_tensor_alias("model.norm.weight", 1, name));
    assert_true(spey_model_tensor_alias("lm_head.weight", 0, name));
    assert_string_equal(name, "shared.weight");
    assert_false(spey_model_tensor_alias("shared.weight", 0, name));
}

/* ---- absurd values ---- */

static const struct {
    const char *patch, *error;
} absurd[] = {
    { "{'architectures': '-'}", "config.json: \"architectures\" is not a list of one name" },
    { "{'architectures': []}", "\"architectures\" is not a list of one name" },
    { "{'architectures': ['A', 'B']}", "\"architectures\" is not a list of one name" },
    { "{'architectures': 'LlamaForCausalLM'}", "\"architectures\" is not a list of one name" },
    { "{'architectures': [{}]}", "\"architectures\"[0] is not a string" },
    { "{'hidden_size': '-'}", "config.json: \"hidden_size\" is missing" },
    { "{'hidden_size': 0}", "\"hidden_size\" is 0, expected 1…262144" },
    { "{'hidden_size': -8}", "\"hidden_size\" is -8" },
    { "{'hidden_size': 99999999999999}", "\"hidden_size\" is 99999999999999" },
    { "{'hidden_size': 1e300}", "\"hidden_size\" is 1e+300" },
    { "{'hidden_size': 8.5}", "\"hidden_size\" is a number, expected an integer" },
    { "{'hidden_size': '8'}", "\"hidden_size\" is a string, expected an integer" },
    { "{'hidden_size': true}", "\"hidden_size\" is a boolean" },
    { "{'hidden_size': [8]}", "\"hidden_size\" is an array" },
    { "{'hidden_size': 9}", "hidden_size is 9, expected a multiple of num_attention_heads, 4" },
    { "{'hidden_size': 4}", "1 rotated elements of a head" },
    { "{'num_hidden_layers': 0}", "\"num_hidden_layers\" is 0" },
    { "{'num_hidden_layers': 100000}", "\"num_hidden_layers\" is 100000" },
    { "{'num_attention_heads': 0}", "\"num_attention_heads\" is 0" },
    { "{'num_key_value_heads': 3}",
      "num_attention_heads is 4, expected a multiple of num_key_value_heads, 3" },
    { "{'num_key_value_heads': 8}", "expected a multiple of num_key_value_heads, 8" },
    { "{'head_dim': -1}", "\"head_dim\" is -1" },
    { "{'head_dim': 3}", "3 rotated elements of a head" },
    { "{'head_dim': 100000}", "\"head_dim\" is 100000" },
    { "{'vocab_size': 0}", "\"vocab_size\" is 0" },
    { "{'intermediate_size': {}}", "\"intermediate_size\" is an object" },
    { "{'rms_norm_eps': -1}", "\"rms_norm_eps\" is -1" },
    { "{'rms_norm_eps': 'tiny'}", "\"rms_norm_eps\" is a string" },
    { "{'hidden_act': 'swiglu'}", "\"hidden_act\" is \"swiglu\"; supported are silu" },
    { "{'hidden_act': 5}", "\"hidden_act\" is an integer" },
    { "{'attention_bias': 'yes'}", "\"attention_bias\" is a string, expected true or false" },
    { "{'tie_word_embeddings': 1}", "\"tie_word_embeddings\" is an integer" },
    { "{'architectures': ['MistralForCausalLM'], 'sliding_window': -4}",
      "\"sliding_window\" is -4" },
    { "{'rope_theta': -1}", "\"rope_theta\" is -1" },
    { "{'rope_scaling': {'type': 'linear', 'factor': 0}}",
      "config.json: rope_scaling: \"factor\" is 0" },
    { "{'rope_scaling': [[[[]]]]}", "\"rope_scaling\" is not an object" },
    { "{'rope_parameters': {'rope_type': {'a': [1, {'b': null}]}}}", "\"rope_type\" is an object" },
    { "{'torch_dtype': 'int8'}", "dtype is \"int8\", expected float32, float16 or bfloat16" },
    { "{'bos_token_id': 'x'}", "\"bos_token_id\" is a string" },
    { "{'eos_token_id': [1, 'x']}", "eos_token_id is not an id or a list of ids" },
    { "{'eos_token_id': 99999999999}", "eos_token_id is not an id" },
    { "{'eos_token_id': [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
      "eos_token_id has 17 ids, expected up to 16" },
};

static void each_absurdity_is_one_clear_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof absurd / sizeof *absurd; i++) {
        spey_model *model;
        spey_status status = model_of(absurd[i].patch, &model);
        assert_true(status == SPEY_FORMAT || status == SPEY_UNSUPPORTED);
        assert_null(model);
        if (!strstr(spey_last_error(), absurd[i].error))
            fail_msg("\"%s\" does not say \"%s\"", spey_last_error(), absurd[i].error);
    }
    static const char *const not_objects[] = { "[]", "[{'architectures': []}]" };
    for (size_t i = 0; i < 2; i++) {
        spey_model *model;
        json_t *json = json_of(not_objects[i]);
        must_fail(spey_model_new("config.json", json, &model), SPEY_FORMAT,
                  "config.json: not a JSON object");
        json_decref(json);
    }
}

/* Options of other architectures that are read and then refused, or that must hang together. */
static const struct {
    const char *config, *error;
} refused[] = {
    { "{'architectures': ['CohereForCausalLM'], 'use_qk_norm': true}",
      "\"use_qk_norm\" is true, which is not supported" },
    { "{'architectures': ['StableLmForCausalLM'], 'qk_layernorm': true}",
      "\"qk_layernorm\" is true" },
    { "{'architectures': ['PhiForCausalLM'], 'qk_layernorm': true}", "\"qk_layernorm\" is true" },
    { "{'architectures': ['BloomForCausalLM'], 'apply_residual_connection_post_layernorm': true}",
      "\"apply_residual_connection_post_layernorm\" is true" },
    { "{'architectures': ['GemmaForCausalLM'], 'use_bidirectional_attention': true}",
      "\"use_bidirectional_attention\" is true" },
    { "{'architectures': ['Gemma2ForCausalLM'], 'layer_types': ['full_attention']}",
      "layer_types has 1 items, expected one for each of 2 layers" },
    { "{'architectures': ['Gemma2ForCausalLM'], 'layer_types': ['full_attention', 'chunked_attention']}",
      "layer_types[1] is \"chunked_attention\", expected" },
    { "{'architectures': ['Gemma2ForCausalLM'], 'query_pre_attn_scalar': 0}",
      "\"query_pre_attn_scalar\" is 0" },
    { "{'architectures': ['GPTJForCausalLM'], 'rotary_dim': 64}",
      "rotary_dim is 64, expected up to the head size, 16" },
    { "{'architectures': ['GPTJForCausalLM'], 'rotary_dim': 7}", "7 rotated elements" },
    { "{'architectures': ['GPTNeoXForCausalLM'], 'rotary_pct': 1.5}", "\"rotary_pct\" is 1.5" },
    { "{'architectures': ['FalconForCausalLM'], 'new_decoder_architecture': true, 'num_kv_heads': 3}",
      "expected a multiple of num_kv_heads, 3" },
    { "{'architectures': ['GPT2LMHeadModel'], 'scale_attn_by_inverse_layer_idx': true}",
      "\"scale_attn_by_inverse_layer_idx\" is true" },
    { "{'architectures': ['GPTBigCodeForCausalLM'], 'add_cross_attention': true}",
      "\"add_cross_attention\" is true" },
    { "{'architectures': ['OPTForCausalLM'], 'do_layer_norm_before': false}",
      "do_layer_norm_before is false, which is not supported" },
    { "{'architectures': ['OPTForCausalLM'], 'word_embed_proj_dim': 1}",
      "word_embed_proj_dim is not hidden_size" },
    { "{'architectures': ['MambaForCausalLM'], 'conv_kernel': 1}", "\"conv_kernel\" is 1" },
    { "{'architectures': ['MambaForCausalLM'], 'time_step_rank': 0}", "\"time_step_rank\" is 0" },
    { "{'architectures': ['MptForCausalLM'], 'no_bias': false}", "\"no_bias\" is false" },
    { "{'architectures': ['MptForCausalLM'], 'attn_config': {'alibi': false}}",
      "attn_config: supported are ALiBi" },
    { "{'architectures': ['MptForCausalLM'], 'attn_config': 3}",
      "\"attn_config\" is not an object" },
    { "{'architectures': ['GraniteForCausalLM'], 'logits_scaling': 0}", "\"logits_scaling\" is 0" },
    { "{'architectures': ['BaichuanForCausalLM'], 'vocab_size': 125696}",
      "the normalised head of Baichuan 2 is not supported" },
    { "{'architectures': ['ChatGLMModel'], 'multi_query_group_num': 3}",
      "expected a multiple of multi_query_group_num, 3" },
    { "{'architectures': ['ChatGLMModel'], 'multi_query_attention': false}",
      "\"multi_query_attention\" is false" },
    { "{'architectures': ['ChatGLMModel'], 'post_layer_norm': false}",
      "\"post_layer_norm\" is false" },
    { "{'architectures': ['ChatGLMModel'], 'rmsnorm': false}", "\"rmsnorm\" is false" },
    { "{'architectures': ['ChatGLMModel'], 'apply_residual_connection_post_layernorm': true}",
      "\"apply_residual_connection_post_layernorm\" is true" },
    { "{'architectures': ['Qwen2ForCausalLM'], 'use_sliding_window': true, 'sliding_window': -1}",
      "\"sliding_window\" is -1" },
    { "{'architectures': ['MixtralForCausalLM'], 'num_local_experts': 4, 'num_experts_per_tok': 5}",
      "num_experts_per_tok is 5, there are 4 experts" },
    { "{'architectures': ['MixtralForCausalLM'], 'num_local_experts': 4096}", "is 4096" },
    { "{'architectures': ['Qwen3MoeForCausalLM'], 'use_sliding_window': true}",
      "\"use_sliding_window\" is true" },
    { "{'architectures': ['Qwen2MoeForCausalLM'], 'num_experts': 4, 'num_experts_per_tok': 2, "
      "'mlp_only_layers': [0, 2]}",
      "mlp_only_layers[1] is not the number of a layer" },
    { "{'architectures': ['GptOssForCausalLM'], 'swiglu_limit': 0}", "\"swiglu_limit\" is 0" },
    { "{'architectures': ['DeepseekV2ForCausalLM'], 'n_routed_experts': 4, "
      "'num_experts_per_tok': 2, 'norm_topk_prob': true}",
      "\"norm_topk_prob\" is true" },
    { "{'architectures': ['DeepseekV3ForCausalLM'], 'n_routed_experts': 4, "
      "'num_experts_per_tok': 2, 'topk_method': 'greedy'}",
      "topk_method is \"greedy\", which is not supported" },
    { "{'architectures': ['DeepseekV3ForCausalLM'], 'n_routed_experts': 4, "
      "'num_experts_per_tok': 3, 'n_group': 2, 'topk_group': 1, 'first_k_dense_replace': 0}",
      "3 of 4 experts in the best 1 of 2 groups by 2" },
    { "{'architectures': ['T5ForConditionalGeneration'], 'd_ff': 8, 'feed_forward_proj': 'gated-maxout'}",
      "\"feed_forward_proj\" is \"maxout\"; supported are silu" },
    { "{'architectures': ['T5ForConditionalGeneration'], 'd_ff': 8, "
      "'relative_attention_num_buckets': 5, 'pad_token_id': 0}",
      "distance 128 and weight encoder.relative of f32 [5,4]" },
    { "{'architectures': ['T5ForConditionalGeneration'], 'd_ff': 8}",
      "decoder_start_token_id is missing" },
    { "{'architectures': ['BartForConditionalGeneration'], 'normalize_before': true}",
      "\"normalize_before\" is true" },
    { "{'architectures': ['BartForConditionalGeneration'], 'tie_word_embeddings': false}",
      "tie_word_embeddings is false" },
    { "{'architectures': ['BartForConditionalGeneration'], 'decoder_attention_heads': 7}",
      "d_model is 64, which 4 or 7 heads do not divide" },
};

static void what_is_not_drawn_is_refused(void **state)
{
    (void)state;
    static const char sizes[] =
        "{'hidden_size': 64, 'vocab_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'head_dim': 16}";
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        spey_model *model;
        json_t *config = patched(sizes, refused[i].config);
        spey_status status = spey_model_new("config.json", config, &model);
        json_decref(config);
        if (status == SPEY_OK) fail_msg("%s is accepted", refused[i].config);
        if (!strstr(spey_last_error(), refused[i].error))
            fail_msg("\"%s\" does not say \"%s\"", spey_last_error(), refused[i].error);
    }
}

static void an_unknown_architecture_lists_the_nearest_first(void **state)
{
    (void)state;
    spey_model *model;
    must_fail(
        model_of("{'architectures': ['LlamaForCasualLM']}", &model), SPEY_UNSUPPORTED,
        "config.json: architecture \"LlamaForCasualLM\" is not supported; supported are LlamaForCausalLM, ");
    must_fail(model_of("{'architectures': ['MistralForCausalLLM']}", &model), SPEY_UNSUPPORTED,
              "supported are MistralForCausalLM, ");
}

static void models_survive_every_failed_allocation(void **state)
{
    (void)state;
    json_t *config = patched(llama, "{}");
    uint64_t live = spey_alloc_read_stats().n_live;
    for (uint64_t n = 1;; n++) {
        spey_model *model;
        spey_graph *graph = NULL;
        spey_alloc_fail_nth(n);
        spey_status status = spey_model_new("config.json", config, &model);
        if (status == SPEY_OK) status = spey_model_draw(model, SPEY_F32, &graph);
        spey_alloc_fail_nth(0);
        spey_graph_free(graph);
        spey_model_free(model);
        assert_int_equal(spey_alloc_read_stats().n_live, live);
        if (status == SPEY_OK) break;
        assert_int_equal(status, SPEY_NOMEM);
    }
    json_decref(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoints_draw_what_is_written_down),
        cmocka_unit_test(info_holds_what_the_runtime_needs),
        cmocka_unit_test(scaled_positions_reach_as_far_as_their_factor),
        cmocka_unit_test(older_spellings_mean_the_same),
        cmocka_unit_test(leaves_say_where_their_rows_come_from),
        cmocka_unit_test(unused_tensors_are_known),
        cmocka_unit_test(base_models_have_shorter_names),
        cmocka_unit_test(each_absurdity_is_one_clear_error),
        cmocka_unit_test(what_is_not_drawn_is_refused),
        cmocka_unit_test(an_unknown_architecture_lists_the_nearest_first),
        cmocka_unit_test(models_survive_every_failed_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
