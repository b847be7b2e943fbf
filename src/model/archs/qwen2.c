/* Qwen 2 and Qwen 3: Llama with windows in the upper layers; 2 has biases on Q, K and V, 3 norms Q and K head by head. */
#include <string.h>

#include "model/decoder_block.h"

static bool is_qwen3(const spey_arch_config *c)
{
    return strcmp(c->hf_name, "Qwen3ForCausalLM") == 0;
}

static void read_windows(spey_config *config, spey_arch_config *c)
{
    if (!spey_config_bool(config, "use_sliding_window", false)) return;
    int64_t window = spey_config_int(config, "sliding_window", 0, SPEY_POSITIONS_MAX, 4096);
    int64_t full = spey_config_int(config, "max_window_layers", 0, SPEY_LAYERS_MAX, 28);
    if (spey_config_has(config, "layer_types")) {
        spey_arch_read_layer_windows(config, window, 1, c);
        return;
    }
    for (int64_t i = full; !config->status && i < c->layers; i++)
        c->windows[i] = window;
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_decoder_missing missing = { .head_dim = is_qwen3(c) ? 128 : 0 };
    spey_arch_read_decoder(config, &missing, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->qkv_bias = !is_qwen3(c);
    if (is_qwen3(c)) c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
    read_windows(config, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    if (is_qwen3(c)) {
        spec.attention.q_norm = "self_attn.q_norm";
        spec.attention.k_norm = "self_attn.k_norm";
    }
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "Qwen2ForCausalLM", "Qwen3ForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_qwen2 = { "qwen2", hf_names, ignored, read, draw };
