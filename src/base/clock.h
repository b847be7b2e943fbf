/* Monotonic time. */
#ifndef SPEY_BASE_CLOCK_H
#define SPEY_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds since an arbitrary start; never goes back. Any thread. */
uint64_t spey_clock_ns(void);
/* Seconds since `start_ns`. */
double spey_clock_seconds_since(uint64_t start_ns);

#endif
