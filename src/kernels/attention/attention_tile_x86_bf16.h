/* The inner loops of attention in AVX512_BF16: K and V of BF16, scale · q and the weights rounded to BF16, sums in FP32. The
 * same interface as attention_tile_x86.h.
 *
 * VDPBF16PS adds two products to each of 16 sums, so everything travels in words of two:
 *
 *   q        dimensions (2i, 2i + 1), spread over a vector
 *   K        the same dimensions of 16 tokens, as the transposition leaves them: nothing is widened
 *   weights  tokens (2i, 2i + 1) of one row, spread; the denominator adds them as they were rounded, so that what rounding
 *            does to all of them alike cancels
 *   V        the same tokens of 16 dimensions: two rows, shuffled into each other
 *
 * Pairs lie at even cache indices. At the ends of what a row sees, half a pair is 0: a row's bits do not depend on who
 * does that token. The instruction takes subnormal numbers for 0. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_TILE_X86_BF16_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_TILE_X86_BF16_H

#include "kernels/attention/attention_softmax_x86.h"

static inline bool tile_supports(const spey_attention_args *a)
{
    return a->precision == SPEY_PRECISION_16 &&
           (a->kv.dtype == SPEY_BF16 || spey_kv_in_bytes(a->kv.dtype));
}

/* ---- queries and weights ---- */

/* Words from one row's query to the next. */
static inline int64_t query_words(int64_t k_dim)
{
    return (k_dim + 1) / 2;
}

static inline void keep_query(const float *q, float scale, int64_t k_dim, float *out)
{
    uint16_t *halves = (uint16_t *)(void *)out;
    for (int64_t i = 0; i < k_dim; i += VEC_LANES) {
        int64_t n = k_dim - i < VEC_LANES ? k_dim - i : VEC_LANES;
        __m256bh h = _mm512_cvtneps_pbh(vec_mul(vec_set1(scale), vec_load_f32_n(q + i, n)));
        /* With an odd k_dim the last half is written too: it is 0. */
        _mm256_mask_storeu_epi16(halves + i, vec512_first((n + 1) / 2 * 2), (__m256i)h);
    }
}

/* 16 halves a vector, in the first half of s. */
static inline vec keep_weights(float *s, int v, vec weights)
{
    __m256i h = (__m256i)_mm512_cvtneps_pbh(weights);
    _mm256_storeu_si256((__m256i *)(void *)s + v, h);
    return vec512_widen_bf16(h);
}

static inline void softmax_row(const spey_attention_args *a, const relative_table *relative,
                               row_state *row, const kv_tile *keys, float *s)
{
    softmax_row_with(keep_weights, a, relative, row, keys, s);
}

/* Word i of p in all lanes. */
static inline __m512bh spread_word(const float *p, int64_t i)
{
    return (__m512bh)_mm512_set1_epi32(((const int32_t *)(const void *)p)[i]);
}

/* ---- scores ---- */

/* Words of K of the tile into out[(k_dim + 1) / 2][TILE]; columns of vectors without a token are left as they are. */
static inline void pack_k(const kv_tile *tile, spey_dtype dtype, int64_t k_dim, prefetcher *f,
                          float *out)
{
    (void)dtype;
    int64_t first = tile->begin % TILE, last = first + tile->end - tile->begin;
    int64_t n_words = query_words(k_dim);
    for (int64_t t = first / VEC_LANES * VEC_LANES; t < last; t += VEC_LANES) {
        for (int64_t i = 0; i < n_words; i += VEC_LANES) {
            words r[VEC_LANES];
            prefetch_some(f, 2);
            load_words(tile->rows + t, SPEY_BF16, 2 * i, k_dim, r);
            for (int k = 0; k < VEC_LANES && i + k < n_words; k++)
                vec_store_f32(out + (i + k) * TILE + t, words_as_vec(r[k]));
        }
    }
}

