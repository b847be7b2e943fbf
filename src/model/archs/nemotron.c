/* Nemotron: LayerNorms whose weights are stored as an offset from 1, squared ReLU without a gate, half of each head rotated. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .act = "relu2" }, c);
    c->norm_eps = spey_config_number(config, "norm_eps", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    c->mlp_bias = spey_config_bool(config, "mlp_bias", false);
    int64_t rotary = spey_rope_read_rotary(config, c->head_dim, 0.5);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .offset = 1, .bias = true };
    spec.mlp.gate = NULL;
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "NemotronForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_nemotron = { "nemotron", hf_names, ignored, read, draw };
