/* Files: read-only mappings, whole reads, atomic writes, directories. Every error names the path. */
#ifndef SPEY_BASE_FILE_H
#define SPEY_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "base/strbuf.h"

typedef struct spey_file_map {
    const uint8_t *data; /* NULL when the file is empty */
    size_t size;
} spey_file_map;

/* Map a regular file read-only. */
spey_status spey_file_map_open(const char *path, spey_file_map *out);
void spey_file_map_close(spey_file_map *map);
/* Tell the kernel that [offset, offset + bytes) was read once and is not needed again soon. */
void spey_file_map_drop(const spey_file_map *map, size_t offset, size_t bytes);

/* The whole file into `out` (appended); more than max_bytes is SPEY_LIMIT. A missing file is SPEY_NOT_FOUND. */
spey_status spey_file_read(const char *path, size_t max_bytes, spey_strbuf *out);

bool spey_file_exists(const char *path);
bool spey_file_is_dir(const char *path);
/* Like mkdir -p. */
spey_status spey_dir_make(const char *path);
/* "dir/name" into out[SPEY_PATH_BYTES_MAX]; too long is SPEY_LIMIT. */
spey_status spey_path_join(char *out, const char *dir, const char *name);

/* Where what can be made again is kept, $XDG_CACHE_HOME/spey or ~/.cache/spey (XDG Base Directory Specification), into
 * out[SPEY_PATH_BYTES_MAX]. SPEY_NOT_FOUND: neither is set. */
spey_status spey_cache_dir(char *out);

/* A file that appears under its name only when complete: bytes go to a temporary name beside it, commit
 * syncs and renames, abort removes. SIGINT and SIGTERM between open and commit must leave nothing: see
 * spey_file_cleanup_on_signal. */
typedef struct spey_file_writer spey_file_writer;
spey_status spey_file_writer_open(const char *path, spey_file_writer **out);
spey_status spey_file_writer_append(spey_file_writer *writer, const void *bytes, size_t n);
/* Overwrite n bytes that were written before at `offset`. */
spey_status spey_file_writer_patch(spey_file_writer *writer, uint64_t offset, const void *bytes,
                                   size_t n);
uint64_t spey_file_writer_offset(const spey_file_writer *writer);
/* Takes `writer` in both outcomes: on failure the temporary file is gone. */
spey_status spey_file_writer_commit(spey_file_writer *writer);
/* NULL is fine. */
void spey_file_writer_abort(spey_file_writer *writer);
/* Install handlers for SIGINT, SIGTERM and SIGHUP that remove the temporary files of all open writers and
 * then end the process by the same signal. For commands that write files and have no handlers of their own. */
void spey_file_cleanup_on_signal(void);

#endif
