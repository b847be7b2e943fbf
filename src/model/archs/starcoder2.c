/* StarCoder 2: grouped queries, RoPE and a window, with LayerNorms and a plain MLP, biases everywhere. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_decoder_missing missing = { .tied = true, .act = "gelu_pytorch_tanh" };
    spey_arch_read_decoder(config, &missing, c);
    c->norm_eps = spey_config_number(config, "norm_epsilon", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = c->mlp_bias = spey_config_bool(config, "use_bias", true);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
    spey_arch_read_window(config, 0, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.c_fc";
    spec.mlp.down = "mlp.c_proj";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "Starcoder2ForCausalLM", NULL };

const spey_arch spey_arch_starcoder2 = { "starcoder2", hf_names, NULL, read, draw };
