/* causal_conv for x86. A lane takes 64 columns of a sequence at a time, puts their filters one tap after the other, and
 * goes down the tokens, columns in vectors; the rows of a window are read again for each tap, from L1. Bound by memory:
 * x in, out out. */
#ifndef SPEY_KERNELS_CAUSAL_CONV_CAUSAL_CONV_X86_H
#define SPEY_KERNELS_CAUSAL_CONV_CAUSAL_CONV_X86_H

#include "device/pool.h"
#include "kernels/causal_conv/causal_conv.h"
#include "kernels/paged.h"
#include "kernels/scalar.h"
#include "kernels/x86/math.h"

enum { CONV_COLS = 64 };

typedef struct conv_tile {
    const spey_causal_conv_args *a;
    int64_t first, n;     /* rows of the sequence */
    int64_t column, cols; /* of the tile */
    bool begins;
    float *state; /* [width - 1, a->cols], from the tile's first column */
    float taps[SPEY_CONV_WIDTH_MAX][CONV_COLS]; /* weight, transposed */
} conv_tile;

static bool causal_conv_supports(const void *args)
{
    const spey_causal_conv_args *a = args;
    return spey_is_float16_or_32(a->dtype) && a->width >= 2 && a->width <= SPEY_CONV_WIDTH_MAX;
}

/* n columns from `i` of the row `t` of the sequence; of those before its first token in this step t < 0. */
static vec conv_row(const conv_tile *tile, int64_t t, int64_t i, int64_t n)
{
    const spey_causal_conv_args *a = tile->a;
    if (t >= 0)
        return vec_load_n(a->x, a->dtype, (tile->first + t) * a->x_pitch + tile->column + i, n);
    if (tile->begins) return vec_zero();
    return vec_load_n(tile->state, SPEY_F32, (a->width - 1 + t) * a->cols + i, n);
}

static void conv_columns(const conv_tile *tile, int64_t i, int64_t n)
{
    const spey_causal_conv_args *a = tile->a;
    const vec bias = a->bias ? vec_load_n(a->bias, SPEY_F32, tile->column + i, n) : vec_zero();
    for (int64_t t = 0; t < tile->n; t++) {
        vec sum = bias;
        for (int64_t k = 0; k < a->width; k++)
            sum = vec_fma(vec_load_f32(tile->taps[k] + i),
                          conv_row(tile, t - (a->width - 1) + k, i, n), sum);
        vec_store_n(a->out, a->dtype, (tile->first + t) * a->out_pitch + tile->column + i, sum, n);
    }
    /* Ascending: a row of the old state moves to an earlier one. */
    for (int64_t k = 0; k < a->width - 1; k++)
        vec_store_n(tile->state, SPEY_F32, k * a->cols + i,
                    conv_row(tile, tile->n - (a->width - 1) + k, i, n), n);
}

static void conv_run_tile(const spey_causal_conv_args *a, int64_t s, int64_t column)
{
    conv_tile tile = { .a = a, .column = column, .begins = spey_state_begins(a->batch, s) };
    tile.first = a->batch->seq_start[s];
    tile.n = a->batch->seq_start[s + 1] - tile.first;
    if (tile.n == 0) return;
    tile.cols = a->cols - column < CONV_COLS ? a->cols - column : CONV_COLS;
    tile.state = spey_state_at(&a->state, a->batch, s) + column;
    for (int64_t c = 0; c < tile.cols; c++)
        for (int64_t k = 0; k < a->width; k++)
            tile.taps[k][c] = a->weight[(column + c) * a->width + k];
    for (int64_t i = 0; i < tile.cols; i += VEC_LANES)
        conv_columns(&tile, i, tile.cols - i < VEC_LANES ? tile.cols - i : VEC_LANES);
}

static void causal_conv_run(const void *args, const spey_lane *lane)
{
    const spey_causal_conv_args *a = args;
    const int64_t tiles = (a->cols + CONV_COLS - 1) / CONV_COLS;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->batch->n_seqs * tiles, 4, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            conv_run_tile(a, i / tiles, i % tiles * CONV_COLS);
}

#endif
