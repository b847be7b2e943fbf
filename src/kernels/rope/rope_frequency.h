/* The frequencies that rope_table uses for a sequence. Host code. The reference has its own. */
#ifndef SPEY_KERNELS_ROPE_ROPE_FREQUENCY_H
#define SPEY_KERNELS_ROPE_ROPE_FREQUENCY_H

#include <math.h>

#include "kernels/rope/rope.h"

/* True when dynamic NTK scaling replaces inv_freq for a sequence of this length; then *base is its base. */
static inline bool spey_rope_dynamic_base(const spey_rope_table_args *a, int64_t kv_len,
                                          double *base)
{
    if (a->dynamic_factor <= 0 || kv_len <= a->original_positions) return false;
    double ratio = (double)kv_len / (double)a->original_positions;
    double dim = (double)(2 * a->half);
    *base = a->base * pow(a->dynamic_factor * ratio - (a->dynamic_factor - 1), dim / (dim - 2));
    return true;
}

static inline float spey_rope_dynamic_frequency(const spey_rope_table_args *a, double base,
                                                int64_t i)
{
    return (float)pow(base, -(double)i / (double)a->half);
}

/* The given frequencies for a sequence of this length, when dynamic scaling does not replace them. */
static inline const float *spey_rope_frequencies(const spey_rope_table_args *a, int64_t kv_len)
{
    return a->inv_freq_long && kv_len > a->long_from ? a->inv_freq_long : a->inv_freq;
}

#endif
