/* GPT-J: attention and MLP in parallel behind one LayerNorm, the first elements of each head rotated in neighbouring pairs,
 * a head with bias. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .act = "gelu_new" }, c);
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-5);
    c->mlp_bias = true;
    c->parallel = true;
    int64_t rotary = spey_config_int(config, "rotary_dim", 2, SPEY_HEAD_DIM_MAX, 64);
    spey_config_demand(config, rotary <= c->head_dim,
                       "rotary_dim is %lld, expected up to the head size, %lld", (long long)rotary,
                       (long long)c->head_dim);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "transformer.wte";
    spec.layers = "transformer.h.";
    spec.final_norm = "transformer.ln_f";
    spec.head_bias = true;
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    spec.attn_norm = "ln_1";
    spec.mlp_norm = NULL;
    spec.attention.q = "attn.q_proj";
    spec.attention.k = "attn.k_proj";
    spec.attention.v = "attn.v_proj";
    spec.attention.o = "attn.out_proj";
    spec.attention.pairing = "interleaved";
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.fc_in";
    spec.mlp.down = "mlp.fc_out";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GPTJForCausalLM", NULL };
static const char *const ignored[] = { "*.attn.bias", "*.attn.masked_bias", NULL };

const spey_arch spey_arch_gptj = { "gptj", hf_names, ignored, read, draw };
