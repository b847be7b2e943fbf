/* splitmix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014), for the host and for kernels. */
#ifndef SPEY_BASE_SPLITMIX_H
#define SPEY_BASE_SPLITMIX_H

#include "base/philox.h"

/* What a generator in this state gives next. */
SPEY_EVERYWHERE uint64_t spey_splitmix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

#endif
