/* The body of rope_table for x86: lanes share tokens. Angles are FP32 products; their sines and cosines are computed in
 * double, because an angle of 10^5 has to be reduced by π/2 to an error far below an FP32 unit of a small sine.
 *
 * angle = n π/2 + r with |r| <= π/4 and π/2 in two doubles: n < 2^27 and one fused multiply-add a piece leave an error
 * of 2^-53 in r. sin r and cos r by the polynomials of fdlibm (k_sin.c, k_cos.c), 2^-53; n mod 4 picks and signs. */
#ifndef SPEY_KERNELS_ROPE_ROPE_TABLE_X86_H
#define SPEY_KERNELS_ROPE_ROPE_TABLE_X86_H

#include <immintrin.h>

#include "device/pool.h"
#include "kernels/rope/rope_frequency.h"

#ifdef __AVX512F__
typedef __m512d wide;
enum { WIDE_LANES = 8 };
#define WIDE(name) _mm512_##name##_pd
#define WIDE_ROUND(x) _mm512_roundscale_pd((x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline wide wide_from_f32(const float *p)
{
    return _mm512_cvtps_pd(_mm256_loadu_ps(p));
}

static inline void wide_to_f32(float *p, wide x)
{
    _mm256_storeu_ps(p, _mm512_cvtpd_ps(x));
}

static inline wide wide_pick(wide x, wide limit, wide below, wide others)
{
    return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x, limit, _CMP_LT_OQ), others, below);
}
#else
typedef __m256d wide;
enum { WIDE_LANES = 4 };
#define WIDE(name) _mm256_##name##_pd
#define WIDE_ROUND(x) _mm256_round_pd((x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

static inline wide wide_from_f32(const float *p)
{
    return _mm256_cvtps_pd(_mm_loadu_ps(p));
}

static inline void wide_to_f32(float *p, wide x)
{
    _mm_storeu_ps(p, _mm256_cvtpd_ps(x));
}

/* below where x < limit, else others. */
static inline wide wide_pick(wide x, wide limit, wide below, wide others)
{
    return _mm256_blendv_pd(others, below, _mm256_cmp_pd(x, limit, _CMP_LT_OQ));
}
#endif

static inline wide wide_set(double x)
{
    return WIDE(set1)(x);
}

/* c[0] + c[1] z + … + c[5] z^5 */
static inline wide wide_polynomial(wide z, const double c[6])
{
    wide p = wide_set(c[5]);
    for (int k = 4; k >= 0; k--)
        p = WIDE(fmadd)(p, z, wide_set(c[k]));
    return p;
}

static inline void wide_sincos(wide x, wide *sine, wide *cosine)
{
    static const double s[6] = { -1.66666666666666324348e-01, 8.33333333332248946124e-03,
                                 -1.98412698298579493134e-04, 2.75573137070700676789e-06,
                                 -2.50507602534068634195e-08, 1.58969099521155010221e-10 };
    static const double c[6] = { 4.16666666666666019037e-02, -1.38888888888741095749e-03,
                                 2.48015872894767294178e-05, -2.75573143513906633035e-07,
                                 2.08757232129817482790e-09, -1.13596475577881948265e-11 };
    wide n = WIDE_ROUND(WIDE(mul)(x, wide_set(0.63661977236758134308)));
    wide r = WIDE(fnmadd)(n, wide_set(1.57079632679489655800e+00), x);
    r = WIDE(fnmadd)(n, wide_set(6.12323399573676603587e-17), r);
    wide z = WIDE(mul)(r, r);
    wide sin_r = WIDE(fmadd)(WIDE(mul)(z, r), wide_polynomial(z, s), r);
    wide cos_r = WIDE(fmadd)(WIDE(mul)(z, z), wide_polynomial(z, c),
                             WIDE(fnmadd)(wide_set(0.5), z, wide_set(1)));
    /* n mod 4 is 0, 1, 2 or 3: sin is sin r, cos r, -sin r, -cos r; cos is one step ahead. */
    wide quarter = WIDE(fnmadd)(wide_set(4), WIDE(floor)(WIDE(mul)(n, wide_set(0.25))), n);
    wide parity = WIDE(fnmadd)(wide_set(2), WIDE(floor)(WIDE(mul)(n, wide_set(0.5))), n);
    wide half = wide_set(0.5), zero = wide_set(0), three_halves = wide_set(1.5);
    wide a = wide_pick(parity, half, sin_r, cos_r), b = wide_pick(parity, half, cos_r, sin_r);
    *sine = wide_pick(quarter, three_halves, a, WIDE(sub)(zero, a));
    /* -1 for n mod 4 in {1, 2} */
    wide middle = WIDE(mul)(WIDE(sub)(quarter, three_halves), WIDE(sub)(quarter, three_halves));
    *cosine = wide_pick(middle, wide_set(1), WIDE(sub)(zero, b), b);
}

/* Cosines and sines of one token's angles. */
static inline void rope_table_row(const spey_rope_table_args *a, int32_t position,
                                  const float *frequencies, float *out)
{
    wide magnitude = wide_set((double)a->magnitude);
    for (int64_t i = 0; i < a->half; i += WIDE_LANES) {
        float angles[WIDE_LANES] = { 0 }, cosines[WIDE_LANES], sines[WIDE_LANES];
        int64_t n = a->half - i < WIDE_LANES ? a->half - i : WIDE_LANES;
        for (int64_t k = 0; k < n; k++)
            angles[k] = (float)position * frequencies[i + k];
        wide sine, cosine;
        wide_sincos(wide_from_f32(angles), &sine, &cosine);
        wide_to_f32(cosines, WIDE(mul)(cosine, magnitude));
        wide_to_f32(sines, WIDE(mul)(sine, magnitude));
        memcpy(out + i, cosines, (size_t)n * sizeof(float));
        memcpy(out + a->half + i, sines, (size_t)n * sizeof(float));
    }
}

static bool supports(const void *args)
{
    return ((const spey_rope_table_args *)args)->half <= SPEY_HEAD_DIM_MAX / 2;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_table_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 4, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            float dynamic[SPEY_HEAD_DIM_MAX / 2];
            int64_t kv_len = a->batch->kv_len[a->batch->token_seq[r]];
            const float *frequencies = spey_rope_frequencies(a, kv_len);
            double base;
            if (spey_rope_dynamic_base(a, kv_len, &base)) {
                frequencies = dynamic;
                for (int64_t i = 0; i < a->half; i++)
                    dynamic[i] = spey_rope_dynamic_frequency(a, base, i);
            }
            rope_table_row(a, a->batch->positions[r], frequencies, a->table + r * 2 * a->half);
        }
    }
}

#endif
