/* Any bytes: a set of tensors that lie inside of them, or an error. */
#include <stdlib.h>

#include "tensor/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    spey_safetensors *tensors;
    if (spey_safetensors_parse("fuzz", bytes, n, &tensors)) return 0;
    uint64_t sum = 0;
    for (int i = 0; i < spey_safetensors_count(tensors); i++) {
        const spey_safetensor *tensor = spey_safetensors_at(tensors, i);
        char shape[SPEY_SHAPE_TEXT_BYTES];
        spey_shape_text(shape, tensor->n_dims, tensor->dims);
        if (spey_safetensors_find(tensors, tensor->name) != tensor) abort();
        for (size_t k = 0; k < tensor->bytes; k++)
            sum += ((const uint8_t *)tensor->data)[k];
        size_t count = tensor->bytes / spey_dtype_bytes(tensor->dtype);
        double value;
        if (count) spey_convert(&value, SPEY_F64, tensor->data, tensor->dtype, 1);
    }
    const char *nearest = spey_safetensors_nearest(tensors, "model.norm.weight", NULL, NULL);
    if (!nearest != !spey_safetensors_count(tensors)) abort();
    spey_safetensors_close(tensors);
    return (int)(sum & 0);
}
