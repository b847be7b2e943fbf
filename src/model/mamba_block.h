/* The mixer of Mamba (Gu, Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023):
 *
 *   u | z = in(x)                        inner | inner
 *   u = silu(conv(u))                    along the tokens
 *   dt | b | c = x_proj(u)               rank | states | states
 *   y = scan(u, dt_proj(dt), b, c)       kernels/selective_scan
 *   out(y * silu(z)) */
#ifndef SPEY_MODEL_MAMBA_BLOCK_H
#define SPEY_MODEL_MAMBA_BLOCK_H

#include "model/blocks.h"

typedef struct spey_mamba_spec {
    int64_t inner, states, rank, width;
    const char *act;
    bool bias, conv_bias; /* of in and out; of the convolution */
    const char *in, *conv, *x, *dt, *a_log, *d, *out;
    int conv_cache, scan_cache; /* from spey_block_mamba_caches */
    int64_t layer;              /* in both */
} spey_mamba_spec;

/* Declare the two groups of states that `layers` mixers carry. */
void spey_block_mamba_caches(spey_blocks *b, int64_t layers, spey_mamba_spec *spec);
/* The weights are "mixer.in", "mixer.conv", … */
spey_value spey_block_mamba(spey_blocks *b, spey_value x, const spey_mamba_spec *spec);

#endif
