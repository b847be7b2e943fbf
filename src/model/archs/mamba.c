/* Mamba: no attention and no cache that grows; each layer is a norm and a mixer with a state (mamba_block.h). */
#include <string.h>

#include "model/arch.h"
#include "model/mamba_block.h"

static void read(spey_config *config, spey_arch_config *c)
{
    c->vocab = spey_config_int(config, "vocab_size", 1, SPEY_VOCAB_MAX, -1);
    c->hidden = spey_config_int(config, "hidden_size|d_model", 1, SPEY_HIDDEN_MAX, -1);
    c->layers = spey_config_int(config, "num_hidden_layers|n_layer", 1, SPEY_LAYERS_MAX, -1);
    int64_t expand = spey_config_int(config, "expand", 1, 8, 2);
    c->intermediate =
        spey_config_int(config, "intermediate_size", 1, SPEY_HIDDEN_MAX, expand * c->hidden);
    c->mamba.states = spey_config_int(config, "state_size", 1, SPEY_SCAN_STATES_MAX, 16);
    c->mamba.width = spey_config_int(config, "conv_kernel", 2, SPEY_CONV_WIDTH_MAX, 4);
    const char *rank = json_string_value(json_object_get(config->json, "time_step_rank"));
    c->mamba.rank = (c->hidden + 15) / 16; /* "auto" */
    if (!rank || strcmp(rank, "auto") != 0)
        c->mamba.rank =
            spey_config_int(config, "time_step_rank", 1, SPEY_HIDDEN_MAX, c->mamba.rank);
    c->mamba.conv_bias = spey_config_bool(config, "use_conv_bias", true);
    c->mlp_bias = spey_config_bool(config, "use_bias", false);
    c->act = spey_config_activation(config, "hidden_act", "silu");
    c->norm_eps = spey_config_number(config, "layer_norm_epsilon", 0, 1, 1e-5);
    c->tied = spey_config_bool(config, "tie_word_embeddings", true);
    /* No position has a number. The bound is for buffers that hold a sequence's tokens. */
    c->positions = 1 << 20;
}

static void draw(spey_blocks *b, const spey_arch_config *c)
{
    const spey_norm_spec norm = { .kind = "rms", .eps = c->norm_eps };
    spey_mamba_spec mixer = { .inner = c->intermediate,
                              .states = c->mamba.states,
                              .rank = c->mamba.rank,
                              .width = c->mamba.width,
                              .act = c->act,
                              .bias = c->mlp_bias,
                              .conv_bias = c->mamba.conv_bias,
                              .in = "mixer.in_proj",
                              .conv = "mixer.conv1d",
                              .x = "mixer.x_proj",
                              .dt = "mixer.dt_proj",
                              .a_log = "mixer.A_log",
                              .d = "mixer.D",
                              .out = "mixer.out_proj" };
    spey_block_mamba_caches(b, c->layers, &mixer);
    spey_value x = spey_block_embed(b, "backbone.embeddings", c->vocab, c->hidden, 1);
    for (int64_t i = 0; i < c->layers; i++) {
        spey_blocks_enter_layer(b, "backbone.layers.", i);
        mixer.layer = i;
        spey_value normed = spey_block_norm(b, x, "norm", "norm", &norm);
        x = spey_block_add(b, x, spey_block_mamba(b, normed, &mixer), 1);
    }
    spey_blocks_leave_layer(b);
    spey_block_head(b, x,
                    &(spey_head_spec){ .norm = &norm,
                                       .norm_tensor = "backbone.norm_f",
                                       .tensor = c->tied ? NULL : "lm_head",
                                       .vocab = c->vocab });
}

static const char *const hf_names[] = { "MambaForCausalLM", NULL };

const spey_arch spey_arch_mamba = { "mamba", hf_names, NULL, read, draw };
