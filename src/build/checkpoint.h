/* A Hugging Face checkpoint folder, read and checked: configuration, small files, weights (mapped). */
#ifndef SPEY_BUILD_CHECKPOINT_H
#define SPEY_BUILD_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "engine/engine_file.h"
#include "model/model.h"
#include "tensor/safetensors.h"

enum { SPEY_CHECKPOINT_FILES_MAX = 9 };

/* A small file of the folder, verbatim. */
typedef struct spey_checkpoint_file {
    const char *name;
    spey_strbuf bytes;
} spey_checkpoint_file;

typedef struct spey_checkpoint {
    char path[SPEY_PATH_BYTES_MAX];
    spey_model *model;
    /* From config.json and generation_config.json; name is the folder's. */
    spey_model_info info;
    spey_safetensors *tensors;
    spey_checkpoint_file files[SPEY_CHECKPOINT_FILES_MAX]; /* those that are there */
    int n_files;
    char *chat_template; /* the default one; NULL: none */
    char *tool_template; /* the one named "tool_use"; NULL: none */
} spey_checkpoint;

/* Read everything but the weights' data. */
spey_status spey_checkpoint_open(const char *path, spey_checkpoint **out);
void spey_checkpoint_close(spey_checkpoint *checkpoint);

/* NULL when the folder has no such file. */
const spey_checkpoint_file *spey_checkpoint_find(const spey_checkpoint *checkpoint,
                                                 const char *name);

/* The names of the small files that a build reads, NULL-terminated. */
const char *const *spey_checkpoint_file_names(void);

/* The last part of the folder's real path. */
spey_status spey_checkpoint_name(const char *path, char *out, size_t out_bytes);

#endif
