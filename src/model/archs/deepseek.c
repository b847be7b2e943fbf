/* DeepSeek-V2 and DeepSeek-V3: latent attention; experts, and shared ones beside them, behind the first dense layers. V2
 * routes by softmax, V3 by sigmoid with a correction that counts for the choice alone; both may choose groups of experts
 * first. */
#include <math.h>
#include <string.h>

#include "model/decoder_block.h"

static bool is_v3(const spey_arch_config *c)
{
    return strcmp(c->hf_name, "DeepseekV3ForCausalLM") == 0;
}

static void read_attention(spey_config *config, spey_arch_config *c)
{
    c->q_rank = spey_config_int(config, "q_lora_rank", 0, SPEY_HIDDEN_MAX, 0);
    c->kv_rank = spey_config_int(config, "kv_lora_rank", 1, SPEY_HEAD_DIM_MAX / 2, 512);
    c->nope_dim = spey_config_int(config, "qk_nope_head_dim", 1, SPEY_HEAD_DIM_MAX / 2, 128);
    c->v_dim = spey_config_int(config, "v_head_dim", 1, SPEY_HEAD_DIM_MAX, 128);
    int64_t rotary = spey_config_int(config, "qk_rope_head_dim", 2, SPEY_HEAD_DIM_MAX / 2, 64);
    c->qkv_bias = c->o_bias = spey_config_bool(config, "attention_bias", false);
    c->head_dim = c->nope_dim + rotary;
    c->kv_heads = c->heads;
    c->interleaved = !is_v3(c) || spey_config_bool(config, "rope_interleave", true);
    spey_rope_read(config, NULL, 10000, rotary, &c->rope);
    /* What yarn does to cos and sin, it does to the unrotated part of the head through the scale. */
    char where[SPEY_PATH_BYTES_MAX];
    spey_config rope = spey_config_enter(config, "rope_parameters|rope_scaling", where);
    double all_dim = spey_config_number(&rope, "mscale_all_dim", 0, 1e6, 0), mscale = 1;
    if (c->rope.type == SPEY_ROPE_YARN && all_dim > 0 && c->rope.factor > 1)
        mscale = 0.1 * all_dim * log(c->rope.factor) + 1;
    c->attention_scale = mscale * mscale / sqrt((double)c->head_dim);
    spey_config_leave(config, &rope);
}

static void read_routing(spey_config *config, spey_arch_config *c)
{
    const char *method = spey_config_text(config, "topk_method", is_v3(c) ? "noaux_tc" : "greedy");
    bool greedy = strcmp(method, "greedy") == 0;
    bool known = is_v3(c) ? strcmp(method, "noaux_tc") == 0
                          : greedy || strcmp(method, "group_limited_greedy") == 0;
    spey_config_demand(config, known, "topk_method is \"%.64s\", which is not supported", method);
    if (!greedy) {
        c->route_groups = spey_config_int(config, "n_group", 1, SPEY_EXPERTS_MAX, is_v3(c) ? 8 : 1);
        c->route_top_groups =
            spey_config_int(config, "topk_group", 1, SPEY_EXPERTS_MAX, is_v3(c) ? 4 : 1);
    }
    c->route_scale =
        spey_config_number(config, "routed_scaling_factor", 1e-6, 1e6, is_v3(c) ? 2.5 : 1);
    if (is_v3(c))
        c->route_normalise = spey_config_bool(config, "norm_topk_prob", true);
    else
        spey_arch_refuse(config, "norm_topk_prob");
}

static void read(spey_config *config, spey_arch_config *c)
{
    spey_arch_read_decoder(config, NULL, c);
    c->norm_eps = spey_config_number(config, "rms_norm_eps", 0, 1, 1e-6);
    c->mlp_bias = spey_config_bool(config, "mlp_bias", false);
    read_attention(config, c);
    const spey_experts_missing v2 = { 64, -1, 1407 }, v3 = { 256, 8, 2048 };
    spey_arch_read_experts(config, is_v3(c) ? &v3 : &v2, c);
    read_routing(config, c);
    c->shared_intermediate =
        c->expert_intermediate *
        spey_config_int(config, "n_shared_experts", 0, SPEY_EXPERTS_MAX, is_v3(c) ? 1 : 2);
    int64_t dense =
        spey_config_int(config, "first_k_dense_replace", 0, SPEY_LAYERS_MAX, is_v3(c) ? 3 : 0);
    int64_t every = spey_config_int(config, "moe_layer_freq", 1, SPEY_LAYERS_MAX, 1);
    for (int64_t i = 0; !config->status && i < c->layers; i++)
        c->sparse[i] = i >= dense && i % every == 0;
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    spey_decoder_spec spec = spey_decoder_defaults(c);
    const spey_norm_spec latent_norm = { .kind = "rms", .eps = 1e-6 };
    spec.attention.pairing = c->interleaved ? "interleaved" : NULL;
    spec.mla = (spey_mla_spec){ .q_rank = c->q_rank,
                                .kv_rank = c->kv_rank,
                                .nope = c->nope_dim,
                                .q_a = "self_attn.q_a_proj",
                                .q_norm = "self_attn.q_a_layernorm",
                                .q_b = "self_attn.q_b_proj",
                                .kv_a = "self_attn.kv_a_proj_with_mqa",
                                .kv_norm = "self_attn.kv_a_layernorm",
                                .kv_b = "self_attn.kv_b_proj",
                                .norm = &latent_norm,
                                .bias = c->qkv_bias };
    spec.moe.groups = c->route_groups;
    spec.moe.top_groups = c->route_top_groups;
    spec.moe.group_best = is_v3(c) ? 2 : 1;
    if (is_v3(c)) {
        spec.moe.scoring = "sigmoid";
        spec.moe.correction = "mlp.gate.e_score_correction_bias";
    }
    if (c->shared_intermediate)
        spec.shared = (spey_mlp_spec){ .gate = "mlp.shared_experts.gate_proj",
                                       .up = "mlp.shared_experts.up_proj",
                                       .down = "mlp.shared_experts.down_proj",
                                       .intermediate = c->shared_intermediate,
                                       .act = c->act,
                                       .bias = c->mlp_bias };
    spey_decoder_draw(b, c, &spec);
}

static const char *const hf_names[] = { "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", NULL };
/* The layer behind the last predicts a second token ahead. */
static const char *const ignored[] = { "*rotary_emb.inv_freq", "model.layers.61.*", NULL };

const spey_arch spey_arch_deepseek = { "deepseek", hf_names, ignored, read, draw };
