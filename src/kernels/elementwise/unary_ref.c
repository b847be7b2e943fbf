/* unary in double, one element after the other. */
#include <math.h>

#include "device/pool.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_unary_args *a = args;
    return spey_is_float16_or_32(a->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_unary_args *a = args;
    const double cap = (double)a->softcap;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            for (int64_t i = 0; i < a->cols; i++) {
                double x = spey_load(a->x, a->dtype, r * a->x_pitch + i);
                double v = spey_activate(a->activation, x * (double)a->scale);
                if (cap > 0) v = cap * tanh(v / cap);
                spey_store(a->out, a->dtype, r * a->out_pitch + i, v);
            }
        }
    }
}

const spey_kernel spey_unary_ref = { .name = "unary/ref", .supports = supports, .run = run };
