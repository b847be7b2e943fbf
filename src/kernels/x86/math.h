/* exp, tanh, erf and the activations over `vec`. Errors, in units of the last place (ulp), were measured over
 * every 37th float against libm in double. */
#ifndef SPEY_KERNELS_X86_MATH_H
#define SPEY_KERNELS_X86_MATH_H

#include <stdbool.h>

#include "kernels/activation.h"
#include "kernels/x86/vec.h"
#include "tensor/dtype.h"

/* n elements (0 <= n <= lanes) from or to an F32, F16 or BF16 array at element i; other lanes read as 0. */
static inline vec vec_load_n(const void *array, spey_dtype dtype, int64_t i, int64_t n)
{
    const float *f = (const float *)array + i;
    const uint16_t *h = (const uint16_t *)array + i;
    const bool whole = n == VEC_LANES; /* masks cost more than the branch */
    if (dtype == SPEY_F32) return whole ? vec_load_f32(f) : vec_load_f32_n(f, n);
    if (dtype == SPEY_BF16) return whole ? vec_load_bf16(h) : vec_load_bf16_n(h, n);
    return whole ? vec_load_f16(h) : vec_load_f16_n(h, n);
}

static inline void vec_store_n(void *array, spey_dtype dtype, int64_t i, vec a, int64_t n)
{
    if (dtype == SPEY_F32 && n == VEC_LANES)
        vec_store_f32((float *)array + i, a);
    else if (dtype == SPEY_F32)
        vec_store_f32_n((float *)array + i, a, n);
    else if (dtype == SPEY_BF16)
        vec_store_bf16_n((uint16_t *)array + i, a, n);
    else
        vec_store_f16_n((uint16_t *)array + i, a, n);
}

/* e^x, 1.3 ulp where the result is normal; 0 below -104, infinity above 88.73, NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two pieces so that n ln 2 is exact; e^r by its polynomial of degree 6 (Cephes expf). */
static inline vec vec_exp(vec x)
{
    /* Operand order: a NaN in x passes min and max. */
    x = vec_min(vec_set1(89.0f), vec_max(vec_set1(-105.0f), x));
    vec n = vec_round(vec_mul(x, vec_set1(1.44269504088896341f)));
    vec r = vec_fnma(n, vec_set1(0.693359375f), x);
    r = vec_fnma(n, vec_set1(-2.12194440e-4f), r);
    vec p = vec_set1(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set1(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set1(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set1(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set1(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set1(5.0000001201e-1f));
    p = vec_fma(p, vec_mul(r, r), vec_add(r, vec_set1(1.0f)));
    return vec_ldexp(p, n);
}

/* tanh, 1.4 ulp: an odd polynomial near 0 (Cephes tanhf), 1 - 2 / (e^2|x| + 1) beyond. */
static inline vec vec_tanh(vec x)
{
    vec a = vec_abs(x), s = vec_mul(x, x);
    vec p = vec_set1(-5.70498872745e-3f);
    p = vec_fma(p, s, vec_set1(2.06390887954e-2f));
    p = vec_fma(p, s, vec_set1(-5.37397155531e-2f));
    p = vec_fma(p, s, vec_set1(1.33314422036e-1f));
    p = vec_fma(p, s, vec_set1(-3.33332819422e-1f));
    p = vec_fma(vec_mul(p, s), x, x);
    vec e = vec_exp(vec_add(a, a));
    vec one = vec_set1(1.0f);
    vec far = vec_sub(one, vec_div(vec_set1(2.0f), vec_add(e, one)));
    return vec_select(vec_less(a, vec_set1(0.625f)), p, vec_copysign(far, x));
}

static inline vec vec_sigmoid(vec x)
{
    vec one = vec_set1(1.0f);
    return vec_div(one, vec_add(one, vec_exp(vec_sub(vec_zero(), x))));
}

/* erf, 1.1 ulp (after N. Juffa): an odd polynomial near 0, 1 - exp(polynomial) beyond; 1 from 4 on. */
static inline vec vec_erf(vec x)
{
    vec t = vec_min(vec_set1(4.0f), vec_abs(x)), s = vec_mul(t, t);
    vec u = vec_fma(vec_set1(-3.88396438e-3f), t, vec_set1(2.42546219e-2f));
    vec r = vec_fma(vec_set1(-1.72853470e-5f), t, vec_set1(3.83197126e-4f));
    r = vec_fma(r, s, u);
    r = vec_fma(r, t, vec_set1(-1.06777877e-1f));
    r = vec_fma(r, t, vec_set1(-6.34846687e-1f));
    r = vec_fma(r, t, vec_set1(-1.28717512e-1f));
    r = vec_sub(vec_fma(r, t, vec_zero()), t);
    vec far = vec_sub(vec_set1(1.0f), vec_exp(r));
    vec p = vec_set1(-5.96761703e-4f);
    p = vec_fma(p, s, vec_set1(4.99119423e-3f));
    p = vec_fma(p, s, vec_set1(-2.67681349e-2f));
    p = vec_fma(p, s, vec_set1(1.12819925e-1f));
    p = vec_fma(p, s, vec_set1(-3.76125336e-1f));
    p = vec_fma(p, s, vec_set1(1.28379166e-1f));
    p = vec_fma(p, x, x);
    return vec_select(vec_less(t, vec_set1(0.927734375f)), p, vec_copysign(far, x));
}

/* x / (1 + e^(-c x)), relative error of a few ulp and c |x| u of the argument. */
static inline vec vec_swish(vec x, vec argument)
{
    return vec_div(x, vec_add(vec_set1(1.0f), vec_exp(vec_sub(vec_zero(), argument))));
}

/* Errors: a few ulp of the result, but for GELU of |x| (1 + erf cancels for negative x). */
static inline vec vec_activate(spey_activation activation, vec x)
{
    const float sqrt_half = 0.70710678118654752f, sqrt_8_over_pi = 1.59576912160573071f;
    vec s;
    switch (activation) {
    case SPEY_ACT_SILU: return vec_swish(x, x);
    case SPEY_ACT_GELU:
        s = vec_add(vec_set1(1.0f), vec_erf(vec_mul(x, vec_set1(sqrt_half))));
        return vec_mul(vec_mul(vec_set1(0.5f), x), s);
    case SPEY_ACT_GELU_TANH: /* (1 + tanh z) / 2 = 1 / (1 + e^(-2z)), which does not cancel */
        s = vec_mul(vec_mul(x, x), vec_set1(0.044715f));
        return vec_swish(x, vec_mul(vec_set1(sqrt_8_over_pi), vec_fma(s, x, x)));
    case SPEY_ACT_RELU: return vec_max(vec_zero(), x); /* NaN stays */
    case SPEY_ACT_RELU2: x = vec_max(vec_zero(), x); return vec_mul(x, x);
    case SPEY_ACT_SIGMOID: return vec_sigmoid(x);
    case SPEY_ACT_TANH: return vec_tanh(x);
    case SPEY_ACT_QUICK_GELU: return vec_swish(x, vec_mul(x, vec_set1(1.702f)));
    default: return x;
    }
}

#endif
