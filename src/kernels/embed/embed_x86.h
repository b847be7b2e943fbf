/* embed for x86. Each lane takes pieces of output rows: one row of the table read, widened, scaled, written. Bound by
 * memory. */
#ifndef SPEY_KERNELS_EMBED_EMBED_X86_H
#define SPEY_KERNELS_EMBED_EMBED_X86_H

#include "kernels/embed/embed.h"
#include "kernels/pieces.h"
#include "kernels/scalar.h"
#include "kernels/x86/math.h"

static bool embed_supports(const void *args)
{
    const spey_embed_args *a = args;
    return spey_is_float16_or_32(a->table_dtype) && spey_is_float16_or_32(a->out_dtype);
}

static void embed_run(const void *args, const spey_lane *lane)
{
    const spey_embed_args *a = args;
    const int32_t *numbers = spey_embed_numbers(a);
    const vec scale = vec_set1(a->scale);
    spey_pieces p = { .rows = a->rows, .cols = a->cols };
    while (spey_pieces_next(&p, lane)) {
        const int64_t number = numbers[p.row];
        const bool own = number < 0;
        const void *table = own ? a->own : a->table;
        const spey_dtype dtype = own ? SPEY_F32 : a->table_dtype;
        const int64_t from = (own ? -1 - number : number + a->begin) * a->cols;
        for (int64_t i = p.begin; i < p.stop; i += VEC_LANES) {
            int64_t n = p.stop - i < VEC_LANES ? p.stop - i : VEC_LANES;
            vec v = vec_mul(scale, vec_load_n(table, dtype, from + i, n));
            vec_store_n(a->out, a->out_dtype, p.row * a->out_pitch + i, v, n);
        }
    }
}

#endif
