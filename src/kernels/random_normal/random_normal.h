/* random_normal: out[e] = z(e) · scale, numbers distributed about normally, whose mean is 0. Makes up weights.
 *
 * Elements take 16 bits each, F32 ones 32, of the words spey_splitmix(seed + i), i from 0, low bits first. Of these bits the
 * high 8 are counted, the others are a fraction:
 *
 *   z = number of ones + (fraction + 1/2) / 2^(width of the fraction) - 9/2
 *
 * a binomial distribution whose steps are filled evenly: |z| < 9/2, deviation sqrt(25/12). F32 operations, each rounded once: z,
 * its product with scale, and that to the type (E4M3 saturates). Bit exact.
 *
 * out is 8-byte aligned; rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_RANDOM_NORMAL_RANDOM_NORMAL_H
#define SPEY_KERNELS_RANDOM_NORMAL_RANDOM_NORMAL_H

#include <stdint.h>

#include "tensor/dtype.h"

#define SPEY_RANDOM_NORMAL_DEVIATION 1.443375673f /* of z */

typedef struct spey_random_normal_args {
    int64_t rows; /* words of 64 bits of out */
    void *out;
    uint64_t seed;
    float scale;
    spey_dtype dtype; /* F32, F16, BF16 or E4M3 */
} spey_random_normal_args;

#endif
