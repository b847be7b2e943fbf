/* gpt-oss: attention with sinks, windows in every other layer, experts whose SwiGLU is cut at a limit and adds 1 to up.
 * Gate and up are the even and the odd columns of one [in, out] tensor. */
#include "model/decoder_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    const spey_decoder_missing missing = { .head_dim = 64 };
    spey_arch_read_decoder(config, &missing, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-5);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", true);
    spey_rope_read(config, NULL, 150000, c->head_dim, &c->rope);
    int64_t window = spey_config_int(config, "sliding_window", 1, SPEY_POSITIONS_MAX, 128);
    spey_arch_read_layer_windows(config, window, 2, c);
    spey_arch_read_experts(config, &(spey_experts_missing){ 128, 4, 0 }, c);
    c->route_normalise = true; /* a softmax over the chosen logits */
    c->expert_limit = spey_config_number(config, "swiglu_limit", 1e-6, 1e6, 7);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    spec.attention.sinks = "self_attn.sinks";
    spec.moe.router = "mlp.router";
    spec.moe.router_bias = true;
    spec.moe.stack = SPEY_STACK_ONE;
    spec.moe.gate_up = "mlp.experts.gate_up_proj";
    spec.moe.interleaved = true;
    spec.moe.down = "mlp.experts.down_proj";
    spec.moe.bias = true;
    spec.moe.transpose = true;
    spec.moe.act = "quick_gelu"; /* gate · sigmoid(1.702 gate) */
    spec.moe.limit = c->expert_limit;
    spec.moe.up_offset = 1;
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "GptOssForCausalLM", NULL };

const spey_arch spey_arch_gpt_oss = { "gpt_oss", hf_names, NULL, read, draw };
