/* T5: RMS norms before the branches, relative position biases in place of positions, scores that are not scaled. The first
 * version has ReLU and a head that is the embedding, whose inputs are scaled; 1.1 and all that follow it (FLAN, mT5) have
 * gated MLPs and a head of their own. */
#include <math.h>
#include <string.h>

#include "model/encoder_decoder_block.h"

/* "relu", "gated-gelu", "gated-silu": an activation and whether it gates. */
static void read_mlp(spey_config *config, spey_arch_config *c)
{
    const char *text = spey_config_text(config, "feed_forward_proj", "relu");
    c->encoder.gated = strncmp(text, "gated-", 6) == 0;
    c->act = spey_config_activation_named(config, "feed_forward_proj",
                                          text + (c->encoder.gated ? 6 : 0));
    /* As transformers has it, "for backwards compatibility". */
    if (strcmp(text, "gated-gelu") == 0) c->act = "gelu_tanh";
}

static void read(spey_config *config, spey_arch_config *c)
{
    c->vocab = spey_config_int(config, "vocab_size", 1, SPEY_VOCAB_MAX, -1);
    c->hidden = spey_config_int(config, "d_model|hidden_size", 1, SPEY_HIDDEN_MAX, -1);
    c->heads = spey_config_int(config, "num_heads|num_attention_heads", 1, SPEY_HEADS_MAX, -1);
    c->kv_heads = c->encoder.heads = c->heads;
    c->head_dim = spey_config_int(config, "d_kv|head_dim", 1, SPEY_HEAD_DIM_MAX, -1);
    c->intermediate = spey_config_int(config, "d_ff", 1, (int64_t)8 * SPEY_HIDDEN_MAX, -1);
    c->encoder.intermediate = c->intermediate;
    c->encoder.layers =
        spey_config_int(config, "num_layers|num_hidden_layers", 1, SPEY_LAYERS_MAX, -1);
    c->layers =
        spey_config_int(config, "num_decoder_layers", 1, SPEY_LAYERS_MAX, c->encoder.layers);
    c->encoder.buckets = spey_config_int(config, "relative_attention_num_buckets", 4, 1024, 32);
    c->encoder.distance = spey_config_int(config, "relative_attention_max_distance", 2,
                                          SPEY_RELATIVE_DISTANCE_MAX, 128);
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-6);
    read_mlp(config, c);
    /* transformers 5 always says that embeddings are tied, and shares them where the checkpoint has no other head. */
    bool first = spey_config_bool(config, "tie_word_embeddings", true) &&
                 strcmp(c->hf_name, "T5ForConditionalGeneration") == 0;
    c->tied = spey_config_bool(config, "scale_decoder_outputs", first);
    if (c->tied) c->logit_scale = 1 / sqrt((double)c->hidden);
    /* Nothing ends with relative positions. The bound is for buffers that hold a sequence's tokens; models were trained with
     * 512, as "n_positions" says, and are used with more. */
    c->positions = 4096;
    /* Scores that are not scaled are large: what 16 bits take off them makes another softmax. */
    c->exact = true;
}

static spey_coder_spec coder(const spey_arch_config *c, bool decodes)
{
    const spey_attention_spec attention = { .heads = c->heads,
                                            .kv_heads = c->heads,
                                            .head_dim = c->head_dim,
                                            .q = "layer.0.SelfAttention.q",
                                            .k = "layer.0.SelfAttention.k",
                                            .v = "layer.0.SelfAttention.v",
                                            .o = "layer.0.SelfAttention.o",
                                            .scale = 1 };
    spey_coder_spec spec = {
        .layers = decodes ? "decoder.block." : "encoder.block.",
        .n_layers = decodes ? c->layers : c->encoder.layers,
        .end_norm = decodes ? "decoder.final_layer_norm" : "encoder.final_layer_norm",
        .relative = decodes ? "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"
                            : "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        .attn_norm = "layer.0.layer_norm",
        .cross_norm = decodes ? "layer.1.layer_norm" : NULL,
        .mlp_norm = decodes ? "layer.2.layer_norm" : "layer.1.layer_norm",
        .attention = attention,
        .cross = attention,
        .mlp = { .intermediate = c->intermediate,
                 .act = c->act,
                 .gate = decodes ? "layer.2.DenseReluDense.wi_0" : "layer.1.DenseReluDense.wi_0",
                 .up = decodes ? "layer.2.DenseReluDense.wi_1" : "layer.1.DenseReluDense.wi_1",
                 .down = decodes ? "layer.2.DenseReluDense.wo" : "layer.1.DenseReluDense.wo" }
    };
    if (!c->encoder.gated) {
        spec.mlp.gate = NULL;
        spec.mlp.up = decodes ? "layer.2.DenseReluDense.wi" : "layer.1.DenseReluDense.wi";
    }
    spec.cross.q = "layer.1.EncDecAttention.q";
    spec.cross.k = "layer.1.EncDecAttention.k";
    spec.cross.v = "layer.1.EncDecAttention.v";
    spec.cross.o = "layer.1.EncDecAttention.o";
    return spec;
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    const spey_encoder_decoder_spec spec = {
        .embed = "shared",
        .norm = { .kind = "rms", .eps = c->norm_eps },
        .encoder = coder(c, false),
        .decoder = coder(c, true),
        .head = { .tensor = c->tied ? NULL : "lm_head", .vocab = c->vocab, .scale = c->logit_scale }
    };
    spey_encoder_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "T5ForConditionalGeneration", "MT5ForConditionalGeneration",
                                        NULL };
/* Copies of the embedding, and a bias that checkpoints of the first version have and nothing reads. */
static const char *const ignored[] = { "encoder.embed_tokens.weight", "decoder.embed_tokens.weight",
                                       "*.EncDecAttention.relative_attention_bias.weight", NULL };

const spey_arch spey_arch_t5 = { "t5", hf_names, ignored, read, draw };
