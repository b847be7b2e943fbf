/* embed, one element after the other. */
#include "device/pool.h"
#include "kernels/embed/embed.h"
#include "kernels/rows.h"
#include "kernels/scalar.h"

static bool supports(const void *args)
{
    const spey_embed_args *a = args;
    return spey_is_float16_or_32(a->table_dtype) && spey_is_float16_or_32(a->out_dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_embed_args *a = args;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->rows, 8, &begin, &end)) {
        for (int64_t r = begin; r < end; r++) {
            const int64_t number = spey_embed_numbers(a)[r];
            const bool own = number < 0;
            const int64_t from = (own ? -1 - number : number + a->begin) * a->cols;
            for (int64_t i = 0; i < a->cols; i++) {
                double x =
                    own ? (double)a->own[from + i] : spey_load(a->table, a->table_dtype, from + i);
                spey_store(a->out, a->out_dtype, r * a->out_pitch + i, (double)a->scale * x);
            }
        }
    }
}

const spey_kernel spey_embed_ref = { .name = "embed/ref", .supports = supports, .run = run };
