/* For tests of builds: a small checkpoint, copied and changed. */
#ifndef SPEY_TESTS_BUILD_DRAFT_H
#define SPEY_TESTS_BUILD_DRAFT_H

#include "../tensor/temp_folder.h"
#include "base/alloc.h"
#include "build/build.h"
#include "tensor/safetensors.h"

static const char tiny[] = "tests/data/architectures/llama2"; /* two layers, untied, no tokenizer */

typedef struct draft {
    temp_folder folder;
    char path[128]; /* folder/model */
    spey_safetensors *base;
    spey_safetensor tensors[64];
    int n;
} draft;

static inline void copy_file(const char *from, const char *to)
{
    size_t n;
    uint8_t *bytes = read_bytes(from, &n);
    write_bytes(to, bytes, n);
    free(bytes);
}

static inline const char *in_draft(const draft *d, const char *name)
{
    char relative[128];
    snprintf(relative, sizeof relative, "model/%s", name);
    return temp_path(&d->folder, relative);
}

static inline draft draft_make(const char *source)
{
    draft d = { .folder = temp_folder_make() };
    snprintf(d.path, sizeof d.path, "%s/model", d.folder.path);
    assert_int_equal(mkdir(d.path, 0777), 0);
    char path[256];
    snprintf(path, sizeof path, "%s/config.json", source);
    copy_file(path, in_draft(&d, "config.json"));
    if (spey_safetensors_open(source, &d.base)) fail_msg("%s", spey_last_error());
    d.n = spey_safetensors_count(d.base);
    assert_true(d.n < 60);
    for (int i = 0; i < d.n; i++)
        d.tensors[i] = *spey_safetensors_at(d.base, i);
    return d;
}

static inline void draft_free(draft *d)
{
    spey_safetensors_close(d->base);
    remove_tree(d->folder.path);
}

static inline spey_safetensor *find_tensor(draft *d, const char *name)
{
    for (int i = 0; i < d->n; i++)
        if (!strcmp(d->tensors[i].name, name)) return &d->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static inline void write_weights(const draft *d)
{
    assert_int_equal(spey_safetensors_write(in_draft(d, "model.safetensors"), d->tensors, d->n),
                     SPEY_OK);
}

/* Build into folder/m.spey. */
static inline spey_status build_draft(const draft *d, const spey_build_options *options,
                                      spey_build_report *report)
{
    return spey_build_engine(d->path, temp_path(&d->folder, "m.spey"), options, report);
}

static inline spey_engine_file *open_built(const draft *d)
{
    spey_engine_file *file;
    const spey_engine_open_options options = { .verify_weights = true };
    if (spey_engine_file_open(temp_path(&d->folder, "m.spey"), &options, &file))
        fail_msg("%s", spey_last_error());
    return file;
}

static inline spey_engine_file *build_and_open(const draft *d, const spey_build_options *options)
{
    spey_build_report report;
    if (build_draft(d, options, &report)) fail_msg("%s", spey_last_error());
    return open_built(d);
}

/* The build fails, says `part`, leaves no engine and no memory. */
static inline void refuses(draft *d, const spey_build_options *options, spey_status status,
                           const char *part)
{
    uint64_t live = spey_alloc_read_stats().n_live;
    spey_status got = build_draft(d, options, NULL);
    if (got != status)
        fail_msg("status %d (%s), expected %d (%s)", got, spey_last_error(), status, part);
    assert_error_has(part);
    assert_int_equal(count_files(d->folder.path), 1); /* the checkpoint */
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

/* Element i of an engine's tensor. */
static inline float element(const spey_engine_tensor *tensor, size_t i)
{
    float out;
    assert_non_null(tensor);
    assert_true(spey_convert(&out, SPEY_F32,
                             (const uint8_t *)tensor->data + i * spey_dtype_bytes(tensor->dtype),
                             tensor->dtype, 1));
    return out;
}

static inline float source_element(const spey_safetensor *tensor, size_t i)
{
    float out;
    assert_true(spey_convert(&out, SPEY_F32,
                             (const uint8_t *)tensor->data + i * spey_dtype_bytes(tensor->dtype),
                             tensor->dtype, 1));
    return out;
}

#endif
