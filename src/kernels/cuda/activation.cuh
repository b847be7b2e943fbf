/* Activation functions in FP32. Written so that the error is relative also where 1 + tanh or 1 + erf would cancel. */
#ifndef SPEY_KERNELS_CUDA_ACTIVATION_CUH
#define SPEY_KERNELS_CUDA_ACTIVATION_CUH

#include "kernels/activation.h"

static __device__ __forceinline__ float sigmoid_f32(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* By the fast exp, which rounds its argument times log2 e, and the fast inverse (tests/check/check_activation.h counts
 * both): a third of the instructions, and with them gates are bound by memory. */
static __device__ __forceinline__ float silu_f32(float x)
{
    float inverse;
    asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + __expf(-x)));
    return x * inverse;
}

/* `kind` is the same for a whole launch: the branch costs little beside the memory traffic. */
static __device__ __forceinline__ float activate(float x, spey_activation kind)
{
    switch (kind) {
    case SPEY_ACT_SILU: return silu_f32(x);
    case SPEY_ACT_GELU: return 0.5f * x * erfcf(-0.70710678118654752f * x);
    case SPEY_ACT_GELU_TANH: /* 0.5 (1 + tanh z) = sigmoid(2 z) */
        return x * sigmoid_f32(1.5957691216057308f * (x + 0.044715f * x * x * x));
    case SPEY_ACT_RELU: return fmaxf(x, 0.0f);
    case SPEY_ACT_RELU2: return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
    case SPEY_ACT_SIGMOID: return sigmoid_f32(x);
    case SPEY_ACT_TANH: return tanhf(x);
    case SPEY_ACT_QUICK_GELU: return x * sigmoid_f32(1.702f * x);
    default: return x;
    }
}

#endif
