/* add for x86. Each lane takes pieces of rows; bound by memory. scale * b + a is rounded once. */
#ifndef SPEY_KERNELS_ELEMENTWISE_ADD_X86_H
#define SPEY_KERNELS_ELEMENTWISE_ADD_X86_H

#include "kernels/elementwise/elementwise.h"
#include "kernels/pieces.h"
#include "kernels/scalar.h"
#include "kernels/x86/math.h"

static bool add_supports(const void *args)
{
    const spey_add_args *a = args;
    return spey_is_float16_or_32(a->a_dtype) && spey_is_float16_or_32(a->b_dtype) &&
           spey_is_float16_or_32(a->out_dtype);
}

static void add_run(const void *args, const spey_lane *lane)
{
    const spey_add_args *a = args;
    const vec scale = vec_set1(a->scale);
    spey_pieces p = { .rows = a->rows, .cols = a->cols };
    while (spey_pieces_next(&p, lane)) {
        for (int64_t i = p.begin; i < p.stop; i += VEC_LANES) {
            int64_t n = p.stop - i < VEC_LANES ? p.stop - i : VEC_LANES;
            vec b = vec_load_n(a->b, a->b_dtype, p.row * a->b_pitch + i, n);
            vec v = vec_fma(scale, b, vec_load_n(a->a, a->a_dtype, p.row * a->a_pitch + i, n));
            vec_store_n(a->out, a->out_dtype, p.row * a->out_pitch + i, v, n);
        }
    }
}

#endif
