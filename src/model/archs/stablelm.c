/* StableLM: Llama with LayerNorms, a quarter of each head rotated, and optionally a parallel residual. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "layer_norm_eps", 0, 1, 1e-5);
    c->qkv_bias = spey_config_bool(config, "use_qkv_bias", false);
    c->parallel = spey_config_bool(config, "use_parallel_residual", false);
    spey_arch_refuse(config, "qk_layernorm"); /* a norm for each head */
    int64_t rotary = spey_rope_read_rotary(config, c->head_dim, 0.25);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    if (c->parallel) spec.mlp_norm = NULL;
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "StableLmForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_stablelm = { "stablelm", hf_names, ignored, read, draw };
