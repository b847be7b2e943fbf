/* The engine file (.spey): the contract between building and running. docs/engine-format.md specifies it to the byte.
 *
 * It holds the model: graph, weights, tokenizer, chat template, where it came from. Nothing about the machine, the
 * limits or the ranks. Opened by mapping; weights are used where they lie. Immutable, any thread. */
#ifndef SPEY_ENGINE_ENGINE_FILE_H
#define SPEY_ENGINE_ENGINE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/status.h"
#include "base/strbuf.h"
#include "tensor/dtype.h"

enum { SPEY_EOS_IDS_MAX = 16, SPEY_INFO_IDS_MAX = 512 };

/* Token ids of the "info" section. */
typedef struct spey_info_ids {
    int32_t ids[SPEY_INFO_IDS_MAX];
    int32_t n;
} spey_info_ids;

/* What a runtime must know beside the graph; the "info" section (JSON). */
typedef struct spey_model_info {
    char arch[64];  /* "llama" */
    char name[128]; /* folder name of the checkpoint, or the shape's name */
    char kv_dtype
        [8]; /* of the cache, as spey_limits_plan names it; "": as `dtype` and `exact` say */
    spey_dtype dtype; /* of the matrices: F32 computes in FP32, F16 and BF16 in 16-bit precision */
    int64_t vocab_size; /* columns of the logits */
    int64_t hidden_size;
    int64_t n_layers;
    int64_t context_length; /* positions the model was made for */
    uint64_t n_parameters;
    int32_t bos_id; /* -1: none */
    int32_t pad_id;
    int32_t eos_ids[SPEY_EOS_IDS_MAX];
    int32_t n_eos;
    int32_t decoder_start_id; /* with an encoder: what the decoder's ids begin with */
    int32_t forced_bos_id;    /* and the one after it; -1: none */
    bool
        exact; /* 16 bits of an activation are too few for it: only weights are of `dtype`, where a device can */
    /* From generation_config.json: what transformers' generate() would use; top_k 0 is off. */
    bool do_sample;
    double temperature, top_p, min_p, typical_p, repetition_penalty;
    int64_t top_k;
    int64_t no_repeat_ngram; /* 0: off */
    int64_t
        min_length; /* tokens before end-of-text, those that the decoder begins with included; 0: any */
    int64_t min_new_tokens; /* likewise, of the output */
    int32_t forced_eos_id;  /* the last token that there is room for; -1: none */
    spey_info_ids suppress, begin_suppress;
    spey_info_ids bad_words; /* sequences, behind each a -1 */
} spey_model_info;

typedef struct spey_engine_tensor {
    const char *name;
    spey_dtype dtype;
    int n_dims;
    int64_t dims[SPEY_DIMS_MAX];
    const void *data; /* 64-byte aligned; NULL in a virtual engine: fill with random numbers */
    size_t bytes;
} spey_engine_tensor;

typedef struct spey_engine_file spey_engine_file;

typedef struct spey_engine_open_options {
    /* Checksum the weights whatever their size; without it up to 64 MiB of them. */
    bool verify_weights;
} spey_engine_open_options;

/* Errors say what is wrong: not an engine, newer format, truncated, which section's checksum. options may be NULL. */
spey_status spey_engine_file_open(const char *path, const spey_engine_open_options *options,
                                  spey_engine_file **out);
/* An engine without weights data, for benchmarks of published shapes: everything is copied, also the data of those
 * tensors that have some (tables that the model computes). */
spey_status spey_engine_file_virtual(const spey_model_info *info, const char *graph_text,
                                     const spey_engine_tensor *tensors, int n_tensors,
                                     spey_engine_file **out);
void spey_engine_file_close(spey_engine_file *file);
/* True when the file begins like an engine file. */
bool spey_engine_file_probe(const char *path);

const spey_model_info *spey_engine_file_info(const spey_engine_file *file);
const char *spey_engine_file_path(const spey_engine_file *file);
int spey_engine_file_n_tensors(const spey_engine_file *file);
const spey_engine_tensor *spey_engine_file_tensor_at(const spey_engine_file *file, int i);
/* NULL when there is none. */
const spey_engine_tensor *spey_engine_file_tensor(const spey_engine_file *file, const char *name);

/* A section's bytes, borrowed. Sections: "info" (JSON), "graph" (text), "tensors" (table), "weights", "tokenizer"
 * (compiled, text/tokenizer.h), "chat_template" (source), "chat_template:tool_use" (rarely), "provenance" (JSON: sources with SHA-256, version, options),
 * and the checkpoint's own files, verbatim: "file:tokenizer.json", "file:tokenizer_config.json", … SPEY_NOT_FOUND. */
spey_status spey_engine_file_section(const spey_engine_file *file, const char *name,
                                     const void **data, size_t *n);
typedef struct spey_engine_section {
    const char *name;
    uint64_t offset, bytes, checksum;
} spey_engine_section;
int spey_engine_file_n_sections(const spey_engine_file *file);
spey_engine_section spey_engine_file_section_at(const spey_engine_file *file, int i);

#endif
