#include "checkpoint_weights.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "model/model.h"
#include "tensor/safetensors.h"

static const spey_safetensor *find_tensor(const spey_safetensors *tensors, const char *name)
{
    char alias[SPEY_NAME_BYTES_MAX];
    const spey_safetensor *tensor = spey_safetensors_find(tensors, name);
    for (int i = 0; !tensor && spey_model_tensor_alias(name, i, alias); i++)
        tensor = spey_safetensors_find(tensors, alias);
    return tensor;
}

/* A matrix of the weight: rows and columns in the checkpoint, where its elements begin. */
typedef struct matrix {
    int64_t rows, cols;
    const float *all;
} matrix;

static float *copy_rows(const spey_weight_source *source, const matrix *m, float *to)
{
    int64_t pieces = source->n_pieces ? source->n_pieces : 1;
    int64_t piece = source->n_pieces ? source->row_piece : m->rows;
    for (int64_t p = 0; p < pieces; p++)
        for (int64_t i = 0; i < piece; i++) {
            int64_t row = source->row_begin + p * source->row_stride + i;
            SPEY_ASSERT(row < m->rows);
            for (int64_t c = 0; c < m->cols; c++)
                *to++ = source->transpose ? m->all[c * m->rows + row] : m->all[row * m->cols + c];
        }
    return to;
}

static const char *name_of(const spey_weight_source *source, int64_t i,
                           char out[SPEY_NAME_BYTES_MAX])
{
    const char *star = strchr(source->tensor, '*');
    if (!star) return source->tensor;
    snprintf(out, SPEY_NAME_BYTES_MAX, "%.*s%d%s", (int)(star - source->tensor), source->tensor,
             (int)i, star + 1);
    return out;
}

/* Each piece of rows is a matrix. */
static float *read_pieces(const spey_weight *weight, const float *all, float *to)
{
    const spey_weight_source *source = &weight->source;
    for (int64_t e = 0; e < weight->dims[0]; e++)
        for (int64_t r = 0; r < weight->dims[1]; r++)
            for (int64_t c = 0; c < weight->dims[2]; c++) {
                int64_t first = source->row_begin + e * source->row_stride;
                *to++ = source->transpose ? all[(first + c) * weight->dims[1] + r]
                                          : all[(first + r) * weight->dims[2] + c];
            }
    return to;
}

/* `n` matrices of tensor `index` behind `to`; where they end. */
static float *read_tensor(const spey_safetensors *tensors, const spey_weight *weight, int64_t index,
                          int64_t n, float *to)
{
    char name[SPEY_NAME_BYTES_MAX];
    const spey_safetensor *tensor = find_tensor(tensors, name_of(&weight->source, index, name));
    SPEY_ASSERT(tensor != NULL);
    int64_t elements = 1, stacked = weight->source.stack != SPEY_STACK_NONE;
    for (int d = 0; d < tensor->n_dims; d++)
        elements *= tensor->dims[d];
    float *all = spey_new_array(SPEY_PURPOSE_GENERAL, float, elements);
    SPEY_ASSERT(all != NULL);
    SPEY_ASSERT(spey_convert(all, SPEY_F32, tensor->data, tensor->dtype, (size_t)elements));
    if (weight->source.stack == SPEY_STACK_PIECES) {
        to = read_pieces(weight, all, to);
        spey_free(all);
        return to;
    }
    matrix m = { .cols = weight->n_dims - stacked == 2 ? weight->dims[weight->n_dims - 1] : 1 };
    m.rows = elements / n / m.cols;
    for (int64_t i = 0; i < n; i++) {
        m.all = all + i * m.rows * m.cols;
        to = copy_rows(&weight->source, &m, to);
    }
    spey_free(all);
    return to;
}

void read_checkpoint_weight(void *context, const spey_weight *weight, float *out)
{
    const spey_weight_source *source = &weight->source;
    const int64_t n = interpreter_elements(weight);
    if (source->values) {
        memcpy(out, source->values, (size_t)n * sizeof *out);
        return;
    }
    float *end = out;
    if (source->stack == SPEY_STACK_TENSORS)
        for (int64_t i = 0; i < weight->dims[0]; i++)
            end = read_tensor(context, weight, i, 1, end);
    else
        end = read_tensor(context, weight, 0, source->stack == SPEY_STACK_ONE ? weight->dims[0] : 1,
                          end);
    SPEY_ASSERT(end == out + n);
}
