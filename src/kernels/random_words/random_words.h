/* random_words: out[i] = (spey_splitmix(seed + i) & keep) | set, words of 64 bits, i from 0. Makes up weights: `keep` says which bits are random.
 *
 * Bit exact. out is 8-byte aligned; rows == 0 touches nothing. */
#ifndef SPEY_KERNELS_RANDOM_WORDS_RANDOM_WORDS_H
#define SPEY_KERNELS_RANDOM_WORDS_RANDOM_WORDS_H

#include <stdint.h>

typedef struct spey_random_words_args {
    int64_t rows; /* words */
    uint64_t *out;
    uint64_t seed;
    uint64_t keep, set;
} spey_random_words_args;

#endif
