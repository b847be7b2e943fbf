/* A row: one implementation of one op, and how it is run.
 *
 * Three structs: *args* is the problem (one per op, in the op's header), the *row* an implementation, a *step*
 * the decision (row + args). On CPUs all worker lanes of a team run a row together and share its work; on other
 * devices a row is a launcher called once, which puts work on a stream. */
#ifndef SPEY_DEVICE_KERNEL_H
#define SPEY_DEVICE_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct spey_team spey_team;

/* Who runs a row. */
typedef struct spey_lane {
    int index;        /* this worker, 0 … count - 1 */
    int count;        /* workers that run this row together */
    spey_team *team;  /* CPU: barrier and chunk counter; NULL for a lane alone or on a device */
    int64_t *counter; /* a lane alone: its chunk counter */
    void *stream;     /* device rows: the backend's stream; NULL on the CPU */
} spey_lane;

typedef struct spey_kernel {
    const char *name; /* "norm/avx512": the op, a slash, the variant */
    uint32_t isa;     /* SPEY_CPU_* bits that must be present; 0: any */
    /* Whether this row takes these args (shape, dtypes, alignment). Pure. */
    bool (*supports)(const void *args);
    /* Scratch bytes needed for args with the largest `rows` that will come; NULL: none. Pure. */
    size_t (*workspace)(const void *args);
    /* CPU: called by every lane with the same args; returns when this lane has done its share. The caller puts
     * a barrier behind it. Device: launches. Cannot fail: bad args are a programmer error. */
    void (*run)(const void *args, const spey_lane *lane);
    /* The bits that a token gets depend on the batch or on alignment; the row's opening comment says why. */
    bool varies;
} spey_kernel;

typedef struct spey_step {
    const spey_kernel *kernel;
    const void *args;
} spey_step;

#endif
