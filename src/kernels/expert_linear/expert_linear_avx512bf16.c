/* expert_linear with BF16 or E4M3 weights and x rounded to BF16 as it is gathered: see expert_linear_x86.h and, for the products,
 * gemm_x86_bf16_dot.h. */
#include <string.h>

#include "device/cpu.h"
#include "kernels/gemm/gemm_x86_bf16_dot.h"
#include "kernels/rows.h"

static int64_t expert_pitch(int64_t k)
{
    return gemm_rounded_pitch(k);
}

static void expert_put(const float *x, int64_t k, uint16_t *out)
{
    gemm_round_row(x, k, out);
}

static gemm_panel_fn *expert_panel(spey_dtype w)
{
    return gemm_bf16_panel(w);
}

#include "kernels/expert_linear/expert_linear_x86.h"

static bool supports(const void *args)
{
    const spey_expert_linear_args *a = args;
    return a->precision == SPEY_PRECISION_16 && gemm_bf16_takes(a->w_dtype, a->x_quant) &&
           a->dtype == SPEY_F32;
}

const spey_kernel spey_expert_linear_avx512bf16 = {
    .name = "expert_linear/avx512bf16",
    .isa = SPEY_CPU_AVX512 | SPEY_CPU_AVX512_BF16 | SPEY_CPU_FAST_BF16_DOT,
    .supports = supports,
    .workspace = expert_workspace,
    .run = expert_run,
};
