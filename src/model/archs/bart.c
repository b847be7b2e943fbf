/* BART: LayerNorms behind the branches and behind the embeddings, learned positions whose tables begin with two rows that no
 * token uses, biases everywhere, one of the logits too. */
#include <math.h>

#include "model/encoder_decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    const int64_t ffn_max = (int64_t)8 * SPEY_HIDDEN_MAX;
    c->vocab = spey_config_int(config, "vocab_size", 1, SPEY_VOCAB_MAX, -1);
    c->hidden = spey_config_int(config, "d_model|hidden_size", 1, SPEY_HIDDEN_MAX, -1);
    c->layers = spey_config_int(config, "decoder_layers", 1, SPEY_LAYERS_MAX, 12);
    c->heads = spey_config_int(config, "decoder_attention_heads", 1, SPEY_HEADS_MAX, 16);
    c->intermediate = spey_config_int(config, "decoder_ffn_dim", 1, ffn_max, 4096);
    c->encoder.layers =
        spey_config_int(config, "encoder_layers|num_hidden_layers", 1, SPEY_LAYERS_MAX, 12);
    c->encoder.heads = spey_config_int(config, "encoder_attention_heads|num_attention_heads", 1,
                                       SPEY_HEADS_MAX, 16);
    c->encoder.intermediate = spey_config_int(config, "encoder_ffn_dim", 1, ffn_max, 4096);
    c->positions =
        spey_config_int(config, "max_position_embeddings", 1, SPEY_POSITIONS_MAX - 2, 1024);
    c->act = spey_config_activation(config, "activation_function", "gelu");
    c->forced_eos = 2;
    c->norm_eps = 1e-5; /* not in the configuration */
    c->tied = true;
    spey_config_demand(config, spey_config_bool(config, "tie_word_embeddings", true),
                       "tie_word_embeddings is false, the head is the embedding");
    if (spey_config_bool(config, "scale_embedding", false))
        c->embed_scale = sqrt((double)c->hidden);
    bool divide = c->hidden % c->heads == 0 && c->hidden % c->encoder.heads == 0;
    spey_config_demand(config, divide, "d_model is %lld, which %lld or %lld heads do not divide",
                       (long long)c->hidden, (long long)c->encoder.heads, (long long)c->heads);
    c->kv_heads = c->heads;
    c->head_dim = c->hidden / c->heads;
    spey_arch_refuse(config, "normalize_before");
    spey_arch_refuse(config, "add_final_layer_norm");
    spey_arch_refuse(config, "static_position_embeddings");
}

static spey_attention_spec attention(const spey_arch_config *c, int64_t heads)
{
    return (spey_attention_spec){ .heads = heads,
                                  .kv_heads = heads,
                                  .head_dim = c->hidden / heads,
                                  .q = "self_attn.q_proj",
                                  .k = "self_attn.k_proj",
                                  .v = "self_attn.v_proj",
                                  .o = "self_attn.out_proj",
                                  .qkv_bias = true,
                                  .o_bias = true };
}

static spey_mlp_spec mlp(const spey_arch_config *c, int64_t intermediate)
{
    return (spey_mlp_spec){
        .up = "fc1", .down = "fc2", .intermediate = intermediate, .act = c->act, .bias = true
    };
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_encoder_decoder_spec spec = {
        .embed = "model.shared",
        .embed_scale = c->embed_scale,
        .positions_begin = 2,
        .norm = { .kind = "layer", .eps = c->norm_eps, .bias = true },
        .norms_behind = true,
        .encoder = { .layers = "model.encoder.layers.",
                     .n_layers = c->encoder.layers,
                     .positions = "model.encoder.embed_positions",
                     .embed_norm = "model.encoder.layernorm_embedding",
                     .attn_norm = "self_attn_layer_norm",
                     .mlp_norm = "final_layer_norm",
                     .attention = attention(c, c->encoder.heads),
                     .mlp = mlp(c, c->encoder.intermediate) },
        .decoder = { .layers = "model.decoder.layers.",
                     .n_layers = c->layers,
                     .positions = "model.decoder.embed_positions",
                     .embed_norm = "model.decoder.layernorm_embedding",
                     .attn_norm = "self_attn_layer_norm",
                     .cross_norm = "encoder_attn_layer_norm",
                     .mlp_norm = "final_layer_norm",
                     .attention = attention(c, c->heads),
                     .cross = attention(c, c->heads),
                     .mlp = mlp(c, c->intermediate) },
        .head = { .vocab = c->vocab, .bias_row = "final_logits_bias" },
    };
    spec.decoder.cross.q = "encoder_attn.q_proj";
    spec.decoder.cross.k = "encoder_attn.k_proj";
    spec.decoder.cross.v = "encoder_attn.v_proj";
    spec.decoder.cross.o = "encoder_attn.out_proj";
    spey_encoder_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "BartForConditionalGeneration", NULL };
/* Copies of the embedding. */
static const char *const ignored[] = { "*encoder.embed_tokens.weight",
                                       "*decoder.embed_tokens.weight", NULL };

const spey_arch spey_arch_bart = { "bart", hf_names, ignored, read, draw };
