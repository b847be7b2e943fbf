/* The body of every x86 gemm and expert_linear row: tiles of rows × 4 outputs by dot products along k. Included once by a
 * row's file, after
 *
 *   GEMM_ROWS              most rows of a tile
 *   GEMM_K_BLOCK           elements of k after which a tile's sums go to y
 *   gemm_x                 element type of x inside a tile
 *   gemm_e4m3_unit         what an E4M3 weight inside a tile stands for, times its value
 *   gemm_dot(…)            acc[r][c] += x row r · w row c from element `at`: a step of 64 bytes of w,
 *   gemm_dot_tail(…)       or up to `end`, fewer
 *
 * Who computes what. w is [n, k], as it lies in the engine file, so both operands run along k and a tile of MR rows × 4
 * outputs keeps MR · 4 vectors of partial sums; per vector of k it loads MR + 4 vectors for MR · 4 products. At the end
 * of a k block each vector is summed by a fixed tree and goes (first block) or is added (later ones) to y. The order of
 * these sums depends on k alone, not on MR, on rows or on lanes: hence batch invariance.
 *
 *   block(w) = Nb outputs × one k block, chosen by lanes through the chunk counter
 *   for each block: for each row tile: for each 4 outputs of the block: tile
 *
 * What moves. One row tile: w goes through once. More: x's tile stays in L1 while the outputs of the block pass, the block
 * stays in L2 while the row tiles pass (32 outputs while memory is the bound, half of an L2 when it is not), memory is
 * read once. While a block is computed the next one is prefetched, a line per step spread over the row tiles, because
 * hardware prefetchers rest while the other tiles pass; with one row tile Nb is then 4, to prefetch 16 KiB ahead.
 * For one and two rows that are not widened, hardware prefetchers reach further than an L1 has miss buffers for, and
 * prefetching by hand costs 15 % of the bandwidth.
 *
 * What bounds it: memory for few rows, multiply-adds for many. From 7 to 16 rows the miss buffers: some 80 % of the
 * bandwidth. Tried there and not better: tiles of 8 × 3, which pass over w once or twice instead of two or three times. */
#ifndef SPEY_KERNELS_GEMM_GEMM_X86_H
#define SPEY_KERNELS_GEMM_GEMM_X86_H

#include <stdbool.h>
#include <stddef.h>

#include "device/pool.h"
#include "kernels/gemm/gemm.h"
#include "kernels/x86/math.h"

enum {
    GEMM_COLS = 4,             /* outputs of a tile */
    GEMM_FEW_TILES = 4,        /* row tiles up to which memory is the bound */
    GEMM_FEW_COLS = 32,        /* outputs of a block then */
    GEMM_L2_BYTES = 512 << 10, /* weights of a block with many rows */
    GEMM_CHUNK_BYTES = 512 << 10,
};

#define GEMM_INLINE static inline __attribute__((always_inline))

typedef struct gemm_plan {
    const spey_gemm_args *args;
    const gemm_x *x; /* [rows, k], x_pitch apart */
    int64_t x_pitch;
    size_t w_bytes;     /* of a weight */
    int64_t k_block;    /* a multiple of a step, or k itself when shorter */
    int64_t block_cols; /* Nb */
    int64_t chunk_cols; /* a multiple of Nb */
    int64_t n_tiles;    /* row tiles */
    bool prefetch;
} gemm_plan;

/* Weights [n0, n1) × [k0, k1), in chunk [.., chunk_end). */
typedef struct gemm_block {
    int64_t n0, n1, k0, k1, chunk_end;
} gemm_block;

static int64_t gemm_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t gemm_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Columns of `column_bytes` that fit, in sixteens, at least 16. */
static int64_t gemm_fit(int64_t bytes, size_t column_bytes)
{
    int64_t n = column_bytes ? bytes / (int64_t)column_bytes / 16 * 16 : bytes;
    return n < 16 ? 16 : n;
}

static inline gemm_plan gemm_plan_make(const spey_gemm_args *a, const spey_lane *lane)
{
    gemm_plan plan = { .args = a, .w_bytes = spey_dtype_bytes(a->w_dtype) };
    const int64_t step = 64; /* elements: a step of any dtype */
    int64_t n_k_blocks = gemm_ceil_div(a->k, GEMM_K_BLOCK);
    plan.k_block =
        n_k_blocks > 1 ? gemm_ceil_div(gemm_ceil_div(a->k, n_k_blocks), step) * step : a->k;
    plan.n_tiles = gemm_ceil_div(a->rows, GEMM_ROWS);
    /* Where chunks end is free; they are whole cache lines of y, and two or more for each lane. */
    int64_t share = gemm_ceil_div(gemm_ceil_div(a->n, (int64_t)2 * lane->count), 16) * 16;
    int64_t chunk = GEMM_FEW_COLS;
    if (plan.n_tiles == 1)
        chunk = gemm_fit(GEMM_CHUNK_BYTES, (size_t)a->k * plan.w_bytes);
    else if (plan.n_tiles > GEMM_FEW_TILES)
        chunk = gemm_fit(GEMM_L2_BYTES, (size_t)plan.k_block * plan.w_bytes);
    plan.chunk_cols = share > 0 ? gemm_min(chunk, share) : chunk;
    plan.prefetch = a->rows > 2 || plan.w_bytes < sizeof(gemm_x);
    plan.block_cols = plan.n_tiles == 1 && plan.prefetch ? GEMM_COLS : plan.chunk_cols;
    return plan;
}

