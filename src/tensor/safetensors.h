/* The safetensors format: a checkpoint of one file, or of shards with an index, read where it lies (mapped); and a
 * small writer.
 *
 * Nothing in a file is trusted: the header's length, its JSON, names, types, shapes and offsets are all checked before
 * a tensor is handed out, and the tensors of a file must tile its data exactly (as Hugging Face's reader demands). Data
 * may be unaligned: read it with memcpy or spey_convert. Immutable after opening, any thread. */
#ifndef SPEY_TENSOR_SAFETENSORS_H
#define SPEY_TENSOR_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"
#include "base/status.h"
#include "tensor/dtype.h"

enum { SPEY_SAFETENSOR_DIMS_MAX = 8 };

typedef struct spey_safetensor {
    const char *name;
    spey_dtype dtype;
    int n_dims; /* 0: a scalar, one element */
    int64_t dims[SPEY_SAFETENSOR_DIMS_MAX];
    const void *data; /* not NULL, even when bytes is 0 */
    size_t bytes;
    int file; /* which file it lies in */
} spey_safetensor;

typedef struct spey_safetensors spey_safetensors;

/* `path` is a .safetensors file, an index (….index.json), or a folder that holds model.safetensors or
 * model.safetensors.index.json. A folder with pytorch_model.bin alone is SPEY_UNSUPPORTED and says what to do. */
spey_status spey_safetensors_open(const char *path, spey_safetensors **out);
/* A file that is in memory already; `bytes` is borrowed until close. `where` names it in errors. */
spey_status spey_safetensors_parse(const char *where, const void *bytes, size_t n,
                                   spey_safetensors **out);
void spey_safetensors_close(spey_safetensors *tensors);

/* In the order of the files' data. */
int spey_safetensors_count(const spey_safetensors *tensors);
const spey_safetensor *spey_safetensors_at(const spey_safetensors *tensors, int i);
/* NULL when there is none. */
const spey_safetensor *spey_safetensors_find(const spey_safetensors *tensors, const char *name);
/* The name that is most like `name`, of those that skip(context, …) does not refuse (NULL: all); NULL when there is
 * none. */
const char *spey_safetensors_nearest(const spey_safetensors *tensors, const char *name,
                                     bool (*skip)(const void *context, const char *name),
                                     const void *context);

/* The mapped files, the index excluded. */
int spey_safetensors_n_files(const spey_safetensors *tensors);
/* Its name without the folder, and its bytes. */
const char *spey_safetensors_file_name(const spey_safetensors *tensors, int file);
const spey_file_map *spey_safetensors_file_map(const spey_safetensors *tensors, int file);

/* "[256,768]" into out[SPEY_SHAPE_TEXT_BYTES]; long shapes end in "…". */
enum { SPEY_SHAPE_TEXT_BYTES = 96 };
const char *spey_shape_text(char *out, int n_dims, const int64_t *dims);

/* Write a file that appears when complete. Uses name, dtype, n_dims, dims, data, bytes; bytes must fit the shape. */
spey_status spey_safetensors_write(const char *path, const spey_safetensor *tensors, int n);

#endif
