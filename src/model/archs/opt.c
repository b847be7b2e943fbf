/* OPT: learned positions whose table begins with two rows that no token uses, LayerNorms, ReLU, biases everywhere. The
 * 350M model, alone with norms behind the branches and a smaller embedding, is refused. */
#include "model/decoder_block.h"

static void refuse(spey_config *config, bool refused, const char *what)
{
    if (refused && !config->status)
        config->status =
            SPEY_FAIL(SPEY_UNSUPPORTED, "%s: %s, which is not supported", config->where, what);
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, &(spey_decoder_missing){ .tied = true, .act = "relu" }, c);
    c->intermediate =
        spey_config_int(config, "ffn_dim", 1, (int64_t)8 * SPEY_HIDDEN_MAX, 4 * c->hidden);
    c->norm_eps = 1e-5; /* not in the configuration */
    c->qkv_bias = c->o_bias = c->mlp_bias = spey_config_bool(config, "enable_bias", true);
    int64_t width = spey_config_int(config, "word_embed_proj_dim", 1, SPEY_HIDDEN_MAX, c->hidden);
    refuse(config, width != c->hidden, "word_embed_proj_dim is not hidden_size");
    refuse(config, !spey_config_bool(config, "do_layer_norm_before", true),
           "do_layer_norm_before is false");
    refuse(config, !spey_config_bool(config, "layer_norm_elementwise_affine", true),
           "layer_norm_elementwise_affine is false");
    spey_arch_refuse(config, "_remove_final_layer_norm");
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.embed = "model.decoder.embed_tokens";
    spec.positions.tensor = "model.decoder.embed_positions";
    spec.positions.begin = 2;
    spec.layers = "model.decoder.layers.";
    spec.attn_norm = "self_attn_layer_norm";
    spec.mlp_norm = "final_layer_norm";
    spec.final_norm = "model.decoder.final_layer_norm";
    spec.norm = (spey_norm_spec){ .kind = "layer", .eps = c->norm_eps, .bias = true };
    spec.attention.o = "self_attn.out_proj";
    spec.mlp.gate = NULL;
    spec.mlp.up = "fc1";
    spec.mlp.down = "fc2";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "OPTForCausalLM", NULL };

const spey_arch spey_arch_opt = { "opt", hf_names, NULL, read, draw };
