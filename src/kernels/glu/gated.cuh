/* One element of glu (glu.h), in FP32. */
#ifndef SPEY_KERNELS_GLU_GATED_CUH
#define SPEY_KERNELS_GLU_GATED_CUH

#include "kernels/cuda/activation.cuh"
#include "kernels/glu/glu.h"

/* Comparisons that leave NaN alone. */
static __device__ __forceinline__ float cut_above(float x, float limit)
{
    return x > limit ? limit : x;
}

static __device__ __forceinline__ float gated(float gate, float up, const spey_glu_args &a)
{
    if (a.limit > 0.0f) {
        gate = cut_above(gate, a.limit);
        up = -cut_above(-cut_above(up, a.limit), a.limit);
    }
    return activate(gate, a.activation) * (up + a.up_offset);
}

#endif
