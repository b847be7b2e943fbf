/* gemm in double: the definition. Lanes share outputs in chunks of columns. */
#include "device/pool.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_gemm_args *a = args;
    const bool rounded = a->x_dtype == SPEY_E4M3 && a->w_dtype == SPEY_E4M3 && a->x_quant;
    return (rounded || spey_is_float16_or_32(a->x_dtype)) && spey_is_weight_dtype(a->w_dtype) &&
           spey_is_float16_or_32(a->y_dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_gemm_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->n, 64, &begin, &end)) {
        for (int64_t r = 0; r < a->rows; r++) {
            const int64_t x = r * a->x_pitch;
            const spey_e4m3_scale scale =
                spey_input_scale(a->x_quant, spey_gemm_row_scale(a, r), a->x, a->x_dtype, x, a->k);
            for (int64_t j = begin; j < end; j++) {
                double sum = 0;
                for (int64_t i = 0; i < a->k; i++)
                    sum += spey_load_input(a->x, a->x_dtype, x + i, scale) *
                           spey_load(a->w, a->w_dtype, j * a->w_pitch + i);
                if (a->w_scale) sum *= (double)a->w_scale[j * a->w_scale_step];
                if (a->bias) sum += (double)a->bias[j];
                spey_store(a->y, a->y_dtype, r * a->y_pitch + j, spey_activate(a->activation, sum));
            }
        }
    }
}

const spey_kernel spey_gemm_ref = { .name = "gemm/ref", .supports = supports, .run = run };
