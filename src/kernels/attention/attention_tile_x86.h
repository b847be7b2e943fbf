/* The inner loops of attention for x86 in FP32: scores and weighted sums of a block of rows over one tile of the
 * cache. A row is one query head of one token. Nothing here depends on the other rows of a block: a row's bits are a function
 * of its own query, its own range of tokens and the cache. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_TILE_X86_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_TILE_X86_H

#include "kernels/attention/attention_softmax_x86.h"

static inline bool tile_supports(const spey_attention_args *a)
{
    return spey_kv_is_known(a->kv.dtype);
}

/* ---- queries and weights: FP32 ---- */

/* Words from one row's query to the next. */
static inline int64_t query_words(int64_t k_dim)
{
    return k_dim;
}

static inline void keep_query(const float *q, float scale, int64_t k_dim, float *out)
{
    for (int64_t i = 0; i < k_dim; i += VEC_LANES) {
        int64_t n = k_dim - i < VEC_LANES ? k_dim - i : VEC_LANES;
        vec_store_f32_n(out + i, vec_mul(vec_set1(scale), vec_load_f32_n(q + i, n)), n);
    }
}

static inline vec keep_weights(float *s, int v, vec weights)
{
    vec_store_f32(s + v * VEC_LANES, weights);
    return weights;
}

static inline void softmax_row(const spey_attention_args *a, const relative_table *relative,
                               row_state *row, const kv_tile *keys, float *s)
{
    softmax_row_with(keep_weights, a, relative, row, keys, s);
}

/* ---- K ---- */

/* Dimension i of words of load_words. */
static inline vec word_dim(const words *r, spey_dtype dtype, int i)
{
    if (dtype == SPEY_F32) return words_as_vec(r[i]);
    if (dtype == SPEY_BF16) return i % 2 ? words_high_bf16(r[i / 2]) : words_low_bf16(r[i / 2]);
    return i % 2 ? words_high_f16(r[i / 2]) : words_low_f16(r[i / 2]);
}

static inline __attribute__((always_inline)) void
pack_k_columns(const uint8_t *const *k, spey_dtype dtype, int64_t k_dim, prefetcher *f, float *out)
{
    const int step = VEC_LANES * word_dims(dtype);
    for (int64_t d = 0; d < k_dim; d += step) {
        words r[VEC_LANES];
        prefetch_some(f, 2);
        load_words(k, dtype, d, k_dim, r);
        for (int i = 0; i < step && d + i < k_dim; i++)
            vec_store_f32(out + (d + i) * TILE, word_dim(r, dtype, i));
    }
}

/* K of the tile into out[k_dim][TILE]; columns of vectors without a token are left as they are. */
static inline void pack_k(const kv_tile *tile, spey_dtype dtype, int64_t k_dim, prefetcher *f,
                          float *out)
{
    int64_t first = tile->begin % TILE, last = first + tile->end - tile->begin;
    for (int64_t t = first / VEC_LANES * VEC_LANES; t < last; t += VEC_LANES) {
        if (dtype == SPEY_F32)
            pack_k_columns(tile->rows + t, SPEY_F32, k_dim, f, out + t);
        else if (dtype == SPEY_BF16)
            pack_k_columns(tile->rows + t, SPEY_BF16, k_dim, f, out + t);
        else
            pack_k_columns(tile->rows + t, SPEY_F16, k_dim, f, out + t);
    }
}

/* ---- V ---- */

/* Whether weigh_ranges takes V as it lies in the cache. */
static inline bool v_in_place(const spey_attention_args *a, bool few_rows)
{
    return a->v_dim % VEC_LANES == 0 && (a->kv.dtype == SPEY_F32 || few_rows);
}

/* V of the tile into out[TILE][v_padded] F32; tile->v then shows the rows there. */
static inline void pack_v(kv_tile *tile, spey_dtype dtype, int64_t v_dim, int64_t v_padded,
                          float *out)
{
    int64_t first = tile->begin % TILE, last = first + tile->end - tile->begin;
    for (int64_t t = first; t < last; t++) {
        float *row = out + t * v_padded;
        for (int64_t i = 0; i < v_dim; i += VEC_LANES) {
            int64_t n = v_dim - i < VEC_LANES ? v_dim - i : VEC_LANES;
            vec_store_f32(row + i, vec_load_n(tile->rows[TILE + t], dtype, i, n));
        }
        tile->rows[TILE + t] = (const uint8_t *)(const void *)row;
    }
}