/* s[rows][TILE] (+)= n words of q · the words in k[n][TILE]. */
static ALWAYS_INLINE void scores_block(const int rows, const float *q, int64_t q_pitch, int64_t n,
                                       const float *k, bool first, prefetcher *f, float *s)
{
    vec sums[BLOCK_ROWS][TILE_VECS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < TILE_VECS; v++)
            sums[r][v] = first ? vec_zero() : vec_load_f32(s + r * TILE + v * VEC_LANES);
    for (int64_t i = 0; i < n; i++) {
        if (i % 2 == 0) prefetch_some(f, 1);
        __m512bh keys[TILE_VECS];
        for (int v = 0; v < TILE_VECS; v++)
            keys[v] = (__m512bh)_mm512_loadu_si512(k + i * TILE + v * VEC_LANES);
        for (int r = 0; r < rows; r++) {
            __m512bh x = spread_word(q + r * q_pitch, i);
            for (int v = 0; v < TILE_VECS; v++)
                sums[r][v] = _mm512_dpbf16_ps(sums[r][v], keys[v], x);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < TILE_VECS; v++)
            vec_store_f32(s + r * TILE + v * VEC_LANES, sums[r][v]);
}

static inline void scores_any(int64_t rows, const float *q, int64_t q_pitch, int64_t n,
                              const float *k, bool first, prefetcher *f, float *s)
{
    switch (rows) {
    case 1: scores_block(1, q, q_pitch, n, k, first, f, s); break;
    case 2: scores_block(2, q, q_pitch, n, k, first, f, s); break;
    case 3: scores_block(3, q, q_pitch, n, k, first, f, s); break;
    case 4: scores_block(4, q, q_pitch, n, k, first, f, s); break;
    case 5: scores_block(5, q, q_pitch, n, k, first, f, s); break;
    case 6: scores_block(6, q, q_pitch, n, k, first, f, s); break;
    default: break;
    }
}

/* s[rows][TILE] = q[rows] · the words of pack_k */
static inline void scores(int64_t rows, const float *q, int64_t k_dim, const float *kt,
                          prefetcher *f, float *s)
{
    scores_any(rows, q, query_words(k_dim), query_words(k_dim), kt, true, f, s);
}

/* Few rows: VEC_LANES words of K at a time, in a buffer that stays in the L1 cache. The sums are those of `scores`. */
enum { DIRECT_ROWS = 8 };

static inline void scores_direct(int64_t rows, spey_dtype dtype, const float *q, int64_t k_dim,
                                 const kv_tile *tile, prefetcher *f, float *s)
{
    (void)dtype;
    words k[VEC_LANES * TILE_VECS];
    memset(k, 0, sizeof k);
    int64_t n_words = query_words(k_dim), first = tile->begin % TILE / VEC_LANES;
    int64_t last = (tile->begin % TILE + tile->end - tile->begin + VEC_LANES - 1) / VEC_LANES;
    prefetcher none = { 0 };
    for (int64_t i = 0; i < n_words; i += VEC_LANES) {
        for (int64_t v = first; v < last; v++) {
            words w[VEC_LANES];
            prefetch_some(f, 2);
            load_words(tile->rows + v * VEC_LANES, SPEY_BF16, 2 * i, k_dim, w);
            for (int j = 0; j < VEC_LANES; j++)
                k[j * TILE_VECS + v] = w[j];
        }
        int64_t n = n_words - i < VEC_LANES ? n_words - i : VEC_LANES;
        int64_t n_blocks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
        for (int64_t b = 0, r = 0; b < n_blocks; b++) {
            int64_t some = (rows - r + n_blocks - b - 1) / (n_blocks - b);
            scores_any(some, q + r * n_words + i, n_words, n, (const float *)(const void *)k,
                       i == 0, &none, s + r * TILE);
            r += some;
        }
    }
}

/* ---- weighted sums ---- */

static inline bool v_in_place(const spey_attention_args *a, bool few_rows)
{
    (void)a;
    return few_rows;
}

/* Dimensions [i, i + 32) of two tokens, in pairs: two vectors of 16 dimensions. `mask`: those that are there. */
static ALWAYS_INLINE void load_pairs(const uint8_t *even, const uint8_t *odd, int64_t i,
                                     __mmask32 mask, words out[2])
{
    static const uint16_t order[2][32] = {
        { 0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
          8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47 },
        { 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
          24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63 },
    };
    words a = _mm512_maskz_loadu_epi16(mask, even + 2 * i);
    words b = _mm512_maskz_loadu_epi16(mask, odd + 2 * i);
    out[0] = _mm512_permutex2var_epi16(a, _mm512_loadu_si512(order[0]), b);
    out[1] = _mm512_permutex2var_epi16(a, _mm512_loadu_si512(order[1]), b);
}

static inline __mmask32 dims_mask(int64_t n)
{
    return n >= 32 ? UINT32_MAX : n <= 0 ? 0 : (__mmask32)((1u << n) - 1);
}

/* V of the tile into words out[TILE / 2][v_padded]; the rows of even tokens then point there. */
static inline void pack_v(kv_tile *tile, spey_dtype dtype, int64_t v_dim, int64_t v_padded,
                          float *out)
{
    (void)dtype;
    int64_t first = tile->begin % TILE / 2 * 2;
    int64_t last = tile->begin % TILE + tile->end - tile->begin;
    for (int64_t t = first; t < last; t += 2) {
        float *row = out + t / 2 * v_padded;
        for (int64_t i = 0; i < v_dim; i += 32) {
            words pairs[2];
            load_pairs(tile->rows[TILE + t], tile->rows[TILE + t + 1], i, dims_mask(v_dim - i),
                       pairs);
            vec_store_f32(row + i, words_as_vec(pairs[0]));
            if (i + VEC_LANES < v_padded)
                vec_store_f32(row + i + VEC_LANES, words_as_vec(pairs[1]));
        }
        tile->rows[TILE + t] = (const uint8_t *)(const void *)row;
    }
}

/* `vecs` vectors of dimensions from i on, for `rows` rows; without `packed`, two or a multiple of it unless they are the
 * last. */
static ALWAYS_INLINE void weigh_columns(const int rows, const int vecs, const bool packed,
                                        int64_t v_dim, const float *p, const uint8_t *const *v,
                                        int64_t begin, int64_t end, const row_state *state,
                                        int64_t i, prefetcher *f, float *acc, int64_t pitch)
{
    vec sums[BLOCK_ROWS][2 * BLOCK_VECS];
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < vecs; k++)
            sums[r][k] = vec_mul(vec_load_f32(acc + r * pitch + i + k * VEC_LANES),
                                 vec_set1(state[r].rescale));
    for (int64_t t = begin & ~(int64_t)1; t < end; t += 2) {
        words value[2 * BLOCK_VECS + 1];
        prefetch_some(f, 1);
        for (int k = 0; k < vecs; k += packed ? 1 : 2) {
            if (packed)
                value[k] =
                    _mm512_loadu_si512((const float *)(const void *)v[t] + i + k * VEC_LANES);
            else
                load_pairs(v[t], v[t + 1], i + k * VEC_LANES, dims_mask(v_dim - i - k * VEC_LANES),
                           value + k);
        }
        if (t < begin || t + 2 > end) {
            words seen =
                _mm512_set1_epi32((t < begin ? 0 : 0xffff) | (t + 2 > end ? 0 : (int)0xffff0000u));
            for (int k = 0; k < vecs; k++)
                value[k] = _mm512_and_si512(value[k], seen);
        }
        for (int r = 0; r < rows; r++) {
            __m512bh weight = spread_word(p + r * TILE, t / 2);
            for (int k = 0; k < vecs; k++)
                sums[r][k] = _mm512_dpbf16_ps(sums[r][k], (__m512bh)value[k], weight);
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

static ALWAYS_INLINE void weigh_block(const int rows, const bool packed, int64_t v_dim,
                                      const float *p, const uint8_t *const *v, int64_t begin,
                                      int64_t end, const row_state *state, prefetcher *f,
                                      float *acc, int64_t pitch)
{
    int64_t i = 0;
    for (; rows <= BLOCK_ROWS / 2 && i + column_step(rows) <= pitch; i += column_step(rows))
        weigh_columns(rows, 2 * BLOCK_VECS, packed, v_dim, p, v, begin, end, state, i, f, acc,
                      pitch);
    for (; i + BLOCK_VECS * VEC_LANES <= pitch; i += BLOCK_VECS * VEC_LANES)
        weigh_columns(rows, BLOCK_VECS, packed, v_dim, p, v, begin, end, state, i, f, acc, pitch);
    for (; i < pitch; i += VEC_LANES)
        weigh_columns(rows, 1, packed, v_dim, p, v, begin, end, state, i, f, acc, pitch);
}

static ALWAYS_INLINE void weigh_any(int64_t rows, const bool packed, int64_t v_dim, const float *p,
                                    const uint8_t *const *v, int64_t begin, int64_t end,
                                    const row_state *state, prefetcher *f, float *acc,
                                    int64_t pitch)
{
    switch (rows) {
    case 1: weigh_block(1, packed, v_dim, p, v, begin, end, state, f, acc, pitch); break;
    case 2: weigh_block(2, packed, v_dim, p, v, begin, end, state, f, acc, pitch); break;
    case 3: weigh_block(3, packed, v_dim, p, v, begin, end, state, f, acc, pitch); break;
    case 4: weigh_block(4, packed, v_dim, p, v, begin, end, state, f, acc, pitch); break;
    case 5: weigh_block(5, packed, v_dim, p, v, begin, end, state, f, acc, pitch); break;
    case 6: weigh_block(6, packed, v_dim, p, v, begin, end, state, f, acc, pitch); break;
    default: break;
    }
}

/* acc[rows][pitch] = rescale · acc + Σ p[rows][t] v[t] for columns [begin, end) of the tile. */
static void weigh(int64_t rows, bool packed, int64_t v_dim, const float *p, const uint8_t *const *v,
                  int64_t begin, int64_t end, const row_state *state, prefetcher *f, float *acc,
                  int64_t pitch)
{
    if (packed)
        weigh_any(rows, true, v_dim, p, v, begin, end, state, f, acc, pitch);
    else
        weigh_any(rows, false, v_dim, p, v, begin, end, state, f, acc, pitch);
}

/* What all rows see, in columns of the tile, is done together; the rest row by row. A pair of which a row sees one half is
 * done together only by rows that see the same half. */
static inline void weigh_ranges(const spey_attention_args *a, int64_t rows, bool packed,
                                const float *p, const uint8_t *const *v, int64_t tile,
                                row_state *state, prefetcher *f, float *acc)
{
    const int64_t pitch = (a->v_dim + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
    int64_t low[BLOCK_ROWS] = { 0 }, high[BLOCK_ROWS] = { 0 }, begin = 0, end = TILE;
    bool even_begin = false, even_end = false;
    for (int r = 0; r < rows; r++) {
        low[r] = state[r].begin > tile ? state[r].begin - tile : 0;
        high[r] = state[r].end < tile + TILE ? state[r].end - tile : TILE;
        even_begin |= low[r] != low[0];
        even_end |= high[r] != high[0];
        if (low[r] > begin) begin = low[r];
        if (high[r] < end) end = high[r];
    }
    if (even_begin) begin = (begin + 1) & ~(int64_t)1;
    if (even_end) end &= ~(int64_t)1;
    bool together = begin < end;
    for (int r = 0; r < rows; r++) {
        int64_t stop = together ? begin : high[r];
        if (low[r] >= stop) continue;
        weigh(1, packed, a->v_dim, p + r * TILE, v, low[r], stop, state + r, f, acc + r * pitch,
              pitch);
        state[r].rescale = 1;
    }
    if (!together) return;
    weigh(rows, packed, a->v_dim, p, v, begin, end, state, f, acc, pitch);
    for (int r = 0; r < rows; r++) {
        state[r].rescale = 1;
        if (end < high[r])
            weigh(1, packed, a->v_dim, p + r * TILE, v, end, high[r], state + r, f, acc + r * pitch,
                  pitch);
    }
}

#endif
