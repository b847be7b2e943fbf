/* kv_append: K and V rows of every token of the step into the paged cache, at the token's index, converted to the
 * cache's dtype (round to nearest even; 8 bits: kernels/kv_bytes.h).
 *
 *   k  [rows, n_heads * k_dim], v  [rows, n_heads * v_dim], pitches in elements
 * Only the named slots of the cache, and their scales, are written. */
#ifndef SPEY_KERNELS_KV_APPEND_KV_APPEND_H
#define SPEY_KERNELS_KV_APPEND_KV_APPEND_H

#include "kernels/ragged.h"

typedef struct spey_kv_append_args {
    int64_t rows;
    int64_t n_heads; /* KV heads */
    int64_t k_dim;
    int64_t v_dim;
    const spey_ragged *batch;
    const void *k;
    int64_t k_pitch;
    const void *v;
    int64_t v_pitch;
    spey_dtype dtype; /* of k and v */
    spey_kv_view kv;
} spey_kv_append_args;

#endif
