/* Rotary position embedding (Su et al., "RoFormer", 2021) in three ops.
 *
 * rope_table: cos and sin of every token's angles, once per step, shared by all layers:
 *     angle[i] = position * inv_freq[i]            i < half = rotary_dim / 2
 *     table[r] = cos(angle[0…half)) * magnitude, sin(angle[0…half)) * magnitude        [rows, 2 * half] F32
 *   Angles are products in FP32 as Hugging Face computes them; cos and sin are right to FP32. inv_freq_long, when not
 *   NULL, replaces inv_freq for sequences with kv_len > long_from (LongRoPE). dynamic_factor > 0 is dynamic NTK
 *   scaling: for a sequence whose kv_len L exceeds original_positions P, inv_freq[i] = b^(-2i / rotary_dim) with
 *     b = base * (dynamic_factor * L / P - (dynamic_factor - 1)) ^ (rotary_dim / (rotary_dim - 2)).
 *
 * rope: rotates the first rotary_dim elements of each head, copies the others.
 *   HALF         pairs (i, i + half)      (Llama, NeoX)
 *   INTERLEAVED  pairs (2i, 2i + 1)       (GPT-J)
 *     out[a] = x[a] cos - x[b] sin,  out[b] = x[b] cos + x[a] sin
 *   out may be x.
 *
 * rope_append: rope on Q and K of a fused row [Q heads | K heads | V heads], Q to q_out, K and V to the cache at each
 *   token's index, converted to the cache's dtype (round to nearest even; 8 bits: kernels/kv_bytes.h). q_out may lie in place of Q. */
#ifndef SPEY_KERNELS_ROPE_ROPE_H
#define SPEY_KERNELS_ROPE_ROPE_H

#include "kernels/ragged.h"

typedef enum spey_rope_pairing { SPEY_ROPE_HALF, SPEY_ROPE_INTERLEAVED } spey_rope_pairing;

typedef struct spey_rope_table_args {
    int64_t rows;
    const spey_ragged *batch; /* positions, token_seq, kv_len */
    const float *inv_freq;    /* [half] */
    const float *inv_freq_long;
    int64_t long_from;
    int64_t half;
    float magnitude;
    double dynamic_factor; /* 0: off */
    double base;
    int64_t original_positions;
    float *table; /* [rows, 2 * half], dense */
} spey_rope_table_args;

typedef struct spey_rope_args {
    int64_t rows;
    int64_t n_heads;
    int64_t head_dim;
    int64_t rotary_dim; /* even, <= head_dim */
    spey_rope_pairing pairing;
    const float *table; /* [rows, rotary_dim] */
    const void *x;
    int64_t x_pitch;
    void *out;
    int64_t out_pitch;
    spey_dtype dtype; /* of x and out */
} spey_rope_args;

typedef struct spey_rope_append_args {
    int64_t rows;
    int64_t n_heads;
    int64_t n_kv_heads;
    int64_t head_dim;
    int64_t rotary_dim; /* 0: no rotation, table unused */
    spey_rope_pairing pairing;
    const float *table;
    const spey_ragged *batch;
    const void *qkv; /* [rows, (n_heads + 2 n_kv_heads) * head_dim] */
    int64_t qkv_pitch;
    void *q_out; /* [rows, n_heads * head_dim] */
    int64_t q_pitch;
    spey_dtype dtype; /* of qkv and q_out */
    spey_kv_view kv;
} spey_rope_append_args;

#endif
