/* argmax, one element after the other. */
#include <math.h>

#include "device/pool.h"
#include "kernels/argmax/argmax.h"
#include "kernels/rows.h"

static int32_t argmax_row(const float *x, int64_t cols)
{
    int64_t best = -1;
    for (int64_t i = 0; i < cols; i++) {
        if (isnan(x[i])) return -1;
        if (x[i] > (best < 0 ? -INFINITY : x[best])) best = i;
    }
    return (int32_t)best;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_argmax_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 1, &begin, &end))
        for (int64_t r = begin; r < end; r++)
            a->out[r] = argmax_row(a->x + r * a->x_pitch, a->cols);
}

const spey_kernel spey_argmax_ref = { .name = "argmax/ref", .run = run };