/* ---- scores ---- */

static ALWAYS_INLINE void scores_block(const int rows, const float *q, int64_t k_dim,
                                       const float *kt, prefetcher *f, float *s)
{
    for (int part = 0; part < TILE_VECS; part += BLOCK_VECS) {
        const float *k = kt + part * VEC_LANES;
        vec sums[BLOCK_ROWS][BLOCK_VECS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < BLOCK_VECS; v++)
                sums[r][v] = vec_zero();
        for (int64_t d = 0; d < k_dim; d++) {
            if (d % 4 == 0) prefetch_some(f, 1);
            for (int r = 0; r < rows; r++) {
                vec x = vec_set1(q[r * k_dim + d]);
                for (int v = 0; v < BLOCK_VECS; v++)
                    sums[r][v] = vec_fma(x, vec_load_f32(k + d * TILE + v * VEC_LANES), sums[r][v]);
            }
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < BLOCK_VECS; v++)
                vec_store_f32(s + r * TILE + (part + v) * VEC_LANES, sums[r][v]);
    }
}

/* s[rows][TILE] = q[rows][k_dim] · kt[k_dim][TILE] */
static inline void scores(int64_t rows, const float *q, int64_t k_dim, const float *kt,
                          prefetcher *f, float *s)
{
    switch (rows) {
    case 1: scores_block(1, q, k_dim, kt, f, s); break;
    case 2: scores_block(2, q, k_dim, kt, f, s); break;
    case 3: scores_block(3, q, k_dim, kt, f, s); break;
#ifdef __AVX512F__
    case 4: scores_block(4, q, k_dim, kt, f, s); break;
    case 5: scores_block(5, q, k_dim, kt, f, s); break;
    case 6: scores_block(6, q, k_dim, kt, f, s); break;
#endif
    default: break;
    }
}

/* Few rows: K is transposed VEC_LANES words at a time into a buffer that stays in the L1 cache, and widened where it is
 * used. The sums are those of scores_block: each lane adds the dimensions in order. */
enum { DIRECT_ROWS = 8 };

/* s[rows][TILE] (+)= the n dimensions that `k` holds, q[0 … n) of each row. */
static ALWAYS_INLINE void add_words(const int rows, spey_dtype dtype, const float *q, int64_t k_dim,
                                    int64_t n, const words *k, bool first, float *s)
{
    const int dims = word_dims(dtype);
    for (int part = 0; part < TILE_VECS; part += BLOCK_VECS) {
        vec sums[BLOCK_ROWS][BLOCK_VECS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < BLOCK_VECS; v++)
                sums[r][v] =
                    first ? vec_zero() : vec_load_f32(s + r * TILE + (part + v) * VEC_LANES);
        for (int64_t d = 0; d < n; d += dims) {
            const words *w = k + d / dims * TILE_VECS + part;
            for (int i = 0; i < dims && d + i < n; i++) {
                vec wide[BLOCK_VECS];
                for (int v = 0; v < BLOCK_VECS; v++)
                    wide[v] = word_dim(w + v, dtype, i);
                for (int r = 0; r < rows; r++) {
                    vec x = vec_set1(q[r * k_dim + d + i]);
                    for (int v = 0; v < BLOCK_VECS; v++)
                        sums[r][v] = vec_fma(x, wide[v], sums[r][v]);
                }
            }
        }
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < BLOCK_VECS; v++)
                vec_store_f32(s + r * TILE + (part + v) * VEC_LANES, sums[r][v]);
    }
}

static ALWAYS_INLINE void add_words_any(int64_t rows, spey_dtype dtype, const float *q,
                                        int64_t k_dim, int64_t n, const words *k, bool first,
                                        float *s)
{
    switch (rows) {
    case 1: add_words(1, dtype, q, k_dim, n, k, first, s); break;
    case 2: add_words(2, dtype, q, k_dim, n, k, first, s); break;
    case 3: add_words(3, dtype, q, k_dim, n, k, first, s); break;
#ifdef __AVX512F__
    case 4: add_words(4, dtype, q, k_dim, n, k, first, s); break;
    case 5: add_words(5, dtype, q, k_dim, n, k, first, s); break;
    case 6: add_words(6, dtype, q, k_dim, n, k, first, s); break;
#endif
    default: break;
    }
}

