/* glu in double, one element after the other. */
#include "device/pool.h"
#include "kernels/glu/glu.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_glu_args *a = args;
    return spey_is_float16_or_32(a->dtype) &&
           (a->out_dtype == SPEY_E4M3 || spey_is_float16_or_32(a->out_dtype));
}

static double value_at(const spey_glu_args *a, int64_t r, int64_t i)
{
    double gate = spey_load(a->gate, a->dtype, r * a->gate_pitch + i);
    double up = spey_load(a->up, a->dtype, r * a->up_pitch + i);
    double limit = (double)a->limit;
    if (limit > 0) {
        gate = gate > limit ? limit : gate; /* NaN stays */
        up = up > limit ? limit : up < -limit ? -limit : up;
    }
    return spey_activate(a->activation, gate) * (up + (double)a->up_offset);
}

static void round_row(const spey_glu_args *a, int64_t r)
{
    double largest = 0;
    for (int64_t i = 0; i < a->cols; i++)
        largest = fmax(largest, fabs(value_at(a, r, i)));
    float *out_scale = a->out_quant == SPEY_INPUT_STATIC ? a->out_scale : a->out_scale + r;
    const spey_e4m3_scale scale = spey_output_scale(a->out_quant, out_scale, largest);
    for (int64_t i = 0; i < a->cols; i++)
        spey_store_e4m3(a->out, r * a->out_pitch + i, value_at(a, r, i), scale);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_glu_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            for (int64_t i = 0; i < a->cols && a->out_dtype != SPEY_E4M3; i++)
                spey_store(a->out, a->out_dtype, r * a->out_pitch + i, value_at(a, r, i));
            if (a->out_dtype == SPEY_E4M3) round_row(a, r);
        }
    }
}

const spey_kernel spey_glu_ref = { .name = "glu/ref", .supports = supports, .run = run };
