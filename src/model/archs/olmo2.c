/* OLMo 2: Llama with norms of the branches' results in place of their inputs, and norms of whole Q and K rows. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.attn_norm = spec.mlp_norm = NULL;
    spec.attn_post_norm = "post_attention_layernorm";
    spec.mlp_post_norm = "post_feedforward_layernorm";
    spec.attention.q_norm = "self_attn.q_norm";
    spec.attention.k_norm = "self_attn.k_norm";
    spec.attention.qk_norm_rows = true;
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "Olmo2ForCausalLM", NULL };

const spey_arch spey_arch_olmo2 = { "olmo2", hf_names, NULL, read, draw };
