#include "cli/table_file.h"

#include <string.h>

#include "base/alloc.h"
#include "tensor/safetensors.h"

static const char tensor_name[] = "prompt_embeddings";

struct spey_table_file {
    spey_safetensors *tensors;
    spey_prompt_table table;
};

static spey_status find_table(const char *path, spey_table_file *file)
{
    SPEY_TRY(spey_safetensors_open(path, &file->tensors));
    const spey_safetensor *tensor = spey_safetensors_find(file->tensors, tensor_name);
    char shape[SPEY_SHAPE_TEXT_BYTES];
    if (!tensor) return SPEY_FAIL(SPEY_NOT_FOUND, "%s: holds no tensor \"%s\"", path, tensor_name);
    if (tensor->n_dims != 2)
        return SPEY_FAIL(SPEY_FORMAT, "%s: %s is %s, expected [rows,hidden]", path, tensor_name,
                         spey_shape_text(shape, tensor->n_dims, tensor->dims));
    file->table = (spey_prompt_table){ .rows = tensor->data,
                                       .n_rows = tensor->dims[0],
                                       .cols = tensor->dims[1],
                                       .dtype = spey_dtype_name(tensor->dtype) };
    return SPEY_OK;
}

spey_status spey_table_file_open(const char *path, spey_table_file **out)
{
    *out = NULL;
    spey_table_file *file = spey_new(SPEY_PURPOSE_GENERAL, spey_table_file);
    if (!file) return SPEY_NOMEM;
    spey_status status = find_table(path, file);
    if (status)
        spey_table_file_close(file);
    else
        *out = file;
    return status;
}

void spey_table_file_close(spey_table_file *file)
{
    if (!file) return;
    spey_safetensors_close(file->tensors);
    spey_free(file);
}

const spey_prompt_table *spey_table_file_table(const spey_table_file *file)
{
    return &file->table;
}

spey_status spey_prompt_begin_with_table(const spey_engine *engine, const spey_prompt_table *table,
                                         int32_t **ids, size_t *n)
{
    int64_t vocab = spey_engine_vocab_size(engine);
    if (table->n_rows > INT32_MAX - vocab)
        return SPEY_FAIL(SPEY_LIMIT, "the prompt table has %lld rows", (long long)table->n_rows);
    size_t rows = (size_t)table->n_rows;
    int32_t *all = spey_new_array(SPEY_PURPOSE_GENERAL, int32_t, rows + *n);
    if (!all) return SPEY_NOMEM;
    for (size_t i = 0; i < rows; i++)
        all[i] = (int32_t)(vocab + (int64_t)i);
    memcpy(all + rows, *ids, *n * sizeof *all);
    spey_free(*ids);
    *ids = all;
    *n += rows;
    return SPEY_OK;
}
