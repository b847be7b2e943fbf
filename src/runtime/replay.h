/* Decode steps as graphs of the device. A step of some hundred small launches costs the host more than the device; captured
 * once it is one launch. What changes from step to step lies in device memory, so a graph serves every step with the same
 * number of sequences: its grids, and the products' choice of algorithm, depend on nothing else.
 *
 * A size is captured when it comes for the second time: the first run has loaded the kernels, and a size that comes once is
 * not worth it. The least recently used graph makes room. */
#ifndef SPEY_RUNTIME_REPLAY_H
#define SPEY_RUNTIME_REPLAY_H

#include "device/backend.h"
#include "kernels/ragged.h"

enum { SPEY_REPLAY_GRAPHS = 64 };

typedef struct spey_replay_graph {
    int32_t n_seqs; /* 0: a free place */
    uint64_t used;  /* number of the last step that had this size */
    void *graph;    /* NULL: seen once */
} spey_replay_graph;

/* Zeroed is empty. */
typedef struct spey_replay {
    spey_replay_graph graphs[SPEY_REPLAY_GRAPHS];
    uint64_t n_steps;
} spey_replay;

/* Run the steps, whose args are set for this batch, by replay where it has one token and one output of each sequence and
 * the backend can capture; else one by one. Errors are the backend's; after one the size begins anew. */
spey_status spey_replay_run(spey_replay *replay, const spey_backend *backend, spey_device *device,
                            const spey_ragged *batch, const spey_step *steps, int n_steps);
void spey_replay_deinit(spey_replay *replay, const spey_backend *backend, spey_device *device);

#endif
