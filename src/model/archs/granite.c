/* Granite: Llama with multipliers on embeddings, residuals, attention scores and logits. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    c->mlp_bias = spey_config_bool(config, "mlp_bias", false);
    c->embed_scale = spey_config_number(config, "embedding_multiplier", 1e-6, 1e6, 1);
    c->residual_scale = spey_config_number(config, "residual_multiplier", 1e-6, 1e6, 1);
    c->attention_scale = spey_config_number(config, "attention_multiplier", 1e-6, 1e6, 1);
    c->logit_scale = 1 / spey_config_number(config, "logits_scaling", 1e-6, 1e6, 1);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GraniteForCausalLM", NULL };

const spey_arch spey_arch_granite = { "granite", hf_names, NULL, read, draw };
