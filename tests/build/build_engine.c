/* build_engine CHECKPOINT ENGINE [DTYPE]: build, open, and print time and memory. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "build/build.h"

/* The line of /proc/self/status that begins with `key`. */
static void print_status(const char *key)
{
    FILE *stream = fopen("/proc/self/status", "r");
    char line[256];
    while (stream && fgets(line, sizeof line, stream))
        if (!strncmp(line, key, strlen(key))) fputs(line, stdout);
    if (stream) fclose(stream);
}

static int fail(void)
{
    fprintf(stderr, "build_engine: %s\n", spey_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: build_engine CHECKPOINT ENGINE [DTYPE]\n");
        return 2;
    }
    spey_file_cleanup_on_signal();
    const spey_build_options options = { .dtype = argc > 3 ? argv[3] : NULL };
    spey_build_report report;
    if (spey_build_engine(argv[1], argv[2], &options, &report)) return fail();
    printf("%" PRIu64 " bytes, %d tensors, %d nodes, %" PRIu64
           " parameters in %.3f s (%.2f GB/s)\n",
           report.engine_bytes, report.n_tensors, report.n_nodes, report.n_parameters,
           report.seconds, (double)report.engine_bytes / report.seconds * 1e-9);
    if (report.warnings[0]) printf("warnings: %s\n", report.warnings);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("peak heap %zu KiB, peak RSS %ld KiB (with the page cache's pages)\n",
           spey_alloc_read_stats().peak_bytes >> 10, usage.ru_maxrss);
    print_status("RssAnon");
    for (int i = 0; i < 3; i++) {
        uint64_t start = spey_clock_ns();
        spey_engine_file *file;
        if (spey_engine_file_open(argv[2], NULL, &file)) return fail();
        spey_engine_file_close(file);
        printf("opened in %.3f ms\n", spey_clock_seconds_since(start) * 1e3);
    }
    return 0;
}
