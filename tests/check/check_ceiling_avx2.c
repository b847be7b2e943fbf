#include <immintrin.h>

#include "check_impl.h"

double check_ceiling_fma_avx2(int64_t n_loops, float *sink)
{
    enum { CHAINS = 12 };
    __m256 sums[CHAINS], half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
    for (int k = 0; k < CHAINS; k++)
        sums[k] = _mm256_setzero_ps();
    for (int64_t i = 0; i < n_loops; i++)
        for (int k = 0; k < CHAINS; k++)
            sums[k] = _mm256_fmadd_ps(sums[k], half, one);
    __m256 sum = sums[0];
    for (int k = 1; k < CHAINS; k++)
        sum = _mm256_add_ps(sum, sums[k]);
    float parts[8];
    _mm256_storeu_ps(parts, sum);
    *sink = parts[0];
    return (double)n_loops * CHAINS * 8 * 2;
}
