/* Online softmax of attention's rows, for x86, and what both kinds of tile share: attention_tile_x86.h computes in FP32,
 * attention_tile_x86_bf16.h with products of BF16. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_SOFTMAX_X86_H
#define SPEY_KERNELS_ATTENTION_ATTENTION_SOFTMAX_X86_H

#include <math.h>

#include "kernels/attention/attention_pack_x86.h"

/* Rows of a register block; with BLOCK_VECS vectors of tokens or of dimensions it fills the registers: 24 of 32, or 12
 * of 16. */
#ifdef __AVX512F__
enum { BLOCK_ROWS = 6 };
#else
enum { BLOCK_ROWS = 3 };
#endif
enum { BLOCK_VECS = 4 };

#define ALWAYS_INLINE inline __attribute__((always_inline))

static inline float scalar_exp(float x)
{
    float lanes[VEC_LANES];
    vec_store_f32(lanes, vec_exp(vec_set1(x)));
    return lanes[0];
}

/* A row's online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018) over a split. */
typedef struct row_state {
    int64_t begin, end; /* cache indices that it sees */
    int64_t index;      /* its own */
    float slope;        /* ALiBi */
    int64_t head;       /* of the queries */
    float max, sum;
    float rescale; /* what the accumulator is to be multiplied with before this tile is added */
} row_state;

/* spey_relative_bucket of each distance. */
typedef struct relative_table {
    int16_t buckets[SPEY_RELATIVE_DISTANCE_MAX + 1];
} relative_table;

static void relative_table_init(const spey_attention_args *a, relative_table *table)
{
    for (int64_t d = 0; a->relative.bias && d <= a->relative.max_distance; d++)
        table->buckets[d] = (int16_t)spey_relative_bucket(&a->relative, a->causal, d);
}

/* For VEC_LANES keys, the first of them `ahead` tokens after the query. */
static inline vec relative_bias(const spey_attention_args *a, const relative_table *table,
                                int64_t head, int64_t ahead)
{
    const spey_relative *r = &a->relative;
    const int64_t after = a->causal ? 0 : spey_relative_side(r, false);
    float lanes[VEC_LANES];
    for (int64_t l = 0; l < VEC_LANES; l++) {
        int64_t d = ahead + l, distance = d < 0 ? -d : d;
        if (d > 0 && a->causal) distance = 0; /* masked */
        if (distance > r->max_distance) distance = r->max_distance;
        int64_t bucket = table->buckets[distance] + (d > 0 ? after : 0);
        lanes[l] = r->bias[bucket * a->n_heads + head];
    }
    return vec_load_f32(lanes);
}

static ALWAYS_INLINE vec finish_scores(const spey_attention_args *a, const relative_table *relative,
                                       const row_state *row, vec s, int64_t first)
{
    static const float lanes[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    if (a->softcap > 0) {
        vec cap = vec_set1(a->softcap);
        s = vec_mul(cap, vec_tanh(vec_div(s, cap)));
    }
    if (a->alibi_slopes) {
        vec distance = vec_add(vec_set1((float)(first - row->index)), vec_load_f32(lanes));
        s = vec_fma(vec_set1(row->slope), distance, s);
    }
    if (a->relative.bias) s = vec_add(s, relative_bias(a, relative, row->head, first - row->index));
    return s;
}

/* -infinity outside of [begin, end), lane 0 being token `first`. */
static inline vec mask_scores(const row_state *row, vec s, int64_t first)
{
    static const float lanes[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    const vec lane = vec_load_f32(lanes), out = vec_set1(-INFINITY);
    int64_t begin = row->begin - first, end = row->end - first;
    float low = begin < 0 ? 0 : begin > VEC_LANES ? VEC_LANES : (float)begin;
    float high = end < 0 ? 0 : end > VEC_LANES ? VEC_LANES : (float)end;
    s = vec_select(vec_less(lane, vec_set1(low)), out, s);
    return vec_select(vec_less(lane, vec_set1(high)), s, out);
}

/* Keeps weights of columns v · VEC_LANES … in row s; returns them as kept. */
typedef vec keep_weights_fn(float *s, int v, vec weights);

/* The weights times the tile's scales of V. Where a weight is 0 the token may be one that the row does not see, and its
 * scale NaN. */
static inline vec scale_weights(const kv_tile *keys, int v, vec weights)
{
    vec scaled = vec_mul(weights, vec_load_f32(keys->scales + TILE + v * VEC_LANES));
    return vec_select(vec_less(vec_zero(), weights), scaled, vec_zero());
}

/* s of one row, products of q and the elements of `keys`, becomes its weights of the elements of V. */
static ALWAYS_INLINE void softmax_row_with(keep_weights_fn *keep_weights,
                                           const spey_attention_args *a,
                                           const relative_table *relative, row_state *row,
                                           const kv_tile *keys, float *s)
{
    const int64_t tile = keys->begin / TILE * TILE; /* the cache index of the first column */
    bool masked = row->begin > tile || row->end < tile + TILE;
    vec x[TILE_VECS], most = vec_set1(row->max);
    for (int v = 0; v < TILE_VECS; v++) {
        int64_t first = tile + v * VEC_LANES;
        x[v] = vec_load_f32(s + v * VEC_LANES);
        if (keys->scaled) x[v] = vec_mul(x[v], vec_load_f32(keys->scales + v * VEC_LANES));
        x[v] = finish_scores(a, relative, row, x[v], first);
        if (masked) x[v] = mask_scores(row, x[v], first);
        most = vec_max(most, x[v]);
    }
    float max = vec_max_lane(most);
    row->rescale = max == row->max ? 1 : scalar_exp(row->max - max);
    row->max = max;
    vec sums[4] = { vec_zero(), vec_zero(), vec_zero(), vec_zero() }, m = vec_set1(max);
    for (int v = 0; v < TILE_VECS; v++) {
        vec weights = vec_exp(vec_sub(x[v], m));
        if (keys->scaled)
            keep_weights(s, v, scale_weights(keys, v, weights));
        else
            weights = keep_weights(s, v, weights);
        sums[v % 4] = vec_add(sums[v % 4], weights);
    }
    float sum = vec_sum(vec_add(vec_add(sums[0], sums[1]), vec_add(sums[2], sums[3])));
    row->sum = row->sum * row->rescale + sum;
}

#endif
