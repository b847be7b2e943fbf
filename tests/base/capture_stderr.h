/* What code writes to stderr, for tests. */
#ifndef SPEY_TESTS_BASE_CAPTURE_STDERR_H
#define SPEY_TESTS_BASE_CAPTURE_STDERR_H

#include <stdio.h>
#include <unistd.h>

typedef struct captured_stderr {
    int saved;
    FILE *file;
} captured_stderr;

static inline captured_stderr capture_begin(void)
{
    fflush(stderr);
    captured_stderr captured = { .saved = dup(STDERR_FILENO), .file = tmpfile() };
    dup2(fileno(captured.file), STDERR_FILENO);
    return captured;
}

/* Restore stderr; what was written goes to `text`. */
static inline void capture_end(captured_stderr *captured, char *text, size_t size)
{
    fflush(stderr);
    dup2(captured->saved, STDERR_FILENO);
    close(captured->saved);
    rewind(captured->file);
    text[fread(text, 1, size - 1, captured->file)] = 0;
    fclose(captured->file);
}

#endif
