#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/file.h"
#include "base/limits.h"

/* Each test runs in an empty folder of its own, as the current folder. */
static char home[SPEY_PATH_BYTES_MAX];

static int enter_folder(void **state)
{
    (void)state;
    char folder[] = "/tmp/spey-test-file-XXXXXX";
    return !getcwd(home, sizeof home) || !mkdtemp(folder) || chdir(folder);
}

static int remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir) return unlink(path);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char inner[SPEY_PATH_BYTES_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (!spey_path_join(inner, path, entry->d_name)) remove_tree(inner);
    }
    closedir(dir);
    return rmdir(path);
}

static int leave_folder(void **state)
{
    (void)state;
    char folder[SPEY_PATH_BYTES_MAX];
    return !getcwd(folder, sizeof folder) || chdir(home) || remove_tree(folder);
}

static int count_files(void)
{
    int n = 0;
    DIR *dir = opendir(".");
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void put(const char *path, const char *text)
{
    spey_file_writer *writer;
    assert_int_equal(spey_file_writer_open(path, &writer), SPEY_OK);
    assert_int_equal(spey_file_writer_append(writer, text, strlen(text)), SPEY_OK);
    assert_int_equal(spey_file_writer_commit(writer), SPEY_OK);
}

static void holds(const char *path, const char *text)
{
    spey_strbuf buf = { 0 };
    assert_int_equal(spey_file_read(path, 1000, &buf), SPEY_OK);
    assert_string_equal(buf.data, text);
    spey_strbuf_deinit(&buf);
}

static void a_file_appears_when_committed(void **state)
{
    (void)state;
    spey_file_writer *writer;
    put("a", "old");
    assert_int_equal(spey_file_writer_open("a", &writer), SPEY_OK);
    assert_int_equal(spey_file_writer_append(writer, "new text", 8), SPEY_OK);
    assert_int_equal(spey_file_writer_offset(writer), 8);
    holds("a", "old");
    assert_int_equal(spey_file_writer_patch(writer, 4, "TEX", 3), SPEY_OK);
    assert_int_equal(spey_file_writer_append(writer, "!", 1), SPEY_OK);
    assert_int_equal(spey_file_writer_commit(writer), SPEY_OK);
    holds("a", "new TEXt!");
    assert_int_equal(count_files(), 1);
}

static void abort_leaves_nothing(void **state)
{
    (void)state;
    spey_file_writer *writer;
    uint64_t live = spey_alloc_read_stats().n_live;
    assert_int_equal(spey_file_writer_open("a", &writer), SPEY_OK);
    assert_int_equal(spey_file_writer_append(writer, "x", 1), SPEY_OK);
    assert_int_equal(count_files(), 1);
    spey_file_writer_abort(writer);
    spey_file_writer_abort(NULL);
    assert_int_equal(count_files(), 0);
    assert_int_equal(spey_alloc_read_stats().n_live, live);
}

static void large_files_are_written_in_any_pieces(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20 };
    unsigned char *bytes = spey_alloc(SPEY_PURPOSE_GENERAL, BYTES);
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (unsigned char)(i * 7 + i / 999);
    spey_file_writer *writer;
    assert_int_equal(spey_file_writer_open("big", &writer), SPEY_OK);
    size_t piece = 1;
    for (size_t i = 0; i < BYTES; i += piece, piece = piece * 5 + 3) {
        if (piece > BYTES - i) piece = BYTES - i;
        assert_int_equal(spey_file_writer_append(writer, bytes + i, piece), SPEY_OK);
    }
    assert_int_equal(spey_file_writer_commit(writer), SPEY_OK);
    spey_file_map map;
    assert_int_equal(spey_file_map_open("big", &map), SPEY_OK);
    assert_int_equal(map.size, BYTES);
    assert_memory_equal(map.data, bytes, BYTES);
    spey_file_map_drop(&map, 100, BYTES - 100);
    assert_memory_equal(map.data, bytes, BYTES);
    spey_file_map_close(&map);
    assert_null(map.data);
    spey_free(bytes);
}

static void writers_refuse_bad_places(void **state)
{
    (void)state;
    spey_file_writer *writer;
    assert_int_equal(spey_file_writer_open("missing/folder/a", &writer), SPEY_IO);
    assert_null(writer);
    assert_non_null(strstr(spey_last_error(), "missing/folder/a"));
    assert_int_equal(spey_file_writer_open(".", &writer), SPEY_INVALID);
    char path[2 * SPEY_PATH_BYTES_MAX];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = 0;
    assert_int_equal(spey_file_writer_open(path, &writer), SPEY_LIMIT);
    spey_alloc_fail_nth(1);
    assert_int_equal(spey_file_writer_open("a", &writer), SPEY_NOMEM);
    assert_int_equal(count_files(), 0);
}

