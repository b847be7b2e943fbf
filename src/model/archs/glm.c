/* GLM-4: Llama with biases on Q, K and V, half of each head rotated in neighbouring pairs, gate and up in one tensor. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .head_dim = 128 }, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1.5625e-07);
    c->qkv_bias = spey_config_bool(config, "attention_bias", true);
    int64_t rotary = spey_rope_read_rotary(config, c->head_dim, 0.5);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.attention.pairing = "interleaved";
    spec.mlp.gate_up = "mlp.gate_up_proj";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GlmForCausalLM", NULL };

const spey_arch spey_arch_glm = { "glm", hf_names, NULL, read, draw };
