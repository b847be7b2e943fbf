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
    return spey_is_float16_or_32(a->dtype);
}

static void glu_run(const void *args, const spey_lane *lane)
{
    const spey_glu_args *a = args;
    spey_pieces p = { .rows = a->rows, .cols = a->cols };
    while (spey_pieces_next(&p, lane)) {
        for (int64_t i = p.begin; i < p.stop; i += VEC_LANES) {
            int64_t n = p.stop - i < VEC_LANES ? p.stop - i : VEC_LANES;
            vec gate = vec_load_n(a->gate, a->dtype, p.row * a->gate_pitch + i, n);
            vec up = vec_load_n(a->up, a->dtype, p.row * a->up_pitch + i, n);
            vec out = vec_mul(vec_activate(a->activation, gate), up);
            vec_store_n(a->out, a->dtype, p.row * a->out_pitch + i, out, n);
        }
    }
}

#endif
