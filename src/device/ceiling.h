/* What this machine can do at best, measured: the 100 % of every benchmark. */
#ifndef SPEY_DEVICE_CEILING_H
#define SPEY_DEVICE_CEILING_H

#include "base/status.h"
#include "device/pool.h"

/* Bytes per second that all lanes of the pool read together from memory (256 MiB, best of five passes, 0.1 s). */
spey_status spey_ceiling_read(spey_pool *pool, double *out);

#endif
