/* glu for x86. Each lane takes pieces of rows; gate and up are read once, out is written once. Bound by memory, in
 * cache by the exp of the activation (some 20 operations a vector). */
#ifndef SPEY_KERNELS_GLU_GLU_X86_H
#define SPEY_KERNELS_GLU_GLU_X86_H

#include "kernels/glu/glu.h"
#include "kernels/pieces.h"
#include "kernels/scalar.h"
#include "kernels/x86/math.h"

static bool glu_supports(const void *args)
{
    const spey_glu_args *a = args;
    return spey_is_float16_or_32(a->dtype) && spey_is_float16_or_32(a->out_dtype);
}

/* NaN stays: of two operands, one of them NaN, the instructions give the second. */
static inline void glu_cut(const spey_glu_args *a, vec *gate, vec *up)
{
    if (a->limit > 0) {
        const vec limit = vec_set1(a->limit);
        *gate = vec_min(limit, *gate);
        *up = vec_max(vec_set1(-a->limit), vec_min(limit, *up));
    }
    *up = vec_add(*up, vec_set1(a->up_offset));
}

static void glu_run(const void *args, const spey_lane *lane)
{
    const spey_glu_args *a = args;
    const bool plain = !(a->limit > 0) && a->up_offset == 0;
    spey_pieces p = { .rows = a->rows, .cols = a->cols };
    while (spey_pieces_next(&p, lane)) {
        for (int64_t i = p.begin; i < p.stop; i += VEC_LANES) {
            int64_t n = p.stop - i < VEC_LANES ? p.stop - i : VEC_LANES;
            vec gate = vec_load_n(a->gate, a->dtype, p.row * a->gate_pitch + i, n);
            vec up = vec_load_n(a->up, a->dtype, p.row * a->up_pitch + i, n);
            if (!plain) glu_cut(a, &gate, &up);
            vec out = vec_mul(vec_activate(a->activation, gate), up);
            vec_store_n(a->out, a->out_dtype, p.row * a->out_pitch + i, out, n);
        }
    }
}

#endif
