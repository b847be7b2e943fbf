/* From a checkpoint folder to an engine file: import → graph → passes → weights → file. */
#ifndef SPEY_BUILD_BUILD_H
#define SPEY_BUILD_BUILD_H

#include <stdbool.h>

#include "base/status.h"
#include "engine/engine_file.h"
#include "tensor/dtype.h"

/* The largest magnitude that calibration saw before a linear; `weight` is its matrix's name in the graph. */
typedef struct spey_input_range {
    const char *weight;
    float largest;
} spey_input_range;

/* What calibration found. Borrowed. */
typedef struct spey_calibration {
    const spey_input_range *ranges;
    int n;
    float
        every; /* without ranges: the largest input of every matrix, for engines without weights */
    const char *text_sha256;  /* of the text it ran on */
    int64_t n_tokens, window; /* how much of it */
    /* The largest magnitudes in K and V of each cache group, [layers, 2, heads]; NULL: it keeps none, or none was seen. */
    const float *caches[SPEY_CACHE_GROUPS_MAX];
} spey_calibration;

typedef struct spey_build_options {
    const char *dtype; /* "f32", "f16", "bf16"; NULL or "auto": as the checkpoint's config says */
    const char *disable_passes; /* see graph/passes.h */
    const char *
        quant; /* "fp8": matrices of the layers in E4M3; NULL or "none": as the checkpoint has them */
    const char *
        quant_scales; /* of E4M3 matrices: one for each "channel" (NULL), or one for the "tensor" */
    /* "f32", "f16", "bf16", "fp8", "int8": of the KV cache unless who runs the engine says otherwise; NULL or "auto": as the
     * checkpoint says, or else as `dtype` is. */
    const char *kv_dtype;
    const spey_calibration *
        calibration; /* static scales of E4M3 inputs, and of an fp8 KV cache; NULL: found per token, and 1 */
    bool quiet; /* no progress bar */
} spey_build_options;

enum { SPEY_BUILD_WARNINGS_BYTES = 1024 };

typedef struct spey_build_report {
    uint64_t engine_bytes;
    uint64_t weights_bytes;
    uint64_t n_parameters;
    int n_tensors;
    int n_nodes;
    double seconds;
    bool has_tokenizer;                       /* without one the engine takes ids only */
    bool has_chat_template;                   /* and it can be used */
    char warnings[SPEY_BUILD_WARNINGS_BYTES]; /* one per line; "" when all is well */
} spey_build_report;

/* Build `checkpoint` (a folder) into `engine_path`. Memory stays under 256 MiB beyond the page cache. On failure nothing is
 * left at engine_path that was not there before. options and report may be NULL. */
spey_status spey_build_engine(const char *checkpoint, const char *engine_path,
                              const spey_build_options *options, spey_build_report *report);

/* The cache key of a checkpoint: hex of a SHA-256 over the folder's name, its files' names, sizes, times and (of small
 * ones) contents, the options and the builder's version. Cheap: reads no weights. */
spey_status spey_build_key(const char *checkpoint, const spey_build_options *options, char out[65]);

/* A published shape ("llama-3.2-1b") with no weights: a virtual engine. SPEY_NOT_FOUND lists the known names. */
spey_status spey_build_shape(const char *name, const spey_build_options *options,
                             spey_engine_file **out);

/* The names of the published shapes, NULL-terminated. */
const char *const *spey_build_shape_names(void);

#endif
