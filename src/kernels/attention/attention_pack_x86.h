/* Tiles of the paged cache in the form that attention's inner loops want, for x86: include vec512.h or vec256.h first.
 *
 *   K  [k_dim][64] F32, transposed: one vector holds one dimension of many tokens, so that scores need no horizontal
 *      sums. Blocks of VEC_LANES tokens by VEC_LANES 32-bit words are transposed in registers; 16-bit elements travel
 *      as pairs and are widened afterwards, which halves the shuffles.
 *   V  rows as they lie in the cache, or widened to F32 rows padded with zeros. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_PACK_X86_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_PACK_X86_H

#include "kernels/attention/attention.h"
#include "kernels/kv_bytes.h"
#include "kernels/paged.h"
#include "kernels/x86/math.h"

enum { TILE = 64, TILE_VECS = TILE / VEC_LANES };

/* What takes the place of tokens that are not there. */
static const float attention_zeros[SPEY_HEAD_DIM_MAX] = { 0 };

/* Tokens [begin, end) of a sequence's cache, at most TILE and from one tile. */
typedef struct kv_tile {
    int64_t begin, end;
    const uint8_t *rows[2 * TILE]; /* K, then V, by index in the tile; zeros where there is none */
    bool scaled;                   /* by the token: I8 */
    float scales[2 * TILE];        /* of those rows, 0 where there is none */
} kv_tile;

/* What the inner loops work with: 8-bit elements are widened before (kv_tile_widen). */
static inline spey_dtype tile_dtype(const spey_attention_args *a)
{
    return spey_kv_in_bytes(a->kv.dtype) ? SPEY_BF16 : a->kv.dtype;
}

/* One division a tile; block by block from there. */
static inline void kv_tile_find(const spey_attention_args *a, int64_t s, int64_t kv_head,
                                int64_t begin, int64_t end, kv_tile *tile)
{
    const spey_kv_view *kv = &a->kv;
    const uint8_t *zeros = (const uint8_t *)(const void *)attention_zeros;
    const spey_block_table *table = &a->batch->groups[kv->group];
    const int32_t *blocks = table->blocks + s * table->pitch + begin / kv->block_tokens;
    int64_t inside = begin % kv->block_tokens, first = begin % TILE, i = first;
    tile->begin = begin;
    tile->end = end;
    for (int64_t t = 0; t < first; t++)
        tile->rows[t] = tile->rows[TILE + t] = zeros;
    while (i < first + end - begin) {
        const uint8_t *block = kv->base + *blocks++ * kv->block_bytes;
        const uint8_t *k = block + kv->k_offset + kv_head * kv->k_head_bytes;
        const uint8_t *v = block + kv->v_offset + kv_head * kv->v_head_bytes;
        for (; inside < kv->block_tokens && i < first + end - begin; inside++, i++) {
            tile->rows[i] = k + inside * kv->k_token_bytes;
            tile->rows[TILE + i] = v + inside * kv->v_token_bytes;
        }
        inside = 0;
    }
    for (; i < TILE; i++)
        tile->rows[i] = tile->rows[TILE + i] = zeros;
}

static inline void kv_tile_find_scales(const spey_attention_args *a, int64_t s, int64_t kv_head,
                                       kv_tile *tile)
{
    tile->scaled = a->kv.dtype == SPEY_I8;
    if (!tile->scaled) return;
    memset(tile->scales, 0, sizeof tile->scales);
    for (int64_t j = tile->begin; j < tile->end; j++) {
        tile->scales[j % TILE] = *spey_kv_k_scale(&a->kv, a->batch, s, kv_head, j);
        tile->scales[TILE + j % TILE] = *spey_kv_v_scale(&a->kv, a->batch, s, kv_head, j);
    }
}

/* ---- 8-bit elements ---- */

static inline vec vec_load_i8_n(const uint8_t *p, int64_t n)
{
#ifdef __AVX512F__
    __m128i bytes = _mm_maskz_loadu_epi8(vec512_first(n), p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
#else
    uint8_t all[VEC_LANES] = { 0 };
    memcpy(all, p, (size_t)n);
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)all);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
#endif
}

/* A row of E4M3 or I8 in BF16: all their numbers are BF16 numbers. */
static inline void widen_row(const uint8_t *row, spey_dtype dtype, int64_t n, uint16_t *out)
{
    for (int64_t i = 0; i < n; i += VEC_LANES) {
        int64_t some = n - i < VEC_LANES ? n - i : VEC_LANES;
        vec x;
        if (dtype == SPEY_I8) {
            x = vec_load_i8_n(row + i, some);
        } else {
            x = vec_mul(vec_load_e4m3_n(row + i, some), vec_set1(256));
            /* The largest pattern is NaN. */
            x = vec_select(vec_less(vec_set1(SPEY_E4M3_MAX), vec_abs(x)), vec_set1(NAN), x);
        }
        vec_store_bf16_n(out + i, x, some);
    }
}

