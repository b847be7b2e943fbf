/* gemm with BF16 or E4M3 weights and x in BF16, or rounded to it; see gemm_x86.h for who does what, gemm_x86_bf16_dot.h
 * for how.
 *
 * x in F32 is rounded once a call. Little of it: every lane makes its own copy on the stack, which costs less than a barrier
 * and shares no cache line. Much of it: lanes share the rows, into the workspace. */
#include "device/cpu.h"
#include "kernels/gemm/gemm_x86_bf16_dot.h"
#include "kernels/rows.h"

enum { PRIVATE_X = 16 << 10 }; /* elements of x up to which each lane has its own copy */

static bool supports(const void *args)
{
    const spey_gemm_args *a = args;
    return !a->glu.out && a->precision == SPEY_PRECISION_16 &&
           gemm_bf16_takes(a->w_dtype, a->x_quant) &&
           (a->x_dtype == SPEY_F32 || a->x_dtype == SPEY_BF16) && a->y_dtype == SPEY_F32;
}

static size_t workspace(const void *args)
{
    const spey_gemm_args *a = args;
    if (a->x_dtype == SPEY_BF16) return 0;
    return (size_t)(a->rows * gemm_rounded_pitch(a->k)) * sizeof(uint16_t);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_gemm_args *a = args;
    const float *x = a->x;
    _Alignas(64) uint16_t private_x[PRIVATE_X];
    gemm_plan plan = gemm_plan_make(a, lane);
    plan.x_pitch = a->x_dtype == SPEY_BF16 ? a->x_pitch : gemm_rounded_pitch(a->k);
    if (a->x_dtype == SPEY_BF16) {
        plan.x = a->x;
    } else if (a->rows * plan.x_pitch <= PRIVATE_X) {
        for (int64_t r = 0; r < a->rows; r++)
            gemm_round_row(x + r * a->x_pitch, a->k, private_x + r * plan.x_pitch);
        plan.x = private_x;
    } else {
        uint16_t *shared = a->workspace;
        int64_t begin, end;
        while (spey_lane_chunk(lane, a->rows, 4, &begin, &end))
            for (int64_t r = begin; r < end; r++)
                gemm_round_row(x + r * a->x_pitch, a->k, shared + r * plan.x_pitch);
        plan.x = shared;
        spey_lane_barrier(lane);
    }
    gemm_run(&plan, lane, (gemm_block){ 0 }, gemm_bf16_panel(a->w_dtype));
}

const spey_kernel spey_gemm_avx512bf16 = {
    .name = "gemm/avx512bf16",
    .isa = SPEY_CPU_AVX512 | SPEY_CPU_AVX512_BF16 | SPEY_CPU_FAST_BF16_DOT,
    .supports = supports,
    .workspace = workspace,
    .run = run,
};
