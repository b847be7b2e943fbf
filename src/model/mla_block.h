/* Multi-head latent attention (DeepSeek-V2, 2024): K and V of all heads are projections of one small latent, beside one
 * rotated key that all heads share.
 *
 *   q = q_b(norm(q_a(x))), or q(x)         per head: nope | rotary
 *   c | key = kv_a(x), latent = norm(c)    kv_rank | rotary
 *   k | v = kv_b(latent)                   per head: nope | v_dim
 *   attention of q's nope | rotate(rotary) over k | rotate(key), v
 *
 * It is drawn in the absorbed form: q · k is (k_upᵀ q) · latent, and the sum of v is v_up of the sum of latents. So one head
 * of latent | rotate(key) and latent is all that the cache holds, 37 times less in DeepSeek-V3 than K and V of all heads. The
 * price is longer heads in attention, which a prompt feels and a single token does not. */
#ifndef SPEY_MODEL_MLA_BLOCK_H
#define SPEY_MODEL_MLA_BLOCK_H

#include "model/blocks.h"

typedef struct spey_mla_spec {
    int64_t q_rank; /* 0: q is one matrix */
    int64_t kv_rank, nope;
    const char *q_a, *q_norm, *q_b; /* or attention's q */
    const char *kv_a, *kv_norm, *kv_b;
    const spey_norm_spec *norm;
    bool bias; /* of q_a and kv_a */
} spey_mla_spec;

/* What is not MLA's own is attention's: heads, rotary, pairing, rope, scale, v_dim (of kv_b), cache, layer, q, o. The cache
 * has one head, of kv_rank + rotary and kv_rank. */
spey_value spey_block_mla(spey_blocks *b, spey_value x, const spey_attention_spec *attention,
                          const spey_mla_spec *mla);

#endif