/* Rows of the tile in BF16 at out, [2 TILE] of k_dim and of v_dim; the tile then shows those. */
static inline void kv_tile_widen(const spey_attention_args *a, kv_tile *tile, uint16_t *out)
{
    int64_t first = tile->begin % TILE, last = first + tile->end - tile->begin;
    for (int64_t t = first; t < last; t++, out += a->k_dim + a->v_dim) {
        widen_row(tile->rows[t], a->kv.dtype, a->k_dim, out);
        widen_row(tile->rows[TILE + t], a->kv.dtype, a->v_dim, out + a->k_dim);
        tile->rows[t] = (const uint8_t *)(const void *)out;
        tile->rows[TILE + t] = (const uint8_t *)(const void *)(out + a->k_dim);
    }
}

/* ---- prefetching ---- */

/* The rows of the next tile, asked for line by line while the current tile is worked on. Random pieces of 4 kB are too
 * short for hardware prefetchers; asking for many lines at once stalls for want of miss buffers. */
typedef struct prefetcher {
    const kv_tile *tile;
    int row, end;             /* of tile->rows */
    int64_t offset, bytes[2]; /* in the row; of a row of K and of V */
    int64_t lines;            /* to ask for in one call */
} prefetcher;

static inline void prefetch_some(prefetcher *f, int weight)
{
    for (int64_t n = f->lines * weight; n > 0 && f->row < f->end; n--) {
        _mm_prefetch((const char *)f->tile->rows[f->row] + f->offset, _MM_HINT_T0);
        f->offset += 64;
        if (f->offset < f->bytes[f->row / TILE]) continue;
        f->offset = 0;
        f->row++;
    }
}

/* ---- transposition of VEC_LANES rows of VEC_LANES words ---- */

#ifdef __AVX512F__
typedef __m512i words;

/* n 32-bit words, the others 0. */
static inline words words_load_n(const uint8_t *p, int64_t n)
{
    return _mm512_maskz_loadu_epi32(vec512_first(n), p);
}

/* n 16-bit elements as words of two, the others 0. */
static inline words words_load_halves(const uint8_t *p, int64_t n)
{
    return _mm512_maskz_loadu_epi16((__mmask32)(((uint64_t)1 << n) - 1), p);
}

static inline vec words_as_vec(words x)
{
    return _mm512_castsi512_ps(x);
}

static inline vec words_low_bf16(words x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}

static inline vec words_high_bf16(words x)
{
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000u)));
}

static inline vec words_low_f16(words x)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
}

static inline vec words_high_f16(words x)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)));
}

static inline void words_transpose(words r[16])
{
    words t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    /* r[4g + c]: column c of each quarter, of rows 4g … 4g + 3. */
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* Quarters of four registers are a 4 x 4 matrix of their own. */
    for (int c = 0; c < 4; c++) {
        words a = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44);
        words b = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xee);
        words d = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
        words e = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xee);
        t[c] = _mm512_shuffle_i32x4(a, d, 0x88);
        t[4 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
        t[8 + c] = _mm512_shuffle_i32x4(b, e, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
    }
    for (int i = 0; i < 16; i++)
        r[i] = t[i];
}
#else
typedef __m256i words;

/* n 32-bit words, the others 0. */
static inline words words_load_n(const uint8_t *p, int64_t n)
{
    return _mm256_maskload_epi32((const int *)(const void *)p, vec256_first(n));
}

/* n 16-bit elements as words of two, the others 0. */
static inline words words_load_halves(const uint8_t *p, int64_t n)
{
    if (n == 16) return _mm256_loadu_si256((const __m256i *)(const void *)p);
    uint16_t all[16] = { 0 };
    memcpy(all, p, (size_t)n * sizeof all[0]);
    return _mm256_loadu_si256((const __m256i *)(const void *)all);
}

static inline vec words_as_vec(words x)
{
    return _mm256_castsi256_ps(x);
}

static inline vec words_low_bf16(words x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}

static inline vec words_high_bf16(words x)
{
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000u)));
}

/* The low halves of the words, in order. */
static inline __m128i words_narrow(words x)
{
    x = _mm256_packus_epi32(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)), _mm256_setzero_si256());
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(x, 0x08));
}

static inline vec words_low_f16(words x)
{
    return _mm256_cvtph_ps(words_narrow(x));
}

static inline vec words_high_f16(words x)
{
    return _mm256_cvtph_ps(words_narrow(_mm256_srli_epi32(x, 16)));
}

static inline void words_transpose(words r[8])
{
    words t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; c++) {
        t[c] = _mm256_permute2x128_si256(r[c], r[4 + c], 0x20);
        t[4 + c] = _mm256_permute2x128_si256(r[c], r[4 + c], 0x31);
    }
    for (int i = 0; i < 8; i++)
        r[i] = t[i];
}
#endif

/* ---- K ---- */

/* Dimensions of one word: 16-bit elements travel in pairs. */
static inline int word_dims(spey_dtype dtype)
{
    return dtype == SPEY_F32 ? 1 : 2;
}

/* Words d / word_dims … of VEC_LANES tokens, one vector for each word; dimensions from k_dim on are 0. */
static inline void load_words(const uint8_t *const *k, spey_dtype dtype, int64_t d, int64_t k_dim,
                              words r[VEC_LANES])
{
    int64_t n = k_dim - d, all = VEC_LANES * word_dims(dtype);
    if (n > all) n = all;
    for (int t = 0; t < VEC_LANES; t++)
        r[t] =
            dtype == SPEY_F32 ? words_load_n(k[t] + 4 * d, n) : words_load_halves(k[t] + 2 * d, n);
    words_transpose(r);
}

#endif
