/* A backend: one small table of functions between the runtime and a kind of device.
 *
 * The CPU's is built in; others are plug-ins (libspey-cuda.so) that export one symbol, spey_backend_plugin, and are
 * opened at run time when present. A plug-in never calls back into spey except through spey_backend_host, so it
 * links against nothing of ours. */
#ifndef SPEY_DEVICE_BACKEND_H
#define SPEY_DEVICE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "device/kernel.h"

enum {
    SPEY_BACKEND_ABI = 6,
    SPEY_TACTICS_SUBJECT_BYTES = 192,
    SPEY_FETCHES_MAX = 2, /* under way */
    SPEY_FETCH_BYTES_MAX = 1 << 20,
};

/* What spey gives a plug-in. */
typedef struct spey_backend_host {
    uint32_t abi;
    /* Sets the caller's error text (see base/status.h) and returns status. */
    spey_status (*fail)(spey_status status, const char *format, ...);
    void (*log)(int level, const char *format, ...);
} spey_backend_host;

typedef struct spey_device spey_device; /* one opened device; each backend has its own body */

typedef struct spey_device_options {
    int threads; /* CPU: worker threads, 0 = one per core. Others ignore it */
} spey_device_options;

typedef struct spey_device_info {
    char name[128];
    uint64_t memory_bytes;      /* total */
    uint64_t memory_free_bytes; /* now */
    int compute_units;          /* threads or SMs */
    bool host_memory; /* kernels read host pointers: weights can stay mapped from the file */
} spey_device_info;

typedef struct spey_backend {
    uint32_t abi;     /* SPEY_BACKEND_ABI */
    const char *name; /* "cpu", "cuda" */

    int (*device_count)(void);
    spey_status (*device_open)(int index, const spey_device_options *options, spey_device **out);
    void (*device_close)(spey_device *device);
    void (*device_info)(const spey_device *device, spey_device_info *out);

    /* Device memory, zeroed, at least 256-byte aligned. */
    spey_status (*memory_new)(spey_device *device, size_t bytes, void **out);
    void (*memory_free)(spey_device *device, void *memory, size_t bytes);
    /* Ordered with run(); `host` may be reused when upload returns; after download returns it holds the bytes. */
    spey_status (*upload)(spey_device *device, void *dst, const void *host, size_t bytes);
    spey_status (*download)(spey_device *device, void *host, const void *src, size_t bytes);
    /* A download in two halves: begin queues it, in order with run(), and end waits for it, not for what was queued behind, and
     * writes `host`. They end in the order in which they began. NULL: no such thing. */
    spey_status (*fetch_begin)(spey_device *device, const void *src, size_t bytes);
    spey_status (*fetch_end)(spey_device *device, void *host, size_t bytes);
    /* Within device memory, ordered with run(); they may not overlap. */
    spey_status (*copy)(spey_device *device, void *dst, const void *src, size_t bytes);

    /* Run steps in order. May return before they are done; errors may surface in sync. */
    spey_status (*run)(spey_device *device, const spey_step *steps, int n_steps);
    spey_status (*sync)(spey_device *device);

    /* Record what run() is given between begin and end into a graph, replay it with one launch. NULL: no such thing. */
    spey_status (*capture_begin)(spey_device *device);
    spey_status (*capture_end)(spey_device *device, void **out_graph);
    spey_status (*replay)(spey_device *device, void *graph);
    void (*graph_free)(spey_device *device, void *graph);

    /* Device time in nanoseconds between two marks on the run queue; event handles are made once. */
    spey_status (*event_new)(spey_device *device, void **out);
    void (*event_free)(spey_device *device, void *event);
    spey_status (*event_record)(spey_device *device, void *event);
    spey_status (*event_elapsed_ns)(spey_device *device, void *begin, void *end, uint64_t *out);

    /* Find out how these steps run fastest with up to as many rows as their args have, by running them: what they write to is
     * undefined afterwards. What is known already stays. NULL: there is nothing to find. */
    spey_status (*tune)(spey_device *device, const spey_step *steps, int n_steps);
    /* What is known, as bytes for a record: how many, of which as many as `capacity` are written. */
    size_t (*tactics_read)(spey_device *device, void *out, size_t capacity);
    /* Know what a record says; false: it is not sound, nothing changed. Its bytes may come from anywhere. */
    bool (*tactics_write)(spey_device *device, const void *bytes, size_t n);
    /* What a record is good for: the device and the libraries, by name and version. */
    void (*tactics_subject)(const spey_device *device, char out[SPEY_TACTICS_SUBJECT_BYTES]);

    /* The rows of this backend, best first within an op. */
    const spey_kernel *const *(*kernels)(int *n);
} spey_backend;

/* The one symbol of a plug-in. NULL with the error set when the ABI differs or no driver is there. */
typedef const spey_backend *(*spey_backend_plugin_fn)(const spey_backend_host *host);
#define SPEY_BACKEND_PLUGIN_SYMBOL "spey_backend_plugin"

/* Open the plug-in of that name ("cuda"): libspey-NAME.so beside the executable, in ../lib/spey, then the system's
 * search path. SPEY_NOT_FOUND says which of library, driver or device is missing. Opened once per process. */
spey_status spey_backend_open_plugin(const char *name, const spey_backend **out);

#endif
