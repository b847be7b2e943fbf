/* selective_scan for x86. A lane takes 16 columns of a sequence, 64 tokens at a time: first delta of all of them, columns
 * in vectors; then each column goes down the tokens with its states in a vector. Exponentials bound it: one for each state
 * of each token (and one for each state of a tile, for A). */
#ifndef SPEY_KERNELS_SELECTIVE_SCAN_SELECTIVE_SCAN_X86_H
#define SPEY_KERNELS_SELECTIVE_SCAN_SELECTIVE_SCAN_X86_H

#include "device/pool.h"
#include "kernels/paged.h"
#include "kernels/scalar.h"
#include "kernels/selective_scan/selective_scan.h"
#include "kernels/x86/math.h"

enum { SCAN_COLS = 16, SCAN_TOKENS = 64 };

typedef struct scan_tile {
    const spey_selective_scan_args *a;
    int64_t column, cols;
    int64_t first, n; /* tokens */
    float x[SCAN_TOKENS][SCAN_COLS], delta[SCAN_TOKENS][SCAN_COLS];
    float y[SCAN_TOKENS][SCAN_COLS];
} scan_tile;

static bool selective_scan_supports(const void *args)
{
    const spey_selective_scan_args *a = args;
    return spey_is_float16_or_32(a->dtype) && a->states <= SPEY_SCAN_STATES_MAX;
}

/* max(x, 0) + log1p(e) with e = exp(-|x|); log1p(e) = 2 atanh(s), s = e / (2 + e) <= 1/3, by its series: what is left out
 * is below s^15 / 15, 2^-26 of the first term. */
static vec scan_softplus(vec x)
{
    vec e = vec_exp(vec_sub(vec_zero(), vec_abs(x)));
    vec s = vec_div(e, vec_add(e, vec_set1(2.0f))), q = vec_mul(s, s);
    vec p = vec_set1(1.0f / 13);
    p = vec_fma(p, q, vec_set1(1.0f / 11));
    p = vec_fma(p, q, vec_set1(1.0f / 9));
    p = vec_fma(p, q, vec_set1(1.0f / 7));
    p = vec_fma(p, q, vec_set1(1.0f / 5));
    p = vec_fma(p, q, vec_set1(1.0f / 3));
    p = vec_fma(vec_mul(p, q), s, s);
    return vec_fma(vec_set1(2.0f), p, vec_max(vec_zero(), x));
}

/* x, delta and d x of the tile. */
static void scan_load(scan_tile *tile)
{
    const spey_selective_scan_args *a = tile->a;
    for (int64_t t = 0; t < tile->n; t++)
        for (int64_t i = 0; i < tile->cols; i += VEC_LANES) {
            int64_t n = tile->cols - i < VEC_LANES ? tile->cols - i : VEC_LANES;
            int64_t row = tile->first + t, at = tile->column + i;
            vec x = vec_load_n(a->x, a->dtype, row * a->x_pitch + at, n);
            vec dt = vec_load_n(a->dt, a->dtype, row * a->dt_pitch + at, n);
            vec_store_f32(tile->x[t] + i, x);
            vec_store_f32(tile->delta[t] + i, scan_softplus(dt));
            vec_store_f32(tile->y[t] + i, vec_mul(x, vec_load_n(a->d, SPEY_F32, at, n)));
        }
}

/* n states of column i of the tile, `h` in memory. */
static void scan_states(scan_tile *tile, int64_t i, int64_t state, float *h)
{
    const spey_selective_scan_args *a = tile->a;
    int64_t n = a->states - state < VEC_LANES ? a->states - state : VEC_LANES;
    const int64_t at = (tile->column + i) * a->states + state;
    vec decay = vec_sub(vec_zero(), vec_exp(vec_load_n(a->a_log, SPEY_F32, at, n)));
    vec held = vec_load_n(h, SPEY_F32, 0, n);
    for (int64_t t = 0; t < tile->n; t++) {
        const int64_t row = tile->first + t;
        vec delta = vec_set1(tile->delta[t][i]);
        vec in = vec_mul(delta, vec_set1(tile->x[t][i]));
        vec b = vec_load_n(a->b, a->dtype, row * a->b_pitch + state, n);
        vec c = vec_load_n(a->c, a->dtype, row * a->c_pitch + state, n);
        held = vec_fma(vec_exp(vec_mul(delta, decay)), held, vec_mul(in, b));
        tile->y[t][i] += vec_sum(vec_mul(c, held));
    }
    vec_store_n(h, SPEY_F32, 0, held, n);
}

static void scan_run_tile(scan_tile *tile, float *h)
{
    const spey_selective_scan_args *a = tile->a;
    scan_load(tile);
    for (int64_t i = 0; i < tile->cols; i++)
        for (int64_t state = 0; state < a->states; state += VEC_LANES)
            scan_states(tile, i, state, h + i * a->states + state);
    for (int64_t t = 0; t < tile->n; t++)
        for (int64_t i = 0; i < tile->cols; i += VEC_LANES) {
            int64_t n = tile->cols - i < VEC_LANES ? tile->cols - i : VEC_LANES;
            vec_store_n(a->out, a->dtype, (tile->first + t) * a->out_pitch + tile->column + i,
                        vec_load_f32(tile->y[t] + i), n);
        }
}

static void scan_run_columns(const spey_selective_scan_args *a, int64_t s, int64_t column)
{
    const int64_t end = a->batch->seq_start[s + 1];
    scan_tile tile;
    tile.a = a;
    tile.column = column;
    tile.cols = a->cols - column < SCAN_COLS ? a->cols - column : SCAN_COLS;
    tile.first = a->batch->seq_start[s];
    if (tile.first == end) return;
    float *h = spey_state_at(&a->state, a->batch, s) + column * a->states;
    if (spey_state_begins(a->batch, s)) memset(h, 0, (size_t)(tile.cols * a->states) * sizeof(*h));
    for (; tile.first < end; tile.first += tile.n) {
        tile.n = end - tile.first < SCAN_TOKENS ? end - tile.first : SCAN_TOKENS;
        scan_run_tile(&tile, h);
    }
}

static void selective_scan_run(const void *args, const spey_lane *lane)
{
    const spey_selective_scan_args *a = args;
    const int64_t tiles = (a->cols + SCAN_COLS - 1) / SCAN_COLS;
    int64_t begin, end;
    while (spey_lane_chunk(lane, a->batch->n_seqs * tiles, 1, &begin, &end))
        for (int64_t i = begin; i < end; i++)
            scan_run_columns(a, i / tiles, i % tiles * SCAN_COLS);
}

#endif
