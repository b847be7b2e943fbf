/* embed: out[r, :] = scale * table[number[r] + begin, :], or scale * own[-1 - number[r], :] when number[r] < 0
 *
 *   number the batch's ids or its positions
 *   table  [entries, cols] F32, F16 or BF16, dense rows
 *   own    [.., cols] F32, dense: what requests bring along in place of the table's; NULL: no number is negative
 *   out    [rows, cols] F32 (devices: also BF16/F16), pitch in elements
 * The runtime checks that 0 <= number + begin < entries, or that own has the row. rows == 0 touches nothing. One product per
 * element, rounded once. */
#ifndef SPEY_KERNELS_EMBED_EMBED_H
#define SPEY_KERNELS_EMBED_EMBED_H

#include "kernels/ragged.h"

typedef enum spey_embed_source { SPEY_EMBED_IDS, SPEY_EMBED_POSITIONS } spey_embed_source;

typedef struct spey_embed_args {
    int64_t rows; /* tokens */
    int64_t cols;
    const spey_ragged *batch; /* ids, positions */
    spey_embed_source source;
    int64_t begin; /* row of the table that number 0 means */
    const void *table;
    spey_dtype table_dtype;
    const float *own;
    float scale;
    void *out;
    spey_dtype out_dtype;
    int64_t out_pitch;
} spey_embed_args;

/* The numbers that tokens look up. */
static inline const int32_t *spey_embed_numbers(const spey_embed_args *a)
{
    return a->source == SPEY_EMBED_POSITIONS ? a->batch->positions : a->batch->ids;
}

#endif
