/* Copies of rows in the widest unit that their addresses allow. */
#ifndef SPEY_KERNELS_CUDA_MOVE_CUH
#define SPEY_KERNELS_CUDA_MOVE_CUH

#include <stdint.h>

/* The largest of 16, 4 and 2 bytes that divides all of these bits (addresses, pitches and lengths in bytes, or'd). */
static inline int common_unit(uint64_t bits)
{
    return bits % 16 == 0 ? 16 : bits % 4 == 0 ? 4 : 2;
}

static inline uint64_t address_bits(const void *p)
{
    return reinterpret_cast<uintptr_t>(p);
}

#endif
