/* Tables of embeddings that requests bring along (p-tuning). Ids of a prompt from the vocabulary's size on name their rows: id
 * vocab_size + i is row i. */
#ifndef SPEY_RUNTIME_PROMPT_TABLE_H
#define SPEY_RUNTIME_PROMPT_TABLE_H

#include "base/arena.h"
#include "spey/spey.h"
#include "tensor/dtype.h"

typedef struct spey_prompt_rows {
    const void *rows; /* [n][cols], dense */
    spey_dtype dtype; /* F32, F16 or BF16 */
    int64_t n, cols;
} spey_prompt_rows;

/* What a table must be. */
typedef struct spey_prompt_table_limits {
    int64_t rows_max; /* 0: requests bring none */
    int64_t cols;     /* the model's hidden size */
} spey_prompt_table_limits;

/* The message says what was found and what is expected: a shape, a type, a number that is not finite. */
spey_status spey_prompt_table_check(const spey_prompt_table *table,
                                    const spey_prompt_table_limits *limits);
/* A copy in the arena of a table that was checked. */
spey_status spey_prompt_table_copy(const spey_prompt_table *table, spey_arena *arena,
                                   spey_prompt_rows *out);
/* The salt of blocks whose contents depend on the table: equal for equal salts and equal tables. */
uint64_t spey_prompt_table_salt(const spey_prompt_rows *table, uint64_t salt);
/* Row i as F32 numbers. */
void spey_prompt_table_read(const spey_prompt_rows *table, int64_t i, float *out);

#endif
