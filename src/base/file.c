#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/env.h"
#include "base/limits.h"

static spey_status fail_errno(const char *path, const char *doing)
{
    spey_status status = errno == ENOENT ? SPEY_NOT_FOUND : SPEY_IO;
    return SPEY_FAIL(status, "%s: cannot %s: %s", path, doing, strerror(errno));
}

static spey_status open_regular(const char *path, int *fd, size_t *size)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return fail_errno(path, "open");
    struct stat st;
    spey_status status = SPEY_OK;
    if (fstat(*fd, &st))
        status = fail_errno(path, "stat");
    else if (S_ISDIR(st.st_mode))
        status = SPEY_FAIL(SPEY_INVALID, "%s: is a directory, expected a file", path);
    else if (!S_ISREG(st.st_mode))
        status = SPEY_FAIL(SPEY_INVALID, "%s: is not a regular file", path);
    if (status) {
        close(*fd);
        return status;
    }
    *size = (size_t)st.st_size;
    return SPEY_OK;
}

spey_status spey_file_map_open(const char *path, spey_file_map *out)
{
    int fd;
    size_t size;
    SPEY_TRY(open_regular(path, &fd, &size));
    void *data = NULL;
    if (size) {
        data = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
        if (data == MAP_FAILED) {
            spey_status status = fail_errno(path, "map");
            close(fd);
            return status;
        }
    }
    close(fd);
    *out = (spey_file_map){ .data = data, .size = size };
    return SPEY_OK;
}

void spey_file_map_close(spey_file_map *map)
{
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (spey_file_map){ 0 };
}

void spey_file_map_drop(const spey_file_map *map, size_t offset, size_t bytes)
{
    const size_t page = 4096;
    size_t begin = (offset + page - 1) / page * page, end = (offset + bytes) / page * page;
    if (map->data && begin < end)
        madvise((void *)(uintptr_t)(map->data + begin), end - begin, MADV_DONTNEED);
}

static spey_status read_all(const char *path, int fd, size_t size, spey_strbuf *out)
{
    SPEY_TRY_CTX(spey_strbuf_reserve(out, size), "%s", path);
    char chunk[16384];
    for (size_t done = 0; done < size;) {
        size_t want = size - done < sizeof chunk ? size - done : sizeof chunk;
        ssize_t n = read(fd, chunk, want);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(path, "read");
        if (n == 0) return SPEY_FAIL(SPEY_IO, "%s: ended after %zu of %zu bytes", path, done, size);
        spey_strbuf_append(out, chunk, (size_t)n);
        done += (size_t)n;
    }
    return spey_strbuf_status(out);
}

spey_status spey_file_read(const char *path, size_t max_bytes, spey_strbuf *out)
{
    int fd;
    size_t size;
    SPEY_TRY(open_regular(path, &fd, &size));
    spey_status status;
    if (size > max_bytes)
        status = SPEY_FAIL(SPEY_LIMIT, "%s: is %zu bytes long, at most %zu expected", path, size,
                           max_bytes);
    else
        status = read_all(path, fd, size, out);
    close(fd);
    return status;
}

bool spey_file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool spey_file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

spey_status spey_dir_make(const char *path)
{
    char part[SPEY_PATH_BYTES_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part)
        return SPEY_FAIL(SPEY_INVALID, "cannot make a directory of %zu characters", len);
    memcpy(part, path, len + 1);
    for (size_t i = 1; i <= len; i++) {
        if (part[i] != '/' && part[i] != 0) continue;
        char saved = part[i];
        part[i] = 0;
        if (mkdir(part, 0777) && errno != EEXIST) return fail_errno(part, "make the directory");
        part[i] = saved;
    }
    if (!spey_file_is_dir(path))
        return SPEY_FAIL(SPEY_IO, "%s: is not a directory, expected one", path);
    return SPEY_OK;
}