/* The block after *b for this lane, claiming a chunk when the last one is used up. *b all 0: the first one. Without a
 * lane: the blocks of one chunk, and *b comes from gemm_chunk. */
static bool gemm_block_next(const gemm_plan *plan, const spey_lane *lane, gemm_block *b)
{
    const spey_gemm_args *a = plan->args;
    if (b->k1 < a->k && b->n1 > 0) {
        b->k0 = b->k1;
        b->k1 = gemm_min(a->k, b->k0 + plan->k_block);
        return true;
    }
    b->n0 = b->n1;
    if (b->n0 >= b->chunk_end &&
        !(lane && spey_lane_chunk(lane, a->n, plan->chunk_cols, &b->n0, &b->chunk_end)))
        return false;
    b->n1 = gemm_min(b->chunk_end, b->n0 + plan->block_cols);
    b->k0 = 0;
    b->k1 = gemm_min(a->k, plan->k_block);
    return true;
}

static const uint8_t *gemm_w_at(const gemm_plan *plan, int64_t n, int64_t k)
{
    return (const uint8_t *)plan->args->w + (size_t)(n * plan->args->w_pitch + k) * plan->w_bytes;
}

/* Where a tile's prefetches go: rows of the next block, one line of each per step. */
typedef struct gemm_ahead {
    const uint8_t *rows[GEMM_COLS];
    int n;
} gemm_ahead;

/* Quarter p of a tile's share is fetched in row tile p · n_tiles / 4. */
static gemm_ahead gemm_ahead_make(const gemm_plan *plan, const gemm_block *next, int64_t offset,
                                  int64_t spread, int64_t tile)
{
    gemm_ahead ahead = { .n = 0 };
    for (int64_t p = 0; next && plan->prefetch && p < GEMM_COLS; p++) {
        int64_t row = next->n0 + offset + p * spread;
        if (p * plan->n_tiles / GEMM_COLS == tile && row < next->n1)
            ahead.rows[ahead.n++] = gemm_w_at(plan, row, next->k0);
    }
    return ahead;
}

/* y[mr rows, n_cols] (+)= sums of a tile; n_cols < 4 at the right edge. */
GEMM_INLINE void gemm_store(const int mr, vec acc[GEMM_ROWS][GEMM_COLS], float *y, int64_t y_pitch,
                            int64_t n_cols, bool first)
{
    const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32((int)n_cols), _mm_setr_epi32(0, 1, 2, 3));
    for (int r = 0; r < mr; r++, y += y_pitch) {
        __m128 sum = vec_sum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
        if (!first) sum = _mm_add_ps(sum, _mm_maskload_ps(y, mask));
        _mm_maskstore_ps(y, mask, sum);
    }
}

