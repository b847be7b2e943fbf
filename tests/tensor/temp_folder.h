/* A folder of a test's own, and files in it. */
#ifndef TESTS_TENSOR_TEMP_FOLDER_H
#define TESTS_TENSOR_TEMP_FOLDER_H

#include <dirent.h>
#include <ftw.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
/* after its prerequisites */
#include <cmocka.h>

#include "spey/status.h"

typedef struct temp_folder {
    char path[64];
} temp_folder;

static inline temp_folder temp_folder_make(void)
{
    temp_folder folder = { "/tmp/spey-test-XXXXXX" };
    assert_non_null(mkdtemp(folder.path));
    return folder;
}

/* One of a few static buffers: a test holds a handful of paths at a time. */
static inline const char *temp_path(const temp_folder *folder, const char *name)
{
    static char buffers[8][512];
    static int next;
    char *out = buffers[next++ % 8];
    snprintf(out, sizeof buffers[0], "%s/%s", folder->path, name);
    return out;
}

static inline void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes, 1, n, stream), n);
    assert_int_equal(fclose(stream), 0);
}

static inline void write_text(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

/* The whole file; free it with free. */
static inline uint8_t *read_bytes(const char *path, size_t *n)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    *n = (size_t)st.st_size;
    uint8_t *bytes = malloc(*n + 1);
    FILE *stream = fopen(path, "rb");
    assert_non_null(stream);
    assert_int_equal(fread(bytes, 1, *n, stream), *n);
    fclose(stream);
    bytes[*n] = 0;
    return bytes;
}

/* Number of entries of the folder. */
static inline int count_files(const char *path)
{
    DIR *dir = opendir(path);
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(dir));)
        n += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    closedir(dir);
    return n;
}

static inline int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static inline void remove_tree(const char *path)
{
    assert_int_equal(nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* The last error's text holds `part`. */
static inline void assert_error_has(const char *part)
{
    if (!strstr(spey_last_error(), part))
        fail_msg("error is \"%s\", expected \"…%s…\"", spey_last_error(), part);
}

#endif
