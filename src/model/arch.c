#include "model/arch.h"

#include <string.h>

void spey_arch_read_decoder(spey_config *config, const spey_decoder_missing *missing,
                            spey_arch_config *c)
{
    const spey_decoder_missing none = { 0 };
    if (!missing) missing = &none;
    c->vocab = spey_config_int(config, "vocab_size|padded_vocab_size", 1, SPEY_VOCAB_MAX, -1);
    c->hidden = spey_config_int(config, "hidden_size|n_embd|d_model", 1, SPEY_HIDDEN_MAX, -1);
    c->layers = spey_config_int(config, "num_hidden_layers|n_layer|n_layers|num_layers", 1,
                                SPEY_LAYERS_MAX, -1);
    c->heads = spey_config_int(config, "num_attention_heads|n_head|n_heads", 1, SPEY_HEADS_MAX, -1);
    c->kv_heads = spey_config_int(config, "num_key_value_heads", 1, SPEY_HEADS_MAX, c->heads);
    c->intermediate = spey_config_int(config, "intermediate_size|ffn_hidden_size|n_inner", 1,
                                      (int64_t)8 * SPEY_HIDDEN_MAX, 4 * c->hidden);
    c->positions = spey_config_int(
        config, "max_position_embeddings|n_positions|max_seq_len|seq_length|model_max_length", 1,
        SPEY_POSITIONS_MAX, 2048);
    c->act = spey_config_activation(config,
                                    "hidden_activation|hidden_act|activation_function|activation",
                                    missing->act ? missing->act : "silu");
    c->tied = spey_config_bool(config, "tie_word_embeddings", missing->tied);
    if (config->status) return;
    if (!spey_config_has(config, "head_dim|kv_channels") && !missing->head_dim)
        spey_config_demand(config, c->hidden % c->heads == 0,
                           "hidden_size is %lld, expected a multiple of num_attention_heads, %lld",
                           (long long)c->hidden, (long long)c->heads);
    int64_t head_dim = missing->head_dim ? missing->head_dim : c->hidden / c->heads;
    c->head_dim = spey_config_int(config, "head_dim|kv_channels", 1, SPEY_HEAD_DIM_MAX, head_dim);
    spey_config_demand(config, c->heads % c->kv_heads == 0,
                       "num_attention_heads is %lld, expected a multiple of num_key_value_heads, "
                       "%lld",
                       (long long)c->heads, (long long)c->kv_heads);
}

void spey_arch_read_window(spey_config *config, int64_t missing, spey_arch_config *c)
{
    if (spey_config_mentions(config, "sliding_window")) missing = 0;
    int64_t window = spey_config_int(config, "sliding_window", 0, SPEY_POSITIONS_MAX, missing);
    for (int64_t i = 0; !config->status && i < c->layers; i++)
        c->windows[i] = window;
}

void spey_arch_read_layer_windows(spey_config *config, int64_t window, int64_t full_every,
                                  spey_arch_config *c)
{
    const json_t *types = json_object_get(config->json, "layer_types");
    bool listed = types && !json_is_null(types);
    spey_config_demand(config, !listed || json_array_size(types) == (size_t)c->layers,
                       "layer_types has %zu items, expected one for each of %lld layers",
                       json_array_size(types), (long long)c->layers);
    for (int64_t i = 0; !config->status && i < c->layers; i++) {
        bool sliding = (i + 1) % full_every != 0;
        if (listed) {
            const char *type = json_string_value(json_array_get(types, (size_t)i));
            sliding = type && strcmp(type, "sliding_attention") == 0;
            spey_config_demand(config, sliding || (type && strcmp(type, "full_attention") == 0),
                               "layer_types[%lld] is \"%.64s\", expected full_attention or "
                               "sliding_attention",
                               (long long)i, type ? type : "not a string");
        }
        c->windows[i] = sliding ? window : 0;
    }
}

void spey_arch_read_experts(spey_config *config, const spey_experts_missing *missing,
                            spey_arch_config *c)
{
    c->experts = spey_config_int(config, "num_experts|num_local_experts|n_routed_experts", 1,
                                 SPEY_EXPERTS_MAX, missing->experts);
    c->expert_top_k = spey_config_int(config, "num_experts_per_tok|experts_per_token", 1,
                                      SPEY_EXPERTS_MAX, missing->top_k);
    c->expert_intermediate =
        spey_config_int(config, "moe_intermediate_size", 1, (int64_t)8 * SPEY_HIDDEN_MAX,
                        missing->intermediate ? missing->intermediate : c->intermediate);
    spey_config_demand(config, c->expert_top_k <= c->experts,
                       "num_experts_per_tok is %lld, there are %lld experts",
                       (long long)c->expert_top_k, (long long)c->experts);
    for (int64_t i = 0; !config->status && i < c->layers; i++)
        c->sparse[i] = true;
}

void spey_arch_refuse(spey_config *config, const char *key)
{
    if (spey_config_bool(config, key, false) && !config->status)
        config->status = SPEY_FAIL(SPEY_UNSUPPORTED, "%s: \"%s\" is true, which is not supported",
                                   config->where, key);
}
