/* Rotation of one head, shared by the references of rope and rope_append. */
#ifndef SPEY_KERNELS_ROPE_ROPE_ROTATE_REF_H
#define SPEY_KERNELS_ROPE_ROPE_ROTATE_REF_H

#include <string.h>

#include "kernels/rope/rope.h"
#include "kernels/scalar.h"

/* out[0 … head_dim) of out_dtype from x of dtype; out may be x. `table`: the token's half cosines and half sines. */
static inline void spey_rope_rotate_ref(const void *x, spey_dtype dtype, int64_t head_dim,
                                        int64_t rotary_dim, spey_rope_pairing pairing,
                                        const float *table, void *out, spey_dtype out_dtype)
{
    int64_t half = rotary_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        int64_t a = pairing == SPEY_ROPE_HALF ? i : 2 * i;
        int64_t b = pairing == SPEY_ROPE_HALF ? i + half : 2 * i + 1;
        double cosine = (double)table[i], sine = (double)table[half + i];
        double xa = spey_load(x, dtype, a), xb = spey_load(x, dtype, b);
        spey_store(out, out_dtype, a, xa * cosine - xb * sine);
        spey_store(out, out_dtype, b, xb * cosine + xa * sine);
    }
    for (int64_t i = rotary_dim; i < head_dim; i++)
        spey_store(out, out_dtype, i, spey_load(x, dtype, i));
}

#endif
