#include <immintrin.h>

#include "check_impl.h"

double check_ceiling_fma_avx512(int64_t n_loops, float *sink)
{
    enum { CHAINS = 16 };
    __m512 sums[CHAINS], half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    for (int k = 0; k < CHAINS; k++)
        sums[k] = _mm512_setzero_ps();
    for (int64_t i = 0; i < n_loops; i++)
        for (int k = 0; k < CHAINS; k++)
            sums[k] = _mm512_fmadd_ps(sums[k], half, one);
    __m512 sum = sums[0];
    for (int k = 1; k < CHAINS; k++)
        sum = _mm512_add_ps(sum, sums[k]);
    float parts[16];
    _mm512_storeu_ps(parts, sum);
    *sink = parts[0];
    return (double)n_loops * CHAINS * 16 * 2;
}
