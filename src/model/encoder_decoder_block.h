/* An encoder and a decoder that attends to it.
 *
 *   encoder  x = x + attention(norm(x));  x = x + mlp(norm(x))          every token sees all
 *   decoder  x = x + attention(norm(x));  x = x + cross(norm(x));  x = x + mlp(norm(x))
 *
 * With norms behind: x = norm(x + branch(x)). The encoder's layers share one layer's memory for keys and values; the last
 * thing that it does is to store those that the decoder's layers attend to. */
#ifndef SPEY_MODEL_ENCODER_DECODER_BLOCK_H
#define SPEY_MODEL_ENCODER_DECODER_BLOCK_H

#include "model/arch.h"

/* One of the two. Names of a layer come after `layers` and its number. */
typedef struct spey_coder_spec {
    const char *layers;
    int64_t n_layers;
    const char *positions;             /* learned ones; NULL: none */
    const char *embed_norm, *end_norm; /* NULL: none */
    const char *relative;              /* tensor of the biases that all layers share; NULL: none */
    const char *attn_norm, *cross_norm, *mlp_norm;
    spey_attention_spec attention; /* cache and layer are filled in */
    spey_attention_spec cross;     /* of the decoder; likewise */
    spey_mlp_spec mlp;
} spey_coder_spec;

typedef struct spey_encoder_decoder_spec {
    const char *embed;
    double embed_scale;      /* 0: none */
    int64_t positions_begin; /* rows before position 0's */
    spey_norm_spec norm;
    bool norms_behind;
    spey_coder_spec encoder, decoder;
    spey_head_spec head; /* norm_tensor and norm are filled in */
} spey_encoder_decoder_spec;

void spey_encoder_decoder_draw(spey_blocks *b, const spey_arch_config *c,
                               const spey_encoder_decoder_spec *spec);

#endif
