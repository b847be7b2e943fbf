/* Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC'11), for the host and for kernels. */
#ifndef SPEY_BASE_PHILOX_H
#define SPEY_BASE_PHILOX_H

#include <stdint.h>

/* A function of a header that CUDA kernels call too. */
#ifdef __CUDACC__
#define SPEY_EVERYWHERE static __host__ __device__ __forceinline__
#else
#define SPEY_EVERYWHERE static inline
#endif

/* Four random words for one counter. */
SPEY_EVERYWHERE void spey_philox_words(uint64_t seed, uint64_t stream, uint64_t counter,
                                       uint32_t out[4])
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

#endif
