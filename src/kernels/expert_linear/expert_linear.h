/* expert_linear: linear layers chosen row by row. A row has n_slots slots; slot s goes through matrix e(s) of a stack:
 *
 *   p[r, s] = x[r, s] · w[e]ᵀ + bias[e]         e = the expert that routing names, without routing s itself
 *   y[r, s] = p[r, s], or with sum              y[r] = Σ_s weight[r, s] · p[r, s], in the order of slots
 *
 *   x        [rows, n_slots · k], or with x_shared [rows, k] for all slots; pitch in elements
 *   w        [n_experts, n, k] F32, F16, BF16 or E4M3, dense
 *   w_scale  F32 [n_experts, n], of E4M3 weights alone
 *   bias     F32 [n_experts, n] or NULL
 *   routing  F32 [rows, 2 · n_slots] without padding, as route leaves it: weights, then different numbers below
 *            n_experts; or NULL: n_slots is n_experts
 *   y        [rows, n_slots · n], with sum [rows, n]; does not overlap x
 *
 * precision, x_quant, and what they say about errors, as in gemm.h. Batch invariance: on one row of this op a token's result has
 * the same bits whatever else is in the batch. rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_EXPERT_LINEAR_EXPERT_LINEAR_H
#define SPEY_KERNELS_EXPERT_LINEAR_EXPERT_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/gemm/gemm.h"

typedef struct spey_expert_linear_args {
    int64_t rows;
    int64_t n_experts;
    int64_t n_slots;
    int64_t n;
    int64_t k;
    const void *x;
    int64_t x_pitch;
    bool x_shared;
    const void *w;
    spey_dtype w_dtype;
    const float *w_scale;
    spey_input_quant x_quant;
    const float *x_scale; /* SPEY_INPUT_STATIC */
    const float *bias;
    const float *routing;
    bool sum; /* needs routing */
    spey_precision precision;
    spey_dtype dtype; /* of x and y */
    void *y;
    int64_t y_pitch;
    void *workspace; /* as many bytes as the row asks for, 64-byte aligned */
} spey_expert_linear_args;

#endif
