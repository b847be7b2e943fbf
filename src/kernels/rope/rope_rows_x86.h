/* The body of rope for x86. Lanes share rows; see rope_x86.h. */
#ifndef SPEY_KERNELS_ROPE_ROPE_ROWS_X86_H
#define SPEY_KERNELS_ROPE_ROPE_ROWS_X86_H

#include "device/pool.h"
#include "kernels/rope/rope_x86.h"

static bool supports(const void *args)
{
    return rope_is_float(((const spey_rope_args *)args)->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 2, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            for (int64_t h = 0; h < a->n_heads; h++)
                rope_head(rope_at(a->x, a->dtype, r * a->x_pitch + h * a->head_dim), a->dtype,
                          a->head_dim, a->rotary_dim, a->pairing, a->table + r * a->rotary_dim,
                          rope_at(a->out, a->dtype, r * a->out_pitch + h * a->head_dim), a->dtype);
        }
    }
}

#endif
