/* add in double, one element after the other. */
#include "device/pool.h"
#include "kernels/elementwise/elementwise.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_add_args *a = args;
    return spey_is_float16_or_32(a->a_dtype) && spey_is_float16_or_32(a->b_dtype) &&
           spey_is_float16_or_32(a->out_dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_add_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            for (int64_t i = 0; i < a->cols; i++)
                spey_store(a->out, a->out_dtype, r * a->out_pitch + i,
                           spey_load(a->a, a->a_dtype, r * a->a_pitch + i) +
                               (double)a->scale * spey_load(a->b, a->b_dtype, r * a->b_pitch + i));
        }
    }
}

const spey_kernel spey_add_ref = { .name = "add/ref", .supports = supports, .run = run };
