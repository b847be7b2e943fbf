#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static _Atomic int current_level = SPEY_LOG_INFO;

void spey_log_set_level(spey_log_level level)
{
    atomic_store(&current_level, level);
}

spey_log_level spey_log_get_level(void)
{
    return (spey_log_level)atomic_load(&current_level);
}

void spey_log(spey_log_level level, const char *format, ...)
{
    static const char *const prefix[] = { "", "error: ", "warning: ", "", "debug: " };
    if ((int)level > atomic_load(&current_level)) return;
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "spey: %s%s\n", prefix[level], line);
}
