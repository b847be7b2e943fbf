#include "base/rng.h"

#include <math.h>

#include "base/philox.h"

void spey_philox(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    spey_philox_words(seed, stream, counter, out);
}

static double to_unit(uint32_t high, uint32_t low)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

double spey_philox_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t w[4];
    spey_philox(seed, stream, counter, w);
    return to_unit(w[0], w[1]);
}

uint64_t spey_rng_next(spey_rng *rng)
{
    uint32_t w[4];
    spey_philox(rng->seed, 0, rng->counter++, w);
    return (uint64_t)w[0] << 32 | w[1];
}

uint64_t spey_rng_below(spey_rng *rng, uint64_t n)
{
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)(((wide)spey_rng_next(rng) * n) >> 64);
}

double spey_rng_range(spey_rng *rng, double low, double high)
{
    return low + (high - low) * ((double)(spey_rng_next(rng) >> 11) * 0x1p-53);
}

double spey_rng_normal(spey_rng *rng)
{
    uint32_t w[4];
    spey_philox(rng->seed, 0, rng->counter++, w);
    double u = 1.0 - to_unit(w[0], w[1]), v = to_unit(w[2], w[3]);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}
