/* One opened CUDA device, and how this plug-in's host code reports errors.
 *
 * The plug-in is its own shared library: it carries private copies of base/alloc.c and base/status.c (for
 * SPEY_ASSERT) and talks to spey only through spey_backend_host.
 *
 * Threads: a device belongs to one thread at a time (the engine's). Only the copy workers, which live inside one
 * upload or download call, touch it beside that. */
#ifndef SPEY_KERNELS_CUDA_CUDA_DEVICE_H
#define SPEY_KERNELS_CUDA_CUDA_DEVICE_H

#include <cuda_runtime_api.h>

#include "device/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    SPEY_CUDA_COPY_WORKERS = 8,
    SPEY_CUDA_SLOTS = 8, /* per worker: how many chunks it has in flight */
    SPEY_CUDA_SLOT_BYTES = 1 << 20,
    SPEY_CUDA_GEMM_WORKSPACE = 32 << 20, /* what NVIDIA advises for Hopper */
    SPEY_CUDA_FAILURE_BYTES = 256,
};

/* A pinned piece of host memory between a copy worker and the copy engine. */
typedef struct spey_cuda_slot {
    uint8_t *bytes;
    cudaEvent_t done; /* the device no longer reads or writes it */
} spey_cuda_slot;

typedef struct spey_cublaslt spey_cublaslt; /* kernels/cuda/cublaslt.h */

struct spey_device {
    int index;
    cudaStream_t stream; /* everything runs on it, in order */
    bool capturing;
    bool overlaps; /* sm_90: kernels for it alone run, and launches overlap (launch.cuh) */
    bool follows;  /* a step of the same run was launched: the next may overlap it */
    int sms;

    uint8_t *staging; /* pinned; cut into the slots, and those of fetches */
    spey_cuda_slot slots[SPEY_CUDA_COPY_WORKERS][SPEY_CUDA_SLOTS];
    int next_slot[SPEY_CUDA_COPY_WORKERS];
    spey_cuda_slot fetches[SPEY_FETCHES_MAX];
    uint64_t n_fetches, n_fetched; /* begun and ended */

    spey_cublaslt *cublaslt;

    /* What a row's run() could not do; reported by the backend's run. */
    spey_status failed;
    char failure[SPEY_CUDA_FAILURE_BYTES];
};

/* Set once, when the plug-in is opened; constant afterwards. */
extern const spey_backend_host *spey_cuda_host;

/* Turn a CUDA error into a status with text ("cuda: cudaMalloc: out of memory"), and take it back from the runtime, so
 * that the next call does not see it again. `call` is source text; what follows its "(" is not shown. */
spey_status spey_cuda_failed(cudaError_t error, const char *call);

#define SPEY_CUDA_TRY(call)                                                          \
    do {                                                                             \
        cudaError_t cuda_error_ = (call);                                            \
        if (cuda_error_ != cudaSuccess) return spey_cuda_failed(cuda_error_, #call); \
    } while (0)

/* For rows: lane->stream of this backend is its spey_device. */
static inline spey_device *spey_cuda_device(const spey_lane *lane)
{
    return (spey_device *)lane->stream;
}

static inline cudaStream_t spey_cuda_stream(const spey_lane *lane)
{
    return spey_cuda_device(lane)->stream;
}

/* For rows: a library refused the work. The first such text of a run is kept and reported. */
void spey_cuda_note(spey_device *device, spey_status status, const char *format, ...)
    SPEY_PRINTF(3, 4);

/* ---- cuda_memory.c: the memory part of the backend's table, as device/backend.h describes it ---- */

spey_status spey_cuda_staging_open(spey_device *device);
void spey_cuda_staging_close(spey_device *device);
spey_status spey_cuda_memory_new(spey_device *device, size_t bytes, void **out);
void spey_cuda_memory_free(spey_device *device, void *memory, size_t bytes);
spey_status spey_cuda_upload(spey_device *device, void *dst, const void *host, size_t bytes);
spey_status spey_cuda_copy(spey_device *device, void *dst, const void *src, size_t bytes);
spey_status spey_cuda_download(spey_device *device, void *host, const void *src, size_t bytes);
spey_status spey_cuda_fetch_begin(spey_device *device, const void *src, size_t bytes);
spey_status spey_cuda_fetch_end(spey_device *device, void *host, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
