/* Phi-3 and Phi-4: Llama with Q, K, V in one tensor and gate, up in another, windows, LongRoPE. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-5);
    int64_t rotary = spey_rope_read_rotary(config, c->head_dim, 1);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
    spey_arch_read_window(config, 0, c);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.attention.layout = SPEY_QKV_STACKED;
    spec.attention.qkv = "self_attn.qkv_proj";
    spec.mlp.gate_up = "mlp.gate_up_proj";
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "Phi3ForCausalLM", NULL };

const spey_arch spey_arch_phi3 = { "phi3", hf_names, NULL, read, draw };
