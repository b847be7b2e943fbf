/* Plans of tiny engines, for tests; the running test fails when one is not what the name says. */
#ifndef SPEY_TESTS_RUNTIME_PLANNING_H
#define SPEY_TESTS_RUNTIME_PLANNING_H

#include "runtime/runner.h"
#include "tiny_engine.h"

/* One thread unless limits say otherwise. */
spey_plan plan_of(const tiny_shape *shape, spey_limits_plan limits);
/* Planning fails: with this status, and a text. */
spey_status refusal_of(const tiny_shape *shape, spey_limits_plan limits);
/* Bytes of a line; 0 when there is none. */
uint64_t plan_line(const spey_plan *plan, const char *what);

#endif
