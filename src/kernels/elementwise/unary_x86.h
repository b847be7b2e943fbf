/* unary for x86. Each lane takes pieces of rows, read once and written once. Bound by memory, in cache by exp and tanh. */
#ifndef SPEY_KERNELS_ELEMENTWISE_UNARY_X86_H
#define SPEY_KERNELS_ELEMENTWISE_UNARY_X86_H

#include "kernels/elementwise/elementwise.h"
#include "kernels/pieces.h"
#include "kernels/scalar.h"
#include "kernels/x86/math.h"

static bool unary_supports(const void *args)
{
    const spey_unary_args *a = args;
    return spey_is_float16_or_32(a->dtype);
}

static void unary_run(const void *args, const spey_lane *lane)
{
    const spey_unary_args *a = args;
    const vec scale = vec_set1(a->scale), cap = vec_set1(a->softcap);
    spey_pieces p = { .rows = a->rows, .cols = a->cols };
    while (spey_pieces_next(&p, lane)) {
        for (int64_t i = p.begin; i < p.stop; i += VEC_LANES) {
            int64_t n = p.stop - i < VEC_LANES ? p.stop - i : VEC_LANES;
            vec v = vec_load_n(a->x, a->dtype, p.row * a->x_pitch + i, n);
            v = vec_activate(a->activation, vec_mul(v, scale));
            if (a->softcap > 0) v = vec_mul(cap, vec_tanh(vec_div(v, cap)));
            vec_store_n(a->out, a->dtype, p.row * a->out_pitch + i, v, n);
        }
    }
}

#endif