/* The same with the outputs `spread` apart. */
GEMM_INLINE void gemm_store_spread(const int mr, vec acc[GEMM_ROWS][GEMM_COLS], float *y,
                                   int64_t y_pitch, int64_t n_cols, int64_t spread, bool first)
{
    for (int r = 0; r < mr; r++, y += y_pitch) {
        float sums[GEMM_COLS];
        _mm_storeu_ps(sums, vec_sum4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
        for (int64_t c = 0; c < GEMM_COLS && c * spread < n_cols; c++)
            y[c * spread] = first ? sums[c] : y[c * spread] + sums[c];
    }
}

/* One row tile over all outputs of the block. `mr` and `dtype` are constants at every call. */
GEMM_INLINE void gemm_panel(const int mr, const spey_dtype dtype, const gemm_plan *plan,
                            const gemm_block *b, const gemm_block *next, int64_t tile, int64_t row)
{
    const int step = gemm_step(dtype);
    const spey_gemm_args *a = plan->args;
    const gemm_x *x = plan->x + row * plan->x_pitch + b->k0;
    const int64_t k = b->k1 - b->k0, k_whole = k - k % step;
    /* One row tile: the four outputs lie a quarter of the block apart, so that each goes through memory without a break
     * and prefetchers follow it from page to page. */
    const int64_t spread = plan->n_tiles == 1 ? gemm_ceil_div(b->n1 - b->n0, GEMM_COLS) : 1;
    const int64_t end = spread > 1 ? b->n0 + spread : b->n1;
    for (int64_t j = b->n0; j<end; j += spread> 1 ? 1 : GEMM_COLS) {
        const uint8_t *w[GEMM_COLS];
        for (int c = 0; c < GEMM_COLS; c++)
            w[c] = gemm_w_at(plan, gemm_min(j + c * spread, b->n1 - 1), b->k0);
        const gemm_ahead ahead = gemm_ahead_make(plan, next, j - b->n0, spread, tile);
        vec acc[GEMM_ROWS][GEMM_COLS];
        for (int r = 0; r < mr; r++)
            for (int c = 0; c < GEMM_COLS; c++)
                acc[r][c] = vec_zero();
        int64_t at = 0;
        for (; at < k_whole; at += step) {
            for (int i = 0; i < ahead.n; i++)
                _mm_prefetch((const char *)ahead.rows[i] + (size_t)at * plan->w_bytes, _MM_HINT_T0);
            gemm_dot(mr, dtype, x, plan->x_pitch, w, at, acc);
        }
        if (at < k) gemm_dot_tail(mr, dtype, x, plan->x_pitch, w, at, k, acc);
        float *y = (float *)a->y + row * a->y_pitch + j;
        if (spread > 1)
            gemm_store_spread(mr, acc, y, a->y_pitch, b->n1 - j, spread, b->k0 == 0);
        else
            gemm_store(mr, acc, y, a->y_pitch, b->n1 - j, b->k0 == 0);
    }
}

/* The scales of E4M3 weights of n outputs from j on. */
static inline vec gemm_scales(const spey_gemm_args *a, int64_t j, int64_t n)
{
    vec scale = a->w_scale_step ? vec_load_f32_n(a->w_scale + j, n) : vec_set1(a->w_scale[0]);
    return vec_mul(scale, vec_set1(gemm_e4m3_unit));
}

/* y = activation(y · scale + bias) over the finished columns of a block. */
static void gemm_finish(const gemm_plan *plan, const gemm_block *b)
{
    const spey_gemm_args *a = plan->args;
    for (int64_t r = 0; r < a->rows; r++) {
        float *y = (float *)a->y + r * a->y_pitch;
        for (int64_t j = b->n0; j < b->n1; j += VEC_LANES) {
            int64_t n = gemm_min(b->n1 - j, VEC_LANES);
            vec v = vec_load_f32_n(y + j, n);
            if (a->w_scale) v = vec_mul(v, gemm_scales(a, j, n));
            if (a->bias) v = vec_add(v, vec_load_f32_n(a->bias + j, n));
            vec_store_f32_n(y + j, vec_activate(a->activation, v), n);
        }
    }
}

typedef void gemm_panel_fn(int mr, const gemm_plan *plan, const gemm_block *b,
                           const gemm_block *next, int64_t tile, int64_t row);

/* A gemm_panel_fn for one weight type: the switch makes mr a constant. */
#define GEMM_PANEL(name, dtype)                                                                  \
    static void name(int mr, const gemm_plan *plan, const gemm_block *b, const gemm_block *next, \
                     int64_t tile, int64_t row)                                                  \
    {                                                                                            \
        switch (mr) {                                                                            \
        case 1: gemm_panel(1, dtype, plan, b, next, tile, row); break;                           \
        case 2: gemm_panel(2, dtype, plan, b, next, tile, row); break;                           \
        case 3: gemm_panel(3, dtype, plan, b, next, tile, row); break;                           \
        case 4: gemm_panel(4 <= GEMM_ROWS ? 4 : 1, dtype, plan, b, next, tile, row); break;      \
        case 5: gemm_panel(5 <= GEMM_ROWS ? 5 : 1, dtype, plan, b, next, tile, row); break;      \
        case 6: gemm_panel(6 <= GEMM_ROWS ? 6 : 1, dtype, plan, b, next, tile, row); break;      \
        }                                                                                        \
    }

/* What comes before the first block of outputs [begin, end). */
static inline gemm_block gemm_chunk(const gemm_plan *plan, int64_t begin, int64_t end)
{
    return (gemm_block){ .n1 = begin, .k1 = plan->args->k, .chunk_end = end };
}

/* Everything after x is ready: the blocks behind `b` until none is left. */
static void gemm_run(const gemm_plan *plan, const spey_lane *lane, gemm_block b,
                     gemm_panel_fn *panel)
{
    const spey_gemm_args *a = plan->args;
    const bool finish = a->w_scale || a->bias || a->activation != SPEY_ACT_NONE;
    bool more = a->rows > 0 && gemm_block_next(plan, lane, &b);
    while (more) {
        gemm_block next = b;
        more = gemm_block_next(plan, lane, &next);
        for (int64_t tile = 0; tile < plan->n_tiles; tile++) {
            int64_t row = tile * a->rows / plan->n_tiles;
            int64_t end = (tile + 1) * a->rows / plan->n_tiles;
            panel((int)(end - row), plan, &b, more ? &next : NULL, tile, row);
        }
        if (finish && b.k1 == a->k) gemm_finish(plan, &b);
        b = next;
    }
}

#endif
