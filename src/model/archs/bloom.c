/* BLOOM: ALiBi, a norm behind the embedding, Q, K and V of each head side by side in one tensor, biases everywhere. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .tied = true }, c);
    c->act = "gelu_tanh"; /* not in the configuration */
    c->intermediate = 4 * c->hidden;
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = c->mlp_bias = true;
    c->positions = spey_config_int(config, "seq_length", 1, SPEY_POSITIONS_MAX, 2048);
    spey_arch_refuse(config, "apply_residual_connection_post_layernorm");
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "transformer.word_embeddings";
    spec.embed_norm = "transformer.word_embeddings_layernorm";
    spec.layers = "transformer.h.";
    spec.final_norm = "transformer.ln_f";
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    spec.attention.layout = SPEY_QKV_GROUPED;
    spec.attention.qkv = "self_attention.query_key_value";
    spec.attention.o = "self_attention.dense";
    spec.attention.alibi = "alibi";
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.dense_h_to_4h";
    spec.mlp.down = "mlp.dense_4h_to_h";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "BloomForCausalLM", NULL };

const spey_arch spey_arch_bloom = { "bloom", hf_names, NULL, read, draw };
