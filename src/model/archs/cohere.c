/* Command R: attention and MLP in parallel behind one LayerNorm without bias, RoPE in neighbouring pairs, scaled logits. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .tied = true }, c);
    c->norm_eps = spey_config_number(config, "layer_norm_eps", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    c->logit_scale = spey_config_number(config, "logit_scale", 1e-6, 1e6, 0.0625);
    c->parallel = true;
    spey_arch_refuse(config, "use_qk_norm"); /* a weight for each head: norm has one for all */
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.norm.kind = "layer";
    spec.mlp_norm = NULL;
    spec.attention.pairing = "interleaved";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "CohereForCausalLM", NULL };

const spey_arch spey_arch_cohere = { "cohere", hf_names, NULL, read, draw };