static ALWAYS_INLINE void scores_direct_of(int64_t rows, spey_dtype dtype, const float *q,
                                           int64_t k_dim, const kv_tile *tile, prefetcher *f,
                                           float *s)
{
    const int step = VEC_LANES * word_dims(dtype);
    words k[VEC_LANES * TILE_VECS];
    memset(k, 0, sizeof k);
    int64_t first = tile->begin % TILE / VEC_LANES;
    int64_t last = (tile->begin % TILE + tile->end - tile->begin + VEC_LANES - 1) / VEC_LANES;
    for (int64_t d = 0; d < k_dim; d += step) {
        for (int64_t v = first; v < last; v++) {
            words w[VEC_LANES];
            prefetch_some(f, 2);
            load_words(tile->rows + v * VEC_LANES, dtype, d, k_dim, w);
            for (int i = 0; i < VEC_LANES; i++)
                k[i * TILE_VECS + v] = w[i];
        }
        int64_t n = k_dim - d < step ? k_dim - d : step;
        int64_t n_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
        for (int64_t b = 0, r = 0; b < n_blocks; b++) {
            int64_t some = (rows - r + n_blocks - b - 1) / (n_blocks - b);
            add_words_any(some, dtype, q + r * k_dim + d, k_dim, n, k, d == 0, s + r * TILE);
            r += some;
        }
    }
}

/* s[rows][TILE] = q[rows][k_dim] · K of the tile, rows <= DIRECT_ROWS. */
static inline void scores_direct(int64_t rows, spey_dtype dtype, const float *q, int64_t k_dim,
                                 const kv_tile *tile, prefetcher *f, float *s)
{
    if (dtype == SPEY_F32)
        scores_direct_of(rows, SPEY_F32, q, k_dim, tile, f, s);
    else if (dtype == SPEY_BF16)
        scores_direct_of(rows, SPEY_BF16, q, k_dim, tile, f, s);
    else
        scores_direct_of(rows, SPEY_F16, q, k_dim, tile, f, s);
}

/* ---- weighted sums ---- */

static ALWAYS_INLINE vec load_v(const uint8_t *p, spey_dtype dtype, int64_t i)
{
    const uint16_t *h = (const uint16_t *)(const void *)p;
    if (dtype == SPEY_F32) return vec_load_f32((const float *)(const void *)p + i);
    return dtype == SPEY_BF16 ? vec_load_bf16(h + i) : vec_load_f16(h + i);
}

