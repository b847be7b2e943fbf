/* What an architecture is: its names, how it reads config.json, how it draws its graph. docs/adding-a-model.md walks
 * through one. */
#ifndef SPEY_MODEL_ARCH_H
#define SPEY_MODEL_ARCH_H

#include "model/blocks.h"
#include "model/config.h"
#include "model/rope_scaling.h"

/* The sizes and quirks of one model. An architecture fills in what it has; 0 and NULL mean "without". */
typedef struct spey_arch_config {
    const char *hf_name; /* entry of "architectures" that led here */
    int64_t vocab, hidden, layers, intermediate;
    int64_t heads, kv_heads, head_dim;
    int64_t positions; /* context length */
    const char *act;   /* of the MLP; a constant */
    double norm_eps;
    bool tied;                       /* the LM head is the embedding */
    bool exact;                      /* see spey_model_info */
    bool qkv_bias, o_bias, mlp_bias; /* of linears */
    bool parallel;                   /* attention and MLP read the same x */
    bool separate_norms;             /* falcon: a norm each, when parallel */
    bool alibi;
    int64_t windows[SPEY_LAYERS_MAX]; /* attention window of each layer; 0: none */
    spey_rope_config rope;            /* rotary 0: none */
    spey_rope_config local_rope;      /* of layers with a window; rotary 0: as the others */
    int32_t forced_eos; /* what generate() ends with when nothing is said; 0: nothing */
    double embed_scale, residual_scale, attention_scale, logit_scale; /* 0: the usual */
    double attention_softcap, logit_softcap;
    /* Mixture of experts, in the layers that are sparse. */
    bool sparse[SPEY_LAYERS_MAX];
    int64_t experts, expert_top_k, expert_intermediate;
    int64_t shared_intermediate; /* of the experts that all tokens go through, together */
    bool route_normalise;
    double route_scale, expert_limit;
    int64_t route_groups, route_top_groups;
    /* Latent attention: head_dim is nope_dim + rope.rotary. */
    int64_t q_rank, kv_rank, nope_dim;
    int64_t v_dim;    /* of a head */
    bool interleaved; /* RoPE's pairs */
    struct {
        int64_t states, rank, width;
        bool conv_bias;
    } mamba; /* mixers in place of attention and MLP */
    /* An encoder; the fields above are then the decoder's. layers 0: none. */
    struct {
        int64_t layers, heads, intermediate;
        int64_t buckets, distance; /* of relative biases; 0: none */
        bool gated;                /* MLPs, both */
    } encoder;
} spey_arch_config;

typedef struct spey_arch {
    const char *name;            /* "llama" */
    const char *const *hf_names; /* as in "architectures"; NULL-terminated */
    /* Checkpoint tensors without use, patterns of fnmatch(3); NULL or NULL-terminated. */
    const char *const *ignored;
    void (*read)(spey_config *config, spey_arch_config *out);
    void (*draw)(spey_blocks *blocks, const spey_arch_config *config);
} spey_arch;

/* What a configuration leaves out. */
typedef struct spey_decoder_missing {
    int64_t head_dim; /* 0: hidden_size / num_attention_heads */
    bool tied;
    const char *act; /* NULL: "silu" */
} spey_decoder_missing;

/* The keys that most decoders share, under all their spellings: vocab_size, hidden_size, num_hidden_layers,
 * num_attention_heads, num_key_value_heads, head_dim, intermediate_size, max_position_embeddings, hidden_act,
 * tie_word_embeddings. A missing intermediate_size is four times hidden_size. Checks that heads divide. `missing` may be
 * NULL. */
void spey_arch_read_decoder(spey_config *config, const spey_decoder_missing *missing,
                            spey_arch_config *out);

/* "sliding_window" of every layer; none when it is null. */
void spey_arch_read_window(spey_config *config, int64_t missing, spey_arch_config *out);
/* `window` for the layers that "layer_types" calls sliding; without it, for those i where (i + 1) % full_every != 0. */
void spey_arch_read_layer_windows(spey_config *config, int64_t window, int64_t full_every,
                                  spey_arch_config *out);
/* What a configuration of experts leaves out. */
typedef struct spey_experts_missing {
    int64_t experts, top_k;
    int64_t intermediate; /* 0: intermediate_size */
} spey_experts_missing;

/* Experts of every layer: "num_experts|num_local_experts|n_routed_experts", "num_experts_per_tok" and
 * "moe_intermediate_size". Checks that they fit. */
void spey_arch_read_experts(spey_config *config, const spey_experts_missing *missing,
                            spey_arch_config *out);
/* A flag that the drawing does not follow: true is SPEY_UNSUPPORTED. */
void spey_arch_refuse(spey_config *config, const char *key);

#define SPEY_ARCH(name) extern const spey_arch spey_arch_##name;
#include "model/archs.def"
#undef SPEY_ARCH

#endif
