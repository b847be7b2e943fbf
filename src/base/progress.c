#include "base/progress.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

enum { BAR_WIDTH = 30 };
static const uint64_t first_draw_ns = 500000000, redraw_ns = 100000000;

void spey_progress_begin(spey_progress *progress, const char *title, uint64_t total)
{
    *progress = (spey_progress){ .title = title, .total = total, .start_ns = spey_clock_ns() };
    progress->enabled = isatty(STDERR_FILENO) && spey_log_get_level() >= SPEY_LOG_INFO;
}

void spey_progress_update(spey_progress *progress, uint64_t done)
{
    if (!progress->enabled) return;
    uint64_t now = spey_clock_ns();
    if (now - progress->start_ns < first_draw_ns || now - progress->drawn_ns < redraw_ns) return;
    progress->drawn_ns = now;
    progress->drawn = true;
    double seconds = (double)(now - progress->start_ns) * 1e-9;
    if (progress->total == 0) {
        fprintf(stderr, "\r%s %llu (%.0f s)\033[K", progress->title, (unsigned long long)done,
                seconds);
        return;
    }
    double share = (double)done / (double)progress->total;
    share = share > 1 ? 1 : share;
    int filled = (int)(share * BAR_WIDTH);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%", progress->title, filled,
            "##############################", BAR_WIDTH - filled, "", share * 100);
    if (share > 0) fprintf(stderr, " %.0f s left\033[K", seconds / share - seconds);
    fflush(stderr);
}

void spey_progress_end(spey_progress *progress)
{
    if (progress->drawn) fputs("\r\033[K", stderr);
    progress->enabled = false;
}