/* `vecs` vectors of dimensions from i on, for `rows` rows. */
static ALWAYS_INLINE void weigh_columns(const int rows, const int vecs, spey_dtype dtype,
                                        const float *p, const uint8_t *const *v, int64_t begin,
                                        int64_t end, const row_state *state, int64_t i,
                                        prefetcher *f, float *acc, int64_t pitch)
{
    vec sums[BLOCK_ROWS][2 * BLOCK_VECS];
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < vecs; k++)
            sums[r][k] = vec_mul(vec_load_f32(acc + r * pitch + i + k * VEC_LANES),
                                 vec_set1(state[r].rescale));
    for (int64_t t = begin; t < end; t++) {
        if (t % 2 == 0) prefetch_some(f, 1);
        vec value[2 * BLOCK_VECS];
        for (int k = 0; k < vecs; k++)
            value[k] = load_v(v[t], dtype, i + k * VEC_LANES);
        for (int r = 0; r < rows; r++) {
            vec weight = vec_set1(p[r * TILE + t]);
            for (int k = 0; k < vecs; k++)
                sums[r][k] = vec_fma(weight, value[k], sums[r][k]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < vecs; k++)
            vec_store_f32(acc + r * pitch + i + k * VEC_LANES, sums[r][k]);
}

/* Columns done at once: few rows leave registers for more, and need them to hide the latency of the additions. */
static inline int64_t column_step(int64_t rows)
{
    return (rows <= BLOCK_ROWS / 2 ? 2 : 1) * BLOCK_VECS * VEC_LANES;
}

static ALWAYS_INLINE void weigh_block(const int rows, spey_dtype dtype, const float *p,
                                      const uint8_t *const *v, int64_t begin, int64_t end,
                                      const row_state *state, prefetcher *f, float *acc,
                                      int64_t pitch)
{
    int64_t i = 0;
    for (; rows <= BLOCK_ROWS / 2 && i + column_step(rows) <= pitch; i += column_step(rows))
        weigh_columns(rows, 2 * BLOCK_VECS, dtype, p, v, begin, end, state, i, f, acc, pitch);
    for (; i + BLOCK_VECS * VEC_LANES <= pitch; i += BLOCK_VECS * VEC_LANES)
        weigh_columns(rows, BLOCK_VECS, dtype, p, v, begin, end, state, i, f, acc, pitch);
    for (; i < pitch; i += VEC_LANES)
        weigh_columns(rows, 1, dtype, p, v, begin, end, state, i, f, acc, pitch);
}

static ALWAYS_INLINE void weigh_any(int64_t rows, spey_dtype dtype, const float *p,
                                    const uint8_t *const *v, int64_t begin, int64_t end,
                                    const row_state *state, prefetcher *f, float *acc,
                                    int64_t pitch)
{
    switch (rows) {
    case 1: weigh_block(1, dtype, p, v, begin, end, state, f, acc, pitch); break;
    case 2: weigh_block(2, dtype, p, v, begin, end, state, f, acc, pitch); break;
    case 3: weigh_block(3, dtype, p, v, begin, end, state, f, acc, pitch); break;
#ifdef __AVX512F__
    case 4: weigh_block(4, dtype, p, v, begin, end, state, f, acc, pitch); break;
    case 5: weigh_block(5, dtype, p, v, begin, end, state, f, acc, pitch); break;
    case 6: weigh_block(6, dtype, p, v, begin, end, state, f, acc, pitch); break;
#endif
    default: break;
    }
}

/* acc[rows][pitch] = rescale · acc + Σ p[rows][t] v[t] for columns [begin, end) of the tile. */
static void weigh(int64_t rows, spey_dtype dtype, const float *p, const uint8_t *const *v,
                  int64_t begin, int64_t end, const row_state *state, prefetcher *f, float *acc,
                  int64_t pitch)
{
    if (dtype == SPEY_F32)
        weigh_any(rows, SPEY_F32, p, v, begin, end, state, f, acc, pitch);
    else if (dtype == SPEY_F16)
        weigh_any(rows, SPEY_F16, p, v, begin, end, state, f, acc, pitch);
    else
        weigh_any(rows, SPEY_BF16, p, v, begin, end, state, f, acc, pitch);
}

/* The same for rows whose ranges differ: those columns that all of them see are done together, the others row by row.
 * A row never touches a column that it does not see, so not even a NaN there reaches it. v are rows of the cache, or
 * with `packed` those of pack_v. */
static inline void weigh_ranges(const spey_attention_args *a, int64_t rows, bool packed,
                                const float *p, const uint8_t *const *v, int64_t tile,
                                row_state *state, prefetcher *f, float *acc)
{
    const spey_dtype dtype = packed ? SPEY_F32 : tile_dtype(a);
    const int64_t pitch = (a->v_dim + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
    int64_t low[BLOCK_ROWS] = { 0 }, high[BLOCK_ROWS] = { 0 }, begin = 0, end = TILE;
    for (int r = 0; r < rows; r++) {
        low[r] = state[r].begin > tile ? state[r].begin - tile : 0;
        high[r] = state[r].end < tile + TILE ? state[r].end - tile : TILE;
        if (low[r] > begin) begin = low[r];
        if (high[r] < end) end = high[r];
    }
    bool together = begin < end;
    for (int r = 0; r < rows; r++) {
        int64_t stop = together ? begin : high[r];
        if (low[r] >= stop) continue;
        weigh(1, dtype, p + r * TILE, v, low[r], stop, state + r, f, acc + r * pitch, pitch);
        state[r].rescale = 1;
    }
    if (!together) return;
    weigh(rows, dtype, p, v, begin, end, state, f, acc, pitch);
    for (int r = 0; r < rows; r++) {
        state[r].rescale = 1;
        if (end < high[r])
            weigh(1, dtype, p + r * TILE, v, end, high[r], state + r, f, acc + r * pitch, pitch);
    }
}

#endif
