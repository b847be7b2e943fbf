/* StarCoder, SantaCoder: GPT-2 with one KV head for all heads, and plain matrices. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_decoder_missing missing = { .tied = true, .act = "gelu_pytorch_tanh" };
    spey_arch_read_decoder(config, &missing, c);
    c->kv_heads = spey_config_bool(config, "multi_query", true) ? 1 : c->heads;
    c->positions =
        spey_config_int(config, "n_positions|max_position_embeddings", 1, SPEY_POSITIONS_MAX, 1024);
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = c->mlp_bias = true;
    if (!spey_config_bool(config, "scale_attn_weights", true)) c->attention_scale = 1;
    spey_arch_refuse(config, "add_cross_attention");
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "transformer.wte";
    spec.positions.tensor = "transformer.wpe";
    spec.layers = "transformer.h.";
    spec.attn_norm = "ln_1";
    spec.mlp_norm = "ln_2";
    spec.final_norm = "transformer.ln_f";
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    /* With a KV head for each head, the three of a head lie side by side; with one it is behind all Q heads, and that
     * is the same layout. */
    spec.attention.layout = SPEY_QKV_GROUPED;
    spec.attention.qkv = "attn.c_attn";
    spec.attention.o = "attn.c_proj";
    spec.mlp.gate = NULL;
    spec.mlp.up = "mlp.c_fc";
    spec.mlp.down = "mlp.c_proj";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GPTBigCodeForCausalLM", NULL };
/* Masks, saved as if they were weights. */
static const char *const ignored[] = { "h.*.attn.bias", "*.h.*.attn.bias", "*.attn.masked_bias",
                                       NULL };

const spey_arch spey_arch_gpt_bigcode = { "gpt_bigcode", hf_names, ignored, read, draw };
