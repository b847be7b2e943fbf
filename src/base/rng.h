/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
 * SC'11). The number depends on (seed, stream, counter) alone, so a draw is the same whatever runs beside it. */
#ifndef SPEY_BASE_RNG_H
#define SPEY_BASE_RNG_H

#include <stdint.h>

/* Four random words for one counter. */
void spey_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);
/* Uniform in [0, 1) with 53 bits. */
double spey_philox_uniform(uint64_t seed, uint64_t stream, uint64_t counter);

/* A small sequential generator over Philox, for tests and fills. */
typedef struct spey_rng {
    uint64_t seed;
    uint64_t counter;
} spey_rng;
uint64_t spey_rng_next(spey_rng *rng);
/* Uniform in [0, n); n > 0. */
uint64_t spey_rng_below(spey_rng *rng, uint64_t n);
/* Uniform in [low, high). */
double spey_rng_range(spey_rng *rng, double low, double high);
/* Standard normal (Box–Muller). */
double spey_rng_normal(spey_rng *rng);

#endif
