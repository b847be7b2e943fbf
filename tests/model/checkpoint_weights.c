#include "checkpoint_weights.h"

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

void read_checkpoint_weight(void *context, const spey_weight *weight, float *out)
{
    const spey_weight_source *source = &weight->source;
    if (source->values) {
        memcpy(out, source->values, (size_t)interpreter_elements(weight) * sizeof *out);
        return;
    }
    const spey_safetensor *tensor = find_tensor(context, source->tensor);
    SPEY_ASSERT(tensor != NULL);
    int64_t n = 1;
    for (int d = 0; d < tensor->n_dims; d++)
        n *= tensor->dims[d];
    float *all = spey_new_array(SPEY_PURPOSE_GENERAL, float, n);
    SPEY_ASSERT(all != NULL);
    SPEY_ASSERT(spey_convert(all, SPEY_F32, tensor->data, tensor->dtype, (size_t)n));
    int64_t cols = weight->n_dims == 2 ? weight->dims[1] : 1, rows = n / cols, to = 0;
    int64_t pieces = source->n_pieces ? source->n_pieces : 1;
    int64_t piece = source->n_pieces ? source->row_piece : rows;
    for (int64_t p = 0; p < pieces; p++)
        for (int64_t i = 0; i < piece; i++) {
            int64_t row = source->row_begin + p * source->row_stride + i;
            SPEY_ASSERT(row < rows && to < interpreter_elements(weight));
            for (int64_t c = 0; c < cols; c++)
                out[to++] = source->transpose ? all[c * rows + row] : all[row * cols + c];
        }
    SPEY_ASSERT(to == interpreter_elements(weight));
    spey_free(all);
}
