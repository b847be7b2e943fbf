/* What a logit weighs in a draw, in whole numbers. Sums of whole numbers are the same in every order, so every
 * implementation draws the same token, bit for bit, on a CPU as on a GPU.
 *
 *   key     surprise against the best logit, in units of 2^-24 bits: floor(2^24 · (best - x) · slope), slope = log2(e) /
 *           temperature; FP32 operations, each rounded once. What is 64 bits away or more, as -infinity is, has the largest
 *           key.
 *   weight  2^40 · 2^(-key / 2^24), within 2^-26 of it and rounded down; 0 from 41 bits on. It never grows with the key.
 *
 * 2^22 (SPEY_VOCAB_MAX) weights do not overflow 64 bits. */
#ifndef SPEY_KERNELS_SAMPLE_SAMPLE_WEIGHT_H
#define SPEY_KERNELS_SAMPLE_SAMPLE_WEIGHT_H

#include <math.h>
#include <stdint.h>

#include "base/philox.h"

enum {
    SPEY_SAMPLE_KEY_BITS = 30,
    SPEY_SAMPLE_KEY_FRACTION_BITS = 24,
    SPEY_SAMPLE_WEIGHT_BITS = 40, /* the best one weighs 2^40 */
};

SPEY_EVERYWHERE float spey_sample_slope(double temperature)
{
    double slope = 1.4426950408889634 / temperature;
    return slope < 1e30 ? (float)slope : 1e30f; /* times a distance of 0 it is 0 */
}

SPEY_EVERYWHERE uint32_t spey_sample_key(float best, float x, float slope)
{
    float bits = (best - x) * slope;
    return bits < 64.0f ? (uint32_t)(bits * 16777216.0f) : (1u << SPEY_SAMPLE_KEY_BITS) - 1;
}

/* The high half of a product. */
SPEY_EVERYWHERE uint32_t spey_sample_product(uint32_t a, uint32_t b)
{
#ifdef __CUDA_ARCH__
    return __umulhi(a, b); /* one instruction: the product of 64 bits takes three */
#else
    return (uint32_t)((uint64_t)a * b >> 32);
#endif
}

/* 2^-f = 1 - f · q(f): q interpolates at the Chebyshev nodes of [0, 1], all in units of 2^-32. */
SPEY_EVERYWHERE uint64_t spey_sample_weight(uint32_t key)
{
    const uint32_t f = key << (32 - SPEY_SAMPLE_KEY_FRACTION_BITS);
    uint32_t q = 5547538u - spey_sample_product(493577u, f);
    q = 41218952u - spey_sample_product(q, f);
    q = 238367376u - spey_sample_product(q, f);
    q = 1031763206u - spey_sample_product(q, f);
    q = 2977044447u - spey_sample_product(q, f);
    const uint64_t mantissa = (1u << 31) - (spey_sample_product(q, f) >> 1);
    return mantissa << (SPEY_SAMPLE_WEIGHT_BITS - 31) >> (key >> SPEY_SAMPLE_KEY_FRACTION_BITS);
}

/* The least mass that a share of `total` means: at least 1, at most all. */
SPEY_EVERYWHERE uint64_t spey_sample_goal(double share, uint64_t total)
{
    const uint64_t goal = (uint64_t)ceil(share * (double)total);
    return goal < 1 ? 1 : goal > total ? total : goal;
}

/* The least weight that min_p lets pass. */
SPEY_EVERYWHERE uint64_t spey_sample_least(double min_p)
{
    return (uint64_t)ceil(min_p * (double)(UINT64_C(1) << SPEY_SAMPLE_WEIGHT_BITS));
}

/* Where draw `index` of `seed` falls in [0, total). */
SPEY_EVERYWHERE uint64_t spey_sample_point(uint64_t seed, uint64_t index, uint64_t total)
{
    uint32_t words[4];
    spey_philox_words(seed, 0, index, words);
    const uint64_t random = (uint64_t)words[0] << 32 | words[1];
#ifdef __CUDA_ARCH__
    return __umul64hi(random, total);
#else
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)(((wide)random * total) >> 64);
#endif
}

#endif
