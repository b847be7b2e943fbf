#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <time.h>

#include "base/log.h"
#include "base/progress.h"
#include "capture_stderr.h"

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

static void nothing_is_drawn_when_stderr_is_no_terminal(void **state)
{
    (void)state;
    char text[1000];
    spey_progress progress;
    captured_stderr captured = capture_begin();
    spey_progress_begin(&progress, "work", 10);
    pause_ms(600);
    spey_progress_update(&progress, 5);
    spey_progress_end(&progress);
    capture_end(&captured, text, sizeof text);
    assert_string_equal(text, "");
    assert_false(progress.enabled);
}

/* Make stderr a pseudo-terminal; gives its other side, or -1 where there are none. */
static int terminal_begin(int *saved)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) return -1;
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (slave < 0) return -1;
    *saved = dup(STDERR_FILENO);
    dup2(slave, STDERR_FILENO);
    close(slave);
    return master;
}

/* What the terminal got arrives piece by piece; with its last user gone there is an end. */
static void terminal_end(int master, int saved, char *text, size_t size)
{
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    size_t have = 0;
    ssize_t n;
    while (have < size - 1 && (n = read(master, text + have, size - 1 - have)) > 0)
        have += (size_t)n;
    text[have] = 0;
    close(master);
}

static void a_terminal_shows_long_work_and_is_left_clean(void **state)
{
    (void)state;
    char text[4000];
    int saved, master = terminal_begin(&saved);
    if (master < 0) skip();
    spey_progress progress;
    spey_progress_begin(&progress, "work", 10);
    spey_progress_update(&progress, 1); /* too early */
    pause_ms(600);
    spey_progress_update(&progress, 5);
    spey_progress_update(&progress, 6); /* too soon after */
    spey_progress_end(&progress);
    terminal_end(master, saved, text, sizeof text);
    assert_non_null(strstr(text, "work [###############               ]  50 %"));
    assert_null(strstr(text, "10 %"));
    assert_null(strstr(text, "60 %"));
    assert_string_equal(text + strlen(text) - 4, "\r\033[K");
}

static void quiet_terminals_stay_quiet(void **state)
{
    (void)state;
    char text[4000];
    int saved, master = terminal_begin(&saved);
    if (master < 0) skip();
    spey_progress progress;
    spey_log_set_level(SPEY_LOG_WARNING);
    spey_progress_begin(&progress, "work", 0);
    spey_log_set_level(SPEY_LOG_INFO);
    progress.start_ns -= 1000000000;
    spey_progress_update(&progress, 5);
    spey_progress_end(&progress);
    terminal_end(master, saved, text, sizeof text);
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_drawn_when_stderr_is_no_terminal),
        cmocka_unit_test(a_terminal_shows_long_work_and_is_left_clean),
        cmocka_unit_test(quiet_terminals_stay_quiet),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
