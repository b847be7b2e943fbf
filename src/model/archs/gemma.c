/* Gemma 1, 2 and 3 (text): norm weights stored as an offset from 1, embeddings scaled by √hidden, GELU-gated MLP.
 *
 *   2   norms before and after each branch, soft caps, a window in every other layer
 *   3   the same without soft caps, norms of Q and K, five layers with a window and a RoPE of their own to one without */
#include <math.h>
#include <string.h>

#include "model/decoder_block.h"

static int generation(const spey_arch_config *c)
{
    if (strcmp(c->hf_name, "GemmaForCausalLM") == 0) return 1;
    return strcmp(c->hf_name, "Gemma2ForCausalLM") == 0 ? 2 : 3;
}

/* Null is none; a missing key is `usual` in the second generation. */
static double read_softcap(spey_config *config, const char *key, double usual,
                           const spey_arch_config *c)
{
    double missing = generation(c) == 2 && !spey_config_mentions(config, key) ? usual : 0;
    return spey_config_number(config, key, 0, 1e6, missing);
}

static void read_windows(spey_config *config, spey_arch_config *c)
{
    int64_t window = spey_config_int(config, "sliding_window", 0, SPEY_POSITIONS_MAX, 4096);
    int64_t pattern = spey_config_int(config, "sliding_window_pattern|_sliding_window_pattern", 1,
                                      SPEY_LAYERS_MAX, generation(c) == 2 ? 2 : 6);
    spey_arch_read_layer_windows(config, window, pattern, c);
    double scalar = spey_config_number(config, "query_pre_attn_scalar", 1e-3, 1e6, 256);
    c->attention_scale = 1 / sqrt(scalar);
    c->attention_softcap = read_softcap(config, "attn_logit_softcapping", 50, c);
    c->logit_softcap = read_softcap(config, "final_logit_softcapping", 30, c);
}

/* rope_theta and rope_scaling are for layers without a window, rope_local_base_freq for the others; transformers 5 keeps
 * them by layer type. */
static void read_ropes(spey_config *config, spey_arch_config *c)
{
    char where[SPEY_PATH_BYTES_MAX];
    spey_config ropes = spey_config_enter(config, "rope_parameters", where);
    bool by_type = spey_config_has(&ropes, "sliding_attention");
    double theta = generation(c) == 3 ? 1e6 : 1e4;
    spey_rope_read(config, "full_attention", theta, c->head_dim, &c->rope);
    if (generation(c) != 3) return;
    if (by_type) {
        spey_rope_read(config, "sliding_attention", 1e4, c->head_dim, &c->local_rope);
        return;
    }
    c->local_rope = (spey_rope_config){ .rotary = c->head_dim, .factor = 1, .magnitude = 1 };
    c->local_rope.theta = spey_config_number(config, "rope_local_base_freq", 1e-3, 1e15, 1e4);
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_decoder_missing missing = { .head_dim = 256, .tied = true, .act = "gelu_pytorch_tanh" };
    spey_arch_read_decoder(config, &missing, c);
    /* Gemma 1 was published with "gelu" and means the tanh form. */
    if (strcmp(c->act, "gelu") == 0) c->act = "gelu_tanh";
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    c->embed_scale = sqrt((double)c->hidden);
    spey_arch_refuse(config, "use_bidirectional_attention");
    read_ropes(config, c);
    if (generation(c) > 1) read_windows(config, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.norm.offset = spec.qk_norm.offset = 1;
    if (generation(c) > 1) {
        spec.attn_post_norm = "post_attention_layernorm";
        spec.mlp_norm = "pre_feedforward_layernorm";
        spec.mlp_post_norm = "post_feedforward_layernorm";
    }
    if (generation(c) == 3) {
        spec.attention.q_norm = "self_attn.q_norm";
        spec.attention.k_norm = "self_attn.k_norm";
    }
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GemmaForCausalLM", "Gemma2ForCausalLM",
                                        "Gemma3ForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_gemma = { "gemma", hf_names, ignored, read, draw };
