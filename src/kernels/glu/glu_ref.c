/* glu in double, one element after the other. */
#include "device/pool.h"
#include "kernels/glu/glu.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_glu_args *a = args;
    return spey_is_float16_or_32(a->dtype) && spey_is_float16_or_32(a->out_dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_glu_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            for (int64_t i = 0; i < a->cols; i++) {
                double gate = spey_load(a->gate, a->dtype, r * a->gate_pitch + i);
                double up = spey_load(a->up, a->dtype, r * a->up_pitch + i);
                double limit = (double)a->limit;
                if (limit > 0) {
                    gate = gate > limit ? limit : gate; /* NaN stays */
                    up = up > limit ? limit : up < -limit ? -limit : up;
                }
                spey_store(a->out, a->out_dtype, r * a->out_pitch + i,
                           spey_activate(a->activation, gate) * (up + (double)a->up_offset));
            }
        }
    }
}

const spey_kernel spey_glu_ref = { .name = "glu/ref", .supports = supports, .run = run };
