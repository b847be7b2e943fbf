#include "runtime/prompt_table.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/status.h"

static spey_status find_dtype(const spey_prompt_table *table, spey_dtype *out)
{
    const char *name = table->dtype ? table->dtype : "f32";
    bool known = spey_dtype_from_name(name, strlen(name), out);
    if (known && (*out == SPEY_F32 || *out == SPEY_F16 || *out == SPEY_BF16)) return SPEY_OK;
    return SPEY_FAIL(SPEY_INVALID, "the prompt table's type is '%.20s', expected f32, f16 or bf16",
                     name);
}

static spey_status check_shape(const spey_prompt_table *table,
                               const spey_prompt_table_limits *limits)
{
    if (!limits->rows_max)
        return SPEY_FAIL(SPEY_LIMIT,
                         "the request brings a prompt table of %lld rows, but there is no room for "
                         "any: set prompt_table_tokens_max",
                         (long long)table->n_rows);
    if (!table->rows || table->n_rows < 1)
        return SPEY_FAIL(SPEY_INVALID, "the prompt table has %lld rows, expected at least one",
                         (long long)table->n_rows);
    if (table->n_rows > limits->rows_max)
        return SPEY_FAIL(SPEY_LIMIT,
                         "the prompt table has %lld rows, %lld are the most: raise "
                         "prompt_table_tokens_max",
                         (long long)table->n_rows, (long long)limits->rows_max);
    if (table->cols != limits->cols)
        return SPEY_FAIL(SPEY_INVALID,
                         "rows of the prompt table have %lld numbers, the model's hidden size is "
                         "%lld",
                         (long long)table->cols, (long long)limits->cols);
    return SPEY_OK;
}

/* One such number would make the logits of the whole sequence NaN. */
static spey_status check_numbers(const spey_prompt_table *table, spey_dtype dtype)
{
    enum { CHUNK = 256 };
    const uint8_t *bytes = table->rows;
    float chunk[CHUNK];
    size_t n = (size_t)table->n_rows * (size_t)table->cols;
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t more = n - at < CHUNK ? n - at : CHUNK;
        spey_convert(chunk, SPEY_F32, bytes + at * spey_dtype_bytes(dtype), dtype, more);
        for (size_t i = 0; i < more; i++)
            if (!isfinite(chunk[i]))
                return SPEY_FAIL(SPEY_INVALID,
                                 "row %zu of the prompt table holds %f at %zu, expected finite "
                                 "numbers",
                                 (at + i) / (size_t)table->cols, (double)chunk[i],
                                 (at + i) % (size_t)table->cols);
    }
    return SPEY_OK;
}

spey_status spey_prompt_table_check(const spey_prompt_table *table,
                                    const spey_prompt_table_limits *limits)
{
    spey_dtype dtype;
    SPEY_TRY(check_shape(table, limits));
    SPEY_TRY(find_dtype(table, &dtype));
    return check_numbers(table, dtype);
}

static size_t row_bytes(const spey_prompt_rows *table)
{
    return (size_t)table->cols * spey_dtype_bytes(table->dtype);
}

spey_status spey_prompt_table_copy(const spey_prompt_table *table, spey_arena *arena,
                                   spey_prompt_rows *out)
{
    spey_prompt_rows copy = { .n = table->n_rows, .cols = table->cols };
    SPEY_TRY(find_dtype(table, &copy.dtype));
    void *rows = spey_arena_array(arena, (size_t)copy.n, row_bytes(&copy));
    if (!rows) return SPEY_NOMEM;
    memcpy(rows, table->rows, (size_t)copy.n * row_bytes(&copy));
    copy.rows = rows;
    *out = copy;
    return SPEY_OK;
}

uint64_t spey_prompt_table_salt(const spey_prompt_rows *table, uint64_t salt)
{
    const uint64_t parts[] = { salt, (uint64_t)table->dtype,
                               spey_xxh3(table->rows, (size_t)table->n * row_bytes(table)) };
    return spey_xxh3(parts, sizeof parts);
}

void spey_prompt_table_read(const spey_prompt_rows *table, int64_t i, float *out)
{
    SPEY_ASSERT(i >= 0 && i < table->n);
    const uint8_t *bytes = table->rows;
    spey_convert(out, SPEY_F32, bytes + (size_t)i * row_bytes(table), table->dtype,
                 (size_t)table->cols);
}
