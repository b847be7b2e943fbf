/* embed: out[r, :] = scale * table[ids[r], :]
 *
 *   table  [vocab, cols] F32, F16 or BF16, dense rows
 *   out    [rows, cols] F32 (devices: also BF16/F16), pitch in elements
 * Ids are checked by the runtime: 0 <= id < vocab. rows == 0 touches nothing. One product per element, rounded once. */
#ifndef SPEY_KERNELS_EMBED_EMBED_H
#define SPEY_KERNELS_EMBED_EMBED_H

#include "kernels/ragged.h"

typedef struct spey_embed_args {
    int64_t rows; /* tokens */
    int64_t cols;
    const spey_ragged *batch; /* ids */
    const void *table;
    spey_dtype table_dtype;
    float scale;
    void *out;
    spey_dtype out_dtype;
    int64_t out_pitch;
} spey_embed_args;

#endif
