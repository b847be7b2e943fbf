/* concat by memcpy: as fast as memory, so the reference is the only row. */
#include <string.h>

#include "device/pool.h"
#include "kernels/concat/concat.h"
#include "kernels/rows.h"

static void concat_row(const spey_concat_args *a, int64_t row)
{
    const size_t size = spey_dtype_bytes(a->dtype);
    const size_t a_bytes = (size_t)a->a_cols * size, b_bytes = (size_t)a->b_cols * size;
    const uint8_t *from_a = (const uint8_t *)a->a + (size_t)(row * a->a_pitch) * size;
    const uint8_t *from_b = (const uint8_t *)a->b + (size_t)(row * a->b_pitch) * size;
    uint8_t *out = (uint8_t *)a->out + (size_t)(row * a->out_pitch) * size;
    for (int64_t h = 0; h < a->n_heads; h++) {
        memcpy(out, from_a, a_bytes);
        memcpy(out + a_bytes, from_b, b_bytes);
        out += a_bytes + b_bytes;
        from_a += a_bytes;
        if (!a->b_shared) from_b += b_bytes;
    }
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_concat_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 4, &begin, &end))
        for (int64_t r = begin; r < end; r++)
            concat_row(a, r);
}

const spey_kernel spey_concat_ref = { .name = "concat/ref", .run = run };
