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
    bool tied;             /* the LM head is the embedding */
    bool qkv_bias, o_bias; /* of attention's linears */
    bool mlp_bias;
    int64_t windows[SPEY_LAYERS_MAX]; /* attention window of each layer; 0: none */
    spey_rope_config rope;
} spey_arch_config;

typedef struct spey_arch {
    const char *name;            /* "llama" */
    const char *const *hf_names; /* as in "architectures"; NULL-terminated */
    const char *const *
        ignored; /* checkpoint tensors without use, patterns of fnmatch(3); NULL or NULL-terminated */
    void (*read)(spey_config *config, spey_arch_config *out);
    void (*draw)(spey_blocks *blocks, const spey_arch_config *config);
} spey_arch;

/* The keys that most decoders share: vocab_size, hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
 * head_dim, intermediate_size, max_position_embeddings, hidden_act, tie_word_embeddings (missing: `tied`). Checks that heads
 * divide. */
void spey_arch_read_decoder(spey_config *config, bool tied, spey_arch_config *out);

/* Every layer has the window of "sliding_window", or none. */
void spey_arch_read_window(spey_config *config, spey_arch_config *out);

#define SPEY_ARCH(name) extern const spey_arch spey_arch_##name;
#include "model/archs.def"
#undef SPEY_ARCH

#endif
