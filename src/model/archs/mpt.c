/* MPT: ALiBi, LayerNorms without bias, no biases at all, Q, K and V one after the other in one tensor. */
#include "model/decoder_block.h"

static void read_attention(spey_config *config, spey_arch_config *c)
{
    char where[SPEY_PATH_BYTES_MAX];
    spey_config attention = spey_config_enter(config, "attn_config", where);
    c->attention_scale = spey_config_number(&attention, "softmax_scale", 0, 1e6, 0);
    bool usual = spey_config_bool(&attention, "alibi", true) &&
                 spey_config_int(&attention, "alibi_bias_max", 1, 1024, 8) == 8 &&
                 !spey_config_bool(&attention, "qk_ln", false) &&
                 !spey_config_bool(&attention, "prefix_lm", false) &&
                 spey_config_number(&attention, "clip_qkv", 0, 1e9, 0) == 0;
    if (!usual && !attention.status)
        attention.status = SPEY_FAIL(SPEY_UNSUPPORTED,
                                     "%s: supported are ALiBi with alibi_bias_max 8, without "
                                     "qk_ln, prefix_lm and clip_qkv",
                                     attention.where);
    spey_config_leave(config, &attention);
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .tied = true }, c);
    c->act = "gelu"; /* not in the configuration */
    int64_t ratio = spey_config_int(config, "expansion_ratio", 1, 8, 4);
    c->intermediate = ratio * c->hidden;
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-5);
    bool no_bias = spey_config_bool(config, "no_bias", true);
    if (!no_bias && !config->status)
        config->status = SPEY_FAIL(
            SPEY_UNSUPPORTED, "%s: \"no_bias\" is false, which is not supported", config->where);
    read_attention(config, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "transformer.wte";
    spec.layers = "transformer.blocks.";
    spec.final_norm = "transformer.norm_f";
    spec.norm.kind = "layer";
    spec.attn_norm = "norm_1";
    spec.mlp_norm = "norm_2";
    spec.attention.layout = SPEY_QKV_STACKED;
    spec.attention.qkv = "attn.Wqkv";
    spec.attention.o = "attn.out_proj";
    spec.attention.alibi = "alibi";
    spec.mlp.gate = NULL;
    spec.mlp.up = "ffn.up_proj";
    spec.mlp.down = "ffn.down_proj";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "MptForCausalLM", "MPTForCausalLM", NULL };

const spey_arch spey_arch_mpt = { "mpt", hf_names, NULL, read, draw };
