/* Writing an engine file: sections one after the other, streamed; the file appears under its name when complete.
 *
 * Calls: open; any number of section; tensors (once), then all bytes of all tensors in order with append; more sections;
 * commit. One owner, one thread. */
#ifndef SPEY_ENGINE_ENGINE_WRITER_H
#define SPEY_ENGINE_ENGINE_WRITER_H

#include "base/status.h"
#include "engine/engine_file.h"

typedef struct spey_engine_writer spey_engine_writer;

spey_status spey_engine_writer_open(const char *path, spey_engine_writer **out);

/* One whole section. The same name twice is SPEY_INVALID. */
spey_status spey_engine_writer_section(spey_engine_writer *writer, const char *name,
                                       const void *bytes, size_t n);
/* The "info" section. */
spey_status spey_engine_writer_info(spey_engine_writer *writer, const spey_model_info *info);

/* Write the "tensors" section and begin "weights". Of a tensor, name, dtype, n_dims and dims are read; the array is
 * not kept. */
spey_status spey_engine_writer_tensors(spey_engine_writer *writer,
                                       const spey_engine_tensor *tensors, int n);
/* The next bytes of the weights; they may not cross the end of a tensor. Padding between tensors is added here. */
spey_status spey_engine_writer_append(spey_engine_writer *writer, const void *bytes, size_t n);

/* All tensors must be complete. *file_bytes may be NULL. Takes `writer` in both outcomes. */
spey_status spey_engine_writer_commit(spey_engine_writer *writer, uint64_t *file_bytes);
/* Leaves nothing behind; NULL is fine. */
void spey_engine_writer_abort(spey_engine_writer *writer);

#endif