spey_status spey_path_join(char *out, const char *dir, const char *name)
{
    int n = snprintf(out, SPEY_PATH_BYTES_MAX, "%s/%s", dir, name);
    if (n < 0 || n >= SPEY_PATH_BYTES_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%.100s…/%.100s: path too long", dir, name);
    return SPEY_OK;
}

/* ---- atomic writer ---- */

enum { OPEN_WRITERS_MAX = 8, WRITE_BUFFER_BYTES = 1 << 18 };

struct spey_file_writer {
    int fd;
    int slot; /* in pending[], or -1 */
    char path[SPEY_PATH_BYTES_MAX];
    char temporary[SPEY_PATH_BYTES_MAX];
    uint64_t offset;
    size_t buffered;
    uint8_t buffer[WRITE_BUFFER_BYTES];
};

/* What the signal handler removes. A slot is filled before its file exists and emptied after it is gone. */
static char pending[OPEN_WRITERS_MAX][SPEY_PATH_BYTES_MAX];
static volatile sig_atomic_t pending_used[OPEN_WRITERS_MAX];

static void remove_pending(int signal_number)
{
    for (int i = 0; i < OPEN_WRITERS_MAX; i++)
        if (pending_used[i]) unlink(pending[i]);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void spey_file_cleanup_on_signal(void)
{
    struct sigaction action = { .sa_handler = remove_pending };
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

static int take_slot(const char *temporary)
{
    for (int i = 0; i < OPEN_WRITERS_MAX; i++) {
        if (pending_used[i]) continue;
        memcpy(pending[i], temporary, strlen(temporary) + 1);
        pending_used[i] = 1;
        return i;
    }
    return -1;
}

spey_status spey_file_writer_open(const char *path, spey_file_writer **out)
{
    *out = NULL;
    if (strlen(path) + 32 > SPEY_PATH_BYTES_MAX)
        return SPEY_FAIL(SPEY_LIMIT, "%.100s…: path too long", path);
    if (spey_file_is_dir(path))
        return SPEY_FAIL(SPEY_INVALID, "%s: is a directory, expected a file name", path);
    spey_file_writer *writer = spey_new(SPEY_PURPOSE_GENERAL, spey_file_writer);
    if (!writer) return SPEY_NOMEM;
    snprintf(writer->path, sizeof writer->path, "%s", path);
    snprintf(writer->temporary, sizeof writer->temporary, "%.*s.tmp%ld", SPEY_PATH_BYTES_MAX - 32,
             path, (long)getpid());
    writer->slot = take_slot(writer->temporary);
    writer->fd = open(writer->temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->fd < 0) {
        spey_status status = fail_errno(path, "create");
        if (status == SPEY_NOT_FOUND)
            status = SPEY_IO; /* the folder is missing: an error of output, not a missing input */
        if (writer->slot >= 0) pending_used[writer->slot] = 0;
        spey_free(writer);
        return status;
    }
    *out = writer;
    return SPEY_OK;
}

static spey_status write_fully(spey_file_writer *writer, const uint8_t *bytes, size_t n)
{
    while (n) {
        ssize_t done = write(writer->fd, bytes, n);
        if (done < 0 && errno == EINTR) continue;
        if (done < 0) return fail_errno(writer->path, "write");
        bytes += done;
        n -= (size_t)done;
    }
    return SPEY_OK;
}

static spey_status flush(spey_file_writer *writer)
{
    SPEY_TRY(write_fully(writer, writer->buffer, writer->buffered));
    writer->buffered = 0;
    return SPEY_OK;
}

spey_status spey_file_writer_append(spey_file_writer *writer, const void *bytes, size_t n)
{
    if (n > WRITE_BUFFER_BYTES - writer->buffered) SPEY_TRY(flush(writer));
    if (n > WRITE_BUFFER_BYTES) {
        SPEY_TRY(write_fully(writer, bytes, n));
    } else if (n) {
        memcpy(writer->buffer + writer->buffered, bytes, n);
        writer->buffered += n;
    }
    writer->offset += n;
    return SPEY_OK;
}

spey_status spey_file_writer_patch(spey_file_writer *writer, uint64_t offset, const void *bytes,
                                   size_t n)
{
    SPEY_ASSERT(offset + n <= writer->offset);
    SPEY_TRY(flush(writer));
    if (pwrite(writer->fd, bytes, n, (off_t)offset) != (ssize_t)n)
        return fail_errno(writer->path, "write");
    return SPEY_OK;
}

uint64_t spey_file_writer_offset(const spey_file_writer *writer)
{
    return writer->offset;
}

spey_status spey_file_writer_commit(spey_file_writer *writer)
{
    spey_status status = flush(writer);
    if (!status && fsync(writer->fd)) status = fail_errno(writer->path, "sync");
    if (!status && rename(writer->temporary, writer->path))
        status = fail_errno(writer->path, "rename the finished file to");
    if (!status) writer->temporary[0] = 0; /* nothing left to remove */
    spey_file_writer_abort(writer);
    return status;
}

void spey_file_writer_abort(spey_file_writer *writer)
{
    if (!writer) return;
    close(writer->fd);
    if (writer->temporary[0]) unlink(writer->temporary);
    if (writer->slot >= 0) pending_used[writer->slot] = 0;
    spey_free(writer);
}

spey_status spey_cache_dir(char *out)
{
    const char *cache = spey_env("XDG_CACHE_HOME"), *home = spey_env("HOME");
    char base[SPEY_PATH_BYTES_MAX];
    if (cache && cache[0] == '/') return spey_path_join(out, cache, "spey");
    if (!home) return SPEY_FAIL(SPEY_NOT_FOUND, "neither XDG_CACHE_HOME nor HOME is set");
    SPEY_TRY(spey_path_join(base, home, ".cache"));
    return spey_path_join(out, base, "spey");
}
