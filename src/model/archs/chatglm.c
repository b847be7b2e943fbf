/* ChatGLM2, ChatGLM3 and GLM-4 as published before transformers knew them: GLM with Q, K and V one after the other in one
 * tensor and Megatron's names. rope_ratio multiplies the base. */
#include "model/decoder_block.h"

static void demand_flag(spey_config *config, const char *key)
{
    if (!spey_config_bool(config, key, true) && !config->status)
        config->status = SPEY_FAIL(SPEY_UNSUPPORTED, "%s: \"%s\" is false, which is not supported",
                                   config->where, key);
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->kv_heads = spey_config_int(config, "multi_query_group_num", 1, SPEY_HEADS_MAX, 1);
    spey_config_demand(config, c->heads % c->kv_heads == 0,
                       "num_attention_heads is %lld, expected a multiple of multi_query_group_num, "
                       "%lld",
                       (long long)c->heads, (long long)c->kv_heads);
    c->norm_eps = spey_config_number(config, "layernorm_epsilon", 0, 1, 1e-5);
    c->o_bias = c->mlp_bias = spey_config_bool(config, "add_bias_linear", false);
    c->qkv_bias = c->o_bias || spey_config_bool(config, "add_qkv_bias", false);
    double ratio = spey_config_number(config, "rope_ratio", 1e-3, 1e6, 1);
    spey_rope_read(config, NULL, 10000 * ratio, c->head_dim / 2, &c->rope);
    spey_arch_refuse(config, "apply_residual_connection_post_layernorm");
    demand_flag(config, "multi_query_attention");
    demand_flag(config, "post_layer_norm");
    demand_flag(config, "rmsnorm");
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "transformer.embedding.word_embeddings";
    spec.layers = "transformer.encoder.layers.";
    spec.final_norm = "transformer.encoder.final_layernorm";
    spec.head = "transformer.output_layer";
    spec.attention.layout = SPEY_QKV_STACKED;
    spec.attention.qkv = "self_attention.query_key_value";
    spec.attention.o = "self_attention.dense";
    spec.attention.pairing = "interleaved";
    spec.mlp.gate_up = "mlp.dense_h_to_4h";
    spec.mlp.down = "mlp.dense_4h_to_h";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "ChatGLMModel", "ChatGLMForConditionalGeneration", NULL };
static const char *const ignored[] = { "transformer.rotary_pos_emb.inv_freq", NULL };

const spey_arch spey_arch_chatglm = { "chatglm", hf_names, ignored, read, draw };
