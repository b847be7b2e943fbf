/* Where the time of steps goes: every kernel between two marks on the device's queue. Steps are run one kernel at a time, not
 * replayed, so that a step of many short kernels takes longer than without; the kernels themselves do not. One thread. */
#ifndef SPEY_RUNTIME_PROFILE_H
#define SPEY_RUNTIME_PROFILE_H

#include "device/backend.h"

enum { SPEY_PROFILE_NAME_BYTES = 64 };

/* All runs of one kernel, of products by shape. */
typedef struct spey_profile_line {
    char name[SPEY_PROFILE_NAME_BYTES]; /* "gemm/cublaslt 4096>6144", "norm/sm80" */
    uint64_t n_runs, ns;
    double operations,
        weight_bytes; /* of products: 2 · rows · n · k, and n · k elements, summed; else 0 */
} spey_profile_line;

typedef struct spey_profile spey_profile;

/* For a binding of n steps on this device, both borrowed. */
spey_status spey_profile_new(const spey_backend *backend, spey_device *device,
                             const spey_step *steps, int n_steps, spey_profile **out);
void spey_profile_free(spey_profile *profile);
/* Forget all runs. */
void spey_profile_clear(spey_profile *profile);

/* Run steps [begin, end) and wait for them. Their args begin with `rows`. */
spey_status spey_profile_run(spey_profile *profile, int begin, int end);

/* At most n_steps lines, the longest time first; what never ran has none. Returns how many. */
int spey_profile_read(const spey_profile *profile, spey_profile_line *out);

#endif
