/* expert_linear rows with FP32 math. Define GEMM_ROWS first. */
#ifndef SPEY_KERNELS_EXPERT_LINEAR_EXPERT_LINEAR_X86_F32_H
#define SPEY_KERNELS_EXPERT_LINEAR_EXPERT_LINEAR_X86_F32_H

#include <string.h>

#include "kernels/gemm/gemm_x86_f32_dot.h"

/* Not all rows in the same set of the L1 when k is a power of two. */
static int64_t expert_pitch(int64_t k)
{
    return gemm_ceil_div(k, 16) * 16 + 16;
}

static void expert_put(const float *x, int64_t k, float *out)
{
    memcpy(out, x, (size_t)k * sizeof(float));
}

static gemm_panel_fn *expert_panel(spey_dtype w)
{
    return gemm_f32_panel(w);
}

#include "kernels/expert_linear/expert_linear_x86.h"

static bool expert_f32_supports(const void *args)
{
    const spey_expert_linear_args *a = args;
    return a->dtype == SPEY_F32 && gemm_f32_takes(a->w_dtype, a->x_quant);
}

#endif
