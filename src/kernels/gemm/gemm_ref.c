/* gemm in double: the definition. Lanes share outputs in chunks of columns; with glu, in rows. */
#include "device/pool.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_gemm_args *a = args;
    const bool rounded = a->x_dtype == SPEY_E4M3 && a->w_dtype == SPEY_E4M3 && a->x_quant;
    if (a->glu.out && !spey_glu_ref.supports(&a->glu)) return false;
    return (rounded || spey_is_float16_or_32(a->x_dtype)) && spey_is_weight_dtype(a->w_dtype) &&
           spey_is_float16_or_32(a->y_dtype);
}

/* Outputs [begin, end) of row r. */
static void multiply_row(const spey_gemm_args *a, int64_t r, int64_t begin, int64_t end)
{
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

static void gate_row(const spey_gemm_args *a, int64_t r)
{
    int64_t counter = 0;
    const spey_lane alone = spey_lane_solo(&counter);
    const int64_t element = (int64_t)spey_dtype_bytes(a->glu.dtype);
    spey_glu_args glu = a->glu;
    glu.rows = 1;
    glu.gate = (const uint8_t *)glu.gate + r * glu.gate_pitch * element;
    glu.up = (const uint8_t *)glu.up + r * glu.up_pitch * element;
    glu.out = (uint8_t *)glu.out + r * glu.out_pitch * (int64_t)spey_dtype_bytes(glu.out_dtype);
    if (glu.out_quant == SPEY_INPUT_TOKEN) glu.out_scale += r;
    spey_glu_ref.run(&glu, &alone);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_gemm_args *a = args;
    int64_t begin, end;
    while (a->glu.out && spey_lane_chunk(lane, a->rows, 1, &begin, &end))
        for (int64_t r = begin; r < end; r++) {
            multiply_row(a, r, 0, a->n);
            gate_row(a, r);
        }
    while (!a->glu.out && spey_lane_chunk(lane, a->n, 64, &begin, &end))
        for (int64_t r = 0; r < a->rows; r++)
            multiply_row(a, r, begin, end);
}

const spey_kernel spey_gemm_ref = { .name = "gemm/ref", .supports = supports, .run = run };
