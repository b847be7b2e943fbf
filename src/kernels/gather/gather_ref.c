/* gather by memcpy: as fast as memory, so the reference is the only row. */
#include <string.h>

#include "device/pool.h"
#include "kernels/gather/gather.h"
#include "kernels/rows.h"

static void run(const void *args, const spey_lane *lane)
{
    const spey_gather_args *a = args;
    const size_t size = spey_dtype_bytes(a->dtype);
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 8, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            int64_t from = a->batch->output_rows[r];
            memcpy((uint8_t *)a->out + (size_t)(r * a->out_pitch) * size,
                   (const uint8_t *)a->x + (size_t)(from * a->x_pitch) * size,
                   (size_t)a->cols * size);
        }
    }
}

const spey_kernel spey_gather_ref = { .name = "gather/ref", .run = run };
