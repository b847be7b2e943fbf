/* The decoder that nearly all language models are, with what they differ in as arguments.
 *
 *   sequential   x = x + post(attention(norm(x)));   x = x + post(mlp(norm(x)))
 *   parallel     x = x + attention(norm(x)) + mlp(norm(x))
 *
 * In sparse layers experts, and the shared one where there is one, are in place of the MLP.
 *
 * An architecture takes spey_decoder_defaults, which is Llama, and changes what it does otherwise. */
#ifndef SPEY_MODEL_DECODER_BLOCK_H
#define SPEY_MODEL_DECODER_BLOCK_H

#include "model/arch.h"
#include "model/mla_block.h"
#include "model/moe_block.h"

typedef struct spey_decoder_spec {
    /* Names in the checkpoint; those of a layer come after `layers` and its number. */
    const char *embed, *embed_norm; /* embed_norm NULL: none */
    spey_positions_spec positions;  /* learned ones; sizes are filled in; tensor NULL: none */
    const char *layers;
    /* Before the branches; NULL: none. In parallel without mlp_norm: one norm for both. */
    const char *attn_norm, *mlp_norm;
    const char *attn_post_norm, *mlp_post_norm; /* of the branch, before it is added; NULL: none */
    const char *final_norm, *head;              /* head is not used when tied */
    bool head_bias;
    spey_norm_spec norm;           /* all of the above */
    spey_norm_spec qk_norm;        /* when attention.q_norm is set */
    spey_attention_spec attention; /* cache, layer, window and rope are filled in for each layer */
    double alibi_scale;            /* of the slopes, when attention.alibi is set */
    spey_mlp_spec mlp;
    spey_moe_spec moe;    /* of sparse layers */
    spey_mlp_spec shared; /* its sum is added; down NULL: none */
    spey_mla_spec mla;    /* kv_rank 0: plain attention */
} spey_decoder_spec;

/* Llama's names and blocks with the sizes and quirks of `c`. */
spey_decoder_spec spey_decoder_defaults(const spey_arch_config *c);
/* Layers of one window share a cache group. */
void spey_decoder_draw(spey_blocks *b, const spey_arch_config *c, const spey_decoder_spec *spec);

#endif
