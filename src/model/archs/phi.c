/* Phi-1 and Phi-2: attention and a plain MLP in parallel behind one LayerNorm, biases everywhere, a part of each head
 * rotated. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .act = "gelu_new" }, c);
    c->norm_eps = spey_config_number(config, "layer_norm_eps", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = c->mlp_bias = true;
    c->parallel = true;
    spey_arch_refuse(config, "qk_layernorm");
    int64_t rotary = spey_rope_read_rotary(config, c->head_dim, 0.5);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    spec.mlp_norm = NULL;
    spec.attention.o = "self_attn.dense";
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.fc1";
    spec.mlp.down = "mlp.fc2";
    spec.final_norm = "model.final_layernorm";
    spec.head_bias = true;
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "PhiForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_phi = { "phi", hf_names, ignored, read, draw };
