/* Scales that checkpoints keep beside their E4M3 tensors: of "X.weight" in "X.weight_scale" (compressed-tensors, ModelOpt) or
 * "X.weight_scale_inv" (DeepSeek; a factor all the same, in spite of its name). The value is element · scale. */
#ifndef SPEY_BUILD_SOURCE_SCALE_H
#define SPEY_BUILD_SOURCE_SCALE_H

#include <stdbool.h>

#include "base/status.h"
#include "tensor/safetensors.h"

typedef struct spey_source_scale {
    const spey_safetensor *tensor;
    int64_t block_rows, block_cols; /* of the matrix that share a scale */
    int64_t pitch;                  /* scales of a row of blocks */
    bool by_rows;                   /* no row has more than one */
} spey_source_scale;

/* Of an E4M3 matrix: none, of an impossible shape or with a value that is not positive and finite is SPEY_FORMAT. */
spey_status spey_source_scale_find(const spey_safetensors *tensors, const spey_safetensor *matrix,
                                   spey_source_scale *out);
float spey_source_scale_at(const spey_source_scale *scale, int64_t row, int64_t col);

/* The static scale of a matrix's input, "X.input_scale"; 0 when there is none. */
spey_status spey_source_input_scale(const spey_safetensors *tensors, const spey_safetensor *matrix,
                                    float *out);

/* Is it a scale of K or V, and of which layer of the model? By its name: "model.layers.3.self_attn.k_scale"
 * (compressed-tensors), "….k_proj.k_scale" (ModelOpt). */
bool spey_source_is_cache_scale(const char *name, int64_t *layer, bool *is_v);
/* One for all heads, or one for each. */
spey_status spey_source_cache_scales(const spey_safetensor *scales, int64_t heads, float *out);

/* Is it a scale that belongs to an E4M3 tensor, or one of attention? */
bool spey_source_is_scale(const spey_safetensors *tensors, const char *name);

#endif
