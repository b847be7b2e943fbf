/* GPT-NeoX and Pythia: Q, K and V of each head side by side in one tensor, LayerNorms, a plain MLP, usually in parallel with
 * a norm each. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .act = "gelu" }, c);
    c->norm_eps = spey_config_number(config, "layer_norm_eps", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", true);
    c->mlp_bias = true;
    c->parallel = spey_config_bool(config, "use_parallel_residual", true);
    int64_t rotary = spey_rope_read_rotary(config, c->head_dim, 0.25);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "gpt_neox.embed_in";
    spec.layers = "gpt_neox.layers.";
    spec.final_norm = "gpt_neox.final_layer_norm";
    spec.head = "embed_out";
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    spec.attention.layout = SPEY_QKV_GROUPED;
    spec.attention.qkv = "attention.query_key_value";
    spec.attention.o = "attention.dense";
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.dense_h_to_4h";
    spec.mlp.down = "mlp.dense_4h_to_h";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GPTNeoXForCausalLM", NULL };
static const char *const ignored[] = { "*.attention.bias", "*.attention.masked_bias",
                                       "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_gpt_neox = { "gpt_neox", hf_names, ignored, read, draw };
