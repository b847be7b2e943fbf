/* A thread of its own, for the device or for a file: it carries out numbered jobs, one after the other, in the order in which
 * they are handed to it. One other thread hands over and waits; nothing allocates after new. Signals are left to the
 * program's own threads; SIGXFSZ, blocked, becomes an error of write. */
#ifndef SPEY_RUNTIME_DRIVER_H
#define SPEY_RUNTIME_DRIVER_H

#include <stdint.h>

#include "base/status.h"

typedef struct spey_driver spey_driver;

/* Carry out job `number`: 1, 2, … What the other thread wrote before handing it over can be read, and what is written here can
 * be read there once it has waited. */
typedef void (*spey_driver_fn)(void *user, uint64_t number);

/* SPEY_NOMEM: no memory or no thread. Keeps `user` until free. */
spey_status spey_driver_new(spey_driver_fn run, void *user, spey_driver **out);
/* What was handed over is carried out before. */
void spey_driver_free(spey_driver *driver);

/* Hand the next job over. */
void spey_driver_start(spey_driver *driver);
/* Return when job `number`, which was handed over, is done. */
void spey_driver_wait(spey_driver *driver, uint64_t number);
/* How many are done: what they wrote can be read. */
uint64_t spey_driver_done(spey_driver *driver);

#endif