/* The file-size limit stands for a full disk: write() fails in the same place. */
static void write_until_full(bool at_commit)
{
    struct rlimit limit = { .rlim_cur = 100000, .rlim_max = RLIM_INFINITY };
    char block[50000] = { 1 };
    spey_file_writer *writer;
    signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit) || spey_file_writer_open("full", &writer)) _exit(1);
    spey_status status = SPEY_OK;
    for (int i = 0; i < (at_commit ? 4 : 100) && !status; i++)
        status = spey_file_writer_append(writer, block, sizeof block);
    if (at_commit != (status == SPEY_OK)) _exit(2);
    if (at_commit)
        status = spey_file_writer_commit(writer);
    else
        spey_file_writer_abort(writer);
    _exit(status == SPEY_IO && strstr(spey_last_error(), "full: cannot write") ? 0 : 3);
}

static void a_full_disk_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    for (int at_commit = 0; at_commit < 2; at_commit++) {
        pid_t child = fork();
        if (child == 0) write_until_full(at_commit);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_int_equal(count_files(), 0);
    }
}

static void a_signal_removes_unfinished_files(void **state)
{
    (void)state;
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        pid_t child = fork();
        if (child == 0) {
            spey_file_writer *first, *second, *done;
            spey_file_cleanup_on_signal();
            if (spey_file_writer_open("done", &done) || spey_file_writer_commit(done)) _exit(1);
            if (spey_file_writer_open("first", &first) || spey_file_writer_open("second", &second))
                _exit(1);
            raise(signals[i]);
            _exit(2);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), signals[i]);
        assert_int_equal(count_files(), 1);
        assert_true(spey_file_exists("done"));
    }
}

static void reading_checks_what_it_opens(void **state)
{
    (void)state;
    spey_strbuf buf = { 0 };
    spey_file_map map;
    assert_int_equal(spey_file_read("nothing", 10, &buf), SPEY_NOT_FOUND);
    assert_non_null(strstr(spey_last_error(), "nothing: cannot open"));
    assert_int_equal(spey_file_read(".", 10, &buf), SPEY_INVALID);
    assert_int_equal(spey_file_read("/dev/null", 10, &buf), SPEY_INVALID);
    put("five", "12345");
    assert_int_equal(spey_file_read("five", 4, &buf), SPEY_LIMIT);
    assert_int_equal(buf.len, 0);
    assert_int_equal(spey_file_read("five", 5, &buf), SPEY_OK);
    assert_int_equal(spey_file_read("five", 5, &buf), SPEY_OK);
    assert_string_equal(buf.data, "1234512345");
    spey_strbuf_deinit(&buf);
    assert_int_equal(spey_file_map_open("nothing", &map), SPEY_NOT_FOUND);
    put("empty", "");
    assert_int_equal(spey_file_map_open("empty", &map), SPEY_OK);
    assert_true(map.size == 0 && !map.data);
    spey_file_map_close(&map);
}

static void folders_are_made_with_their_parents(void **state)
{
    (void)state;
    assert_int_equal(spey_dir_make("a/b//c/"), SPEY_OK);
    assert_true(spey_file_is_dir("a/b/c"));
    assert_int_equal(spey_dir_make("a/b/c"), SPEY_OK);
    put("file", "x");
    assert_false(spey_file_is_dir("file"));
    assert_true(spey_file_exists("file"));
    assert_int_not_equal(spey_dir_make("file"), SPEY_OK);
    assert_int_not_equal(spey_dir_make("file/inner"), SPEY_OK);
    assert_int_equal(spey_dir_make(""), SPEY_INVALID);
}

static void paths_are_joined_within_the_limit(void **state)
{
    (void)state;
    char out[SPEY_PATH_BYTES_MAX], name[SPEY_PATH_BYTES_MAX];
    assert_int_equal(spey_path_join(out, "dir", "name"), SPEY_OK);
    assert_string_equal(out, "dir/name");
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = 0;
    assert_int_equal(spey_path_join(out, "dir", name), SPEY_LIMIT);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, enter_folder, leave_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(a_file_appears_when_committed),
        IN_FOLDER(abort_leaves_nothing),
        IN_FOLDER(large_files_are_written_in_any_pieces),
        IN_FOLDER(writers_refuse_bad_places),
        IN_FOLDER(a_full_disk_is_an_error_and_leaves_nothing),
        IN_FOLDER(a_signal_removes_unfinished_files),
        IN_FOLDER(reading_checks_what_it_opens),
        IN_FOLDER(folders_are_made_with_their_parents),
        IN_FOLDER(paths_are_joined_within_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
