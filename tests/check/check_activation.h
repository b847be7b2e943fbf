/* Bounds of the activation functions, shared by the checks of gemm, glu and unary. */
#ifndef SPEY_TESTS_CHECK_CHECK_ACTIVATION_H
#define SPEY_TESTS_CHECK_CHECK_ACTIVATION_H

#include <math.h>

#include "kernels/activation.h"
#include "kernels/scalar.h"

/* How far a row's activation(z') may be from activation(z) when |z' - z| <= z_error, both in FP32.
 *
 * The input's error passes with the slope, at most 1.13 (GELU near √2), 2 |z| for relu². The function's own error in
 * units u = 2^-24 of FP32: an exp has 4 u of rounding and |argument| u from its rounded argument, and one more division,
 * sum and product each add 1 u. GELU by 1 + erf and by 1 + tanh cancels for negative z, so that its error is one of |z|. */
static inline double check_activation_error(spey_activation activation, double z, double z_error)
{
    const double u = 0x1p-24,
                 tiny = 0x1p-120; /* exp of a large argument may be flushed to 0 or infinity */
    double out = fabs(spey_activate(activation, z)), a = fabs(z);
    switch (activation) {
    case SPEY_ACT_NONE:
    case SPEY_ACT_RELU: return z_error;
    case SPEY_ACT_RELU2: return 2 * (a + z_error) * z_error + u * out;
    case SPEY_ACT_TANH: return z_error + 8 * u * out;
    case SPEY_ACT_SIGMOID: return z_error + (8 + a) * u * out + tiny;
    case SPEY_ACT_SILU:
    case SPEY_ACT_QUICK_GELU: return 1.13 * z_error + (8 + 2 * a) * u * out + tiny;
    default: return 1.13 * z_error + 8 * u * a;
    }
}

#endif
