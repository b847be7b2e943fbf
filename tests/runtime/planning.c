#include "planning.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static spey_engine_file *engine(const tiny_shape *shape)
{
    spey_engine_file *file;
    spey_status status = tiny_engine_new(shape, &file);
    if (status != SPEY_OK) print_error("%s\n", spey_last_error());
    assert_int_equal(status, SPEY_OK);
    return file;
}

spey_plan plan_of(const tiny_shape *shape, spey_limits_plan limits)
{
    spey_engine_file *file = engine(shape);
    spey_plan plan;
    if (!limits.threads) limits.threads = 1;
    spey_status status = spey_runner_plan(file, &limits, &plan);
    if (status != SPEY_OK) print_error("%s\n", spey_last_error());
    assert_int_equal(status, SPEY_OK);
    spey_engine_file_close(file);
    return plan;
}

spey_status refusal_of(const tiny_shape *shape, spey_limits_plan limits)
{
    spey_engine_file *file = engine(shape);
    spey_plan plan;
    limits.threads = 1;
    spey_status status = spey_runner_plan(file, &limits, &plan);
    assert_int_not_equal(status, SPEY_OK);
    spey_engine_file_close(file);
    return status;
}

uint64_t plan_line(const spey_plan *plan, const char *what)
{
    for (int i = 0; i < plan->n_lines; i++)
        if (!strcmp(plan->lines[i].what, what)) return plan->lines[i].bytes;
    return 0;
}
