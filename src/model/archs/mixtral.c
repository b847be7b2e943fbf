/* Mixtral: Llama with experts in every layer; the weights of the chosen ones are divided by their sum. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-5);
    spey_rope_read(config, NULL, 1e6, c->head_dim, &c->rope);
    spey_arch_read_window(config, 0, c);
    spey_arch_read_experts(config, &(spey_experts_missing){ 8, 2, 0 }, c);
    c->route_normalise = true;
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.moe.router = "block_sparse_moe.gate";
    spec.moe.gate = "block_sparse_moe.experts.*.w1";
    spec.moe.up = "block_sparse_moe.experts.*.w3";
    spec.moe.down = "block_sparse_moe.experts.*.w2";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "MixtralForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_mixtral = { "mixtral", hf_names, ignored, read, draw };
