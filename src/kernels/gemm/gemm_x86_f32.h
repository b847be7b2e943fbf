/* gemm rows with FP32 math. Define GEMM_ROWS first. */
#ifndef SPEY_KERNELS_GEMM_GEMM_X86_F32_H
#define SPEY_KERNELS_GEMM_GEMM_X86_F32_H

#include "kernels/gemm/gemm_x86_f32_dot.h"

static bool gemm_f32_supports(const void *args)
{
    const spey_gemm_args *a = args;
    return !a->glu.out && a->x_dtype == SPEY_F32 && a->y_dtype == SPEY_F32 &&
           gemm_f32_takes(a->w_dtype, a->x_quant);
}

static void gemm_f32_run(const void *args, const spey_lane *lane)
{
    const spey_gemm_args *a = args;
    gemm_plan plan = gemm_plan_make(a, lane);
    plan.x = a->x;
    plan.x_pitch = a->x_pitch;
    gemm_run(&plan, lane, (gemm_block){ 0 }, gemm_f32_panel(a->w_dtype));
}

#endif
