/* RoPE frequencies as Hugging Face transformers 5 computes them, in FP32: default, linear, dynamic, llama3, yarn and
 * longrope (transformers/modeling_rope_utils.py). */
#ifndef SPEY_MODEL_ROPE_SCALING_H
#define SPEY_MODEL_ROPE_SCALING_H

#include "model/config.h"

typedef enum spey_rope_type {
    SPEY_ROPE_DEFAULT,
    SPEY_ROPE_LINEAR,
    SPEY_ROPE_DYNAMIC,
    SPEY_ROPE_LLAMA3,
    SPEY_ROPE_YARN,
    SPEY_ROPE_LONGROPE,
} spey_rope_type;

enum { SPEY_ROPE_HALF_MAX = SPEY_HEAD_DIM_MAX / 2 };

typedef struct spey_rope_config {
    spey_rope_type type;
    int64_t rotary; /* rotated elements of a head; even */
    double theta;
    double factor;
    int64_t original;                         /* positions the model was first trained for */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    bool truncate;
    double magnitude; /* of cos and sin: yarn, longrope */
    float short_factor[SPEY_ROPE_HALF_MAX], long_factor[SPEY_ROPE_HALF_MAX];
} spey_rope_config;

/* Read the spellings of transformers 4 (rope_theta, rope_scaling with "type" or "rope_type") and 5 (rope_parameters).
 * `theta` is the default base, `rotary` the rotated elements of a head. `layer_type`: the entry of rope_parameters when those are kept per layer type ("full_attention"); else NULL. */
void spey_rope_read(spey_config *config, const char *layer_type, double theta, int64_t rotary,
                    spey_rope_config *out);

/* Which part of a head is rotated: partial_rotary_factor (or rotary_pct) of `head_dim`, rounded down as int() does. */
int64_t spey_rope_read_rotary(spey_config *config, int64_t head_dim, double missing);

/* inv_freq[rotary / 2]; longrope: `extended` chooses the long factors. */
void spey_rope_frequencies(const spey_rope_config *rope, bool extended, float *inv_freq);

#endif
