/* Qwen 2 MoE and Qwen 3 MoE: experts in the layers that are neither in mlp_only_layers nor between two multiples of
 * decoder_sparse_step. 2 has biases on Q, K and V, and a shared expert that a sigmoid weighs; 3 norms Q and K head by head. */
#include <string.h>

#include "model/decoder_block.h"

static bool is_qwen3(const spey_arch_config *c)
{
    return strcmp(c->hf_name, "Qwen3MoeForCausalLM") == 0;
}

static void read_sparse(spey_config *config, spey_arch_config *c)
{
    int64_t step = spey_config_int(config, "decoder_sparse_step", 1, SPEY_LAYERS_MAX, 1);
    const json_t *dense = json_object_get(config->json, "mlp_only_layers");
    for (int64_t i = 0; !config->status && i < c->layers; i++)
        c->sparse[i] = (i + 1) % step == 0;
    for (size_t i = 0; !config->status && i < json_array_size(dense); i++) {
        const json_t *layer = json_array_get(dense, i);
        json_int_t number = json_integer_value(layer);
        bool fits = json_is_integer(layer) && number >= 0 && number < c->layers;
        spey_config_demand(config, fits, "mlp_only_layers[%zu] is not the number of a layer", i);
        if (fits) c->sparse[number] = false;
    }
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    if (is_qwen3(c))
        c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    else
        c->qkv_bias = spey_config_bool(config, "qkv_bias", true);
    spey_rope_read(config, NULL, 10000, c->head_dim, &c->rope);
    spey_arch_refuse(config, "use_sliding_window");
    const spey_experts_missing qwen2 = { 60, 4, 1408 }, qwen3 = { 128, 8, 768 };
    spey_arch_read_experts(config, is_qwen3(c) ? &qwen3 : &qwen2, c);
    read_sparse(config, c);
    c->route_normalise = spey_config_bool(config, "norm_topk_prob", false);
    if (!is_qwen3(c))
        c->shared_intermediate = spey_config_int(config, "shared_expert_intermediate_size", 1,
                                                 (int64_t)8 * SPEY_HIDDEN_MAX, 5632);
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    if (is_qwen3(c)) {
        spec.attention.q_norm = "self_attn.q_norm";
        spec.attention.k_norm = "self_attn.k_norm";
    } else {
        spec.shared = (spey_mlp_spec){ .gate = "mlp.shared_expert.gate_proj",
                                       .up = "mlp.shared_expert.up_proj",
                                       .down = "mlp.shared_expert.down_proj",
                                       .intermediate = c->shared_intermediate,
                                       .act = c->act,
                                       .weigh = "mlp.shared_expert_gate" };
    }
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM", NULL };
static const char *const ignored[] = { "*rotary_emb.inv_freq", NULL };

const spey_arch spey_arch_qwen2_moe = { "qwen2_moe", hf_names, ignored, read, draw };
