/* Device memory, and copies between it and any host memory.
 *
 * The copy engine reads pinned memory only, and a checkpoint is mapped pageable memory. So a copy goes through pinned
 * slots, in chunks: while the device moves one chunk, the worker fills the next. One core copies (and takes the page
 * faults of) 3 to 10 GB/s, the bus moves 25 to 55: large copies are cut among several workers, which live for the one
 * call. Small ones (every step's metadata) stay on the calling thread and do not wait for the device.
 *
 *   host  |--- worker 0 ---|--- worker 1 ---| …      each part in chunks of SPEY_CUDA_SLOT_BYTES
 *   slots  [0 1 2 … 7]      [0 1 2 … 7]              a ring per worker; slot.done says when it is free again */
#include "kernels/cuda/cuda_device.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Below this much per worker, starting a thread costs more than it saves. */
enum { PART_BYTES_MIN = 8 << 20 };

/* As SPEY_CUDA_TRY, for code that may run on a worker: error texts belong to the caller's thread. */
#define TRY_CUDA(call)                            \
    do {                                          \
        cudaError_t error_ = (call);              \
        if (error_ != cudaSuccess) return error_; \
    } while (0)

typedef cudaError_t (*copy_fn)(spey_device *device, int worker, uint8_t *to, const uint8_t *from,
                               size_t bytes);

typedef struct copy_part {
    spey_device *device;
    copy_fn copy;
    int worker;
    uint8_t *to;
    const uint8_t *from;
    size_t bytes;
    cudaError_t error;
} copy_part;

static size_t chunk_bytes(size_t left)
{
    return left < SPEY_CUDA_SLOT_BYTES ? left : SPEY_CUDA_SLOT_BYTES;
}

static spey_cuda_slot *take_slot(spey_device *device, int worker)
{
    spey_cuda_slot *slot = &device->slots[worker][device->next_slot[worker]];
    device->next_slot[worker] = (device->next_slot[worker] + 1) % SPEY_CUDA_SLOTS;
    return slot;
}

static cudaError_t copy_up(spey_device *device, int worker, uint8_t *to, const uint8_t *from,
                           size_t bytes)
{
    for (size_t at = 0; at < bytes; at += SPEY_CUDA_SLOT_BYTES) {
        size_t n = chunk_bytes(bytes - at);
        spey_cuda_slot *slot = take_slot(device, worker);
        TRY_CUDA(cudaEventSynchronize(slot->done));
        memcpy(slot->bytes, from + at, n);
        TRY_CUDA(cudaMemcpyAsync(to + at, slot->bytes, n, cudaMemcpyHostToDevice, device->stream));
        TRY_CUDA(cudaEventRecord(slot->done, device->stream));
    }
    return cudaSuccess;
}

static cudaError_t copy_down(spey_device *device, int worker, uint8_t *to, const uint8_t *from,
                             size_t bytes)
{
    spey_cuda_slot *flying[SPEY_CUDA_SLOTS];
    size_t n_chunks = (bytes + SPEY_CUDA_SLOT_BYTES - 1) / SPEY_CUDA_SLOT_BYTES;
    for (size_t asked = 0, taken = 0; taken < n_chunks; taken++) {
        for (; asked < n_chunks && asked < taken + SPEY_CUDA_SLOTS; asked++) {
            size_t at = asked * SPEY_CUDA_SLOT_BYTES;
            spey_cuda_slot *slot = flying[asked % SPEY_CUDA_SLOTS] = take_slot(device, worker);
            TRY_CUDA(cudaEventSynchronize(slot->done));
            TRY_CUDA(cudaMemcpyAsync(slot->bytes, from + at, chunk_bytes(bytes - at),
                                     cudaMemcpyDeviceToHost, device->stream));
            TRY_CUDA(cudaEventRecord(slot->done, device->stream));
        }
        size_t at = taken * SPEY_CUDA_SLOT_BYTES;
        TRY_CUDA(cudaEventSynchronize(flying[taken % SPEY_CUDA_SLOTS]->done));
        memcpy(to + at, flying[taken % SPEY_CUDA_SLOTS]->bytes, chunk_bytes(bytes - at));
    }
    return cudaSuccess;
}

static void *run_part(void *opaque)
{
    copy_part *part = opaque;
    part->error = cudaSetDevice(part->device->index);
    if (part->error == cudaSuccess)
        part->error = part->copy(part->device, part->worker, part->to, part->from, part->bytes);
    return NULL;
}

static int count_workers(size_t bytes)
{
    size_t n = bytes / PART_BYTES_MIN;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    if (n > SPEY_CUDA_COPY_WORKERS) n = SPEY_CUDA_COPY_WORKERS;
    if (cores > 0 && n > (size_t)cores) n = (size_t)cores;
    return n < 1 ? 1 : (int)n;
}

static cudaError_t copy_in_parts(spey_device *device, copy_fn copy, void *to, const void *from,
                                 size_t bytes)
{
    copy_part parts[SPEY_CUDA_COPY_WORKERS];
    pthread_t threads[SPEY_CUDA_COPY_WORKERS];
    bool started[SPEY_CUDA_COPY_WORKERS] = { false };
    int n = count_workers(bytes);
    size_t share = (bytes / (size_t)n + 4095) & ~(size_t)4095;
    for (int i = 0; i < n; i++) {
        size_t begin = share * (size_t)i < bytes ? share * (size_t)i : bytes;
        size_t end = i + 1 < n && begin + share < bytes ? begin + share : bytes;
        parts[i] = (copy_part){ .device = device,
                                .copy = copy,
                                .worker = i,
                                .to = (uint8_t *)to + begin,
                                .from = (const uint8_t *)from + begin,
                                .bytes = end - begin };
        if (i > 0) started[i] = pthread_create(&threads[i], NULL, run_part, &parts[i]) == 0;
    }
    for (int i = 0; i < n; i++)
        if (!started[i]) run_part(&parts[i]);
    cudaError_t error = cudaSuccess;
    for (int i = 0; i < n; i++) {
        if (started[i]) pthread_join(threads[i], NULL);
        if (error == cudaSuccess) error = parts[i].error;
    }
    return error;
}

static spey_status refuse_in_capture(const spey_device *device, const char *what)
{
    if (!device->capturing) return SPEY_OK;
    return spey_cuda_host->fail(SPEY_INVALID, "cuda: %s while a graph is captured", what);
}

spey_status spey_cuda_upload(spey_device *device, void *dst, const void *host, size_t bytes)
{
    SPEY_TRY(refuse_in_capture(device, "upload"));
    cudaError_t error = copy_in_parts(device, copy_up, dst, host, bytes);
    return error == cudaSuccess ? SPEY_OK : spey_cuda_failed(error, "upload");
}

spey_status spey_cuda_download(spey_device *device, void *host, const void *src, size_t bytes)
{
    SPEY_TRY(refuse_in_capture(device, "download"));
    cudaError_t error = copy_in_parts(device, copy_down, host, src, bytes);
    return error == cudaSuccess ? SPEY_OK : spey_cuda_failed(error, "download");
}

spey_status spey_cuda_fetch_begin(spey_device *device, const void *src, size_t bytes)
{
    SPEY_TRY(refuse_in_capture(device, "fetch"));
    SPEY_ASSERT(device->n_fetches - device->n_fetched < SPEY_FETCHES_MAX);
    SPEY_ASSERT(bytes <= SPEY_CUDA_SLOT_BYTES);
    spey_cuda_slot *slot = &device->fetches[device->n_fetches % SPEY_FETCHES_MAX];
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    SPEY_CUDA_TRY(cudaMemcpyAsync(slot->bytes, src, bytes, cudaMemcpyDeviceToHost, device->stream));
    SPEY_CUDA_TRY(cudaEventRecord(slot->done, device->stream));
    device->n_fetches++;
    return SPEY_OK;
}

spey_status spey_cuda_fetch_end(spey_device *device, void *host, size_t bytes)
{
    SPEY_ASSERT(device->n_fetched < device->n_fetches);
    const spey_cuda_slot *slot = &device->fetches[device->n_fetched++ % SPEY_FETCHES_MAX];
    SPEY_CUDA_TRY(cudaEventSynchronize(slot->done));
    memcpy(host, slot->bytes, bytes);
    return SPEY_OK;
}

spey_status spey_cuda_copy(spey_device *device, void *dst, const void *src, size_t bytes)
{
    SPEY_TRY(refuse_in_capture(device, "copy"));
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    SPEY_CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, device->stream));
    return SPEY_OK;
}

spey_status spey_cuda_memory_new(spey_device *device, size_t bytes, void **out)
{
    SPEY_TRY(refuse_in_capture(device, "memory_new"));
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    void *memory = NULL;
    cudaError_t error = cudaMalloc(&memory, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        size_t available = 0, total = 0;
        cudaGetLastError();
        cudaMemGetInfo(&available, &total);
        return spey_cuda_host->fail(
            SPEY_NOMEM, "cuda: out of device memory: %zu MiB wanted, %zu of %zu MiB are free",
            bytes >> 20, available >> 20, total >> 20);
    }
    if (error != cudaSuccess) return spey_cuda_failed(error, "cudaMalloc");
    error = cudaMemsetAsync(memory, 0, bytes ? bytes : 1, device->stream);
    if (error != cudaSuccess) {
        cudaFree(memory);
        return spey_cuda_failed(error, "cudaMemsetAsync");
    }
    *out = memory;
    return SPEY_OK;
}

void spey_cuda_memory_free(spey_device *device, void *memory, size_t bytes)
{
    (void)bytes;
    if (!memory) return;
    cudaSetDevice(device->index);
    cudaFree(memory);
}

static spey_status open_slot(spey_device *device, size_t number, spey_cuda_slot *slot)
{
    slot->bytes = device->staging + number * SPEY_CUDA_SLOT_BYTES;
    SPEY_CUDA_TRY(cudaEventCreateWithFlags(&slot->done, cudaEventDisableTiming));
    return SPEY_OK;
}

spey_status spey_cuda_staging_open(spey_device *device)
{
    size_t n = (size_t)SPEY_CUDA_COPY_WORKERS * SPEY_CUDA_SLOTS + SPEY_FETCHES_MAX;
    void *staging;
    SPEY_CUDA_TRY(cudaHostAlloc(&staging, n * SPEY_CUDA_SLOT_BYTES, cudaHostAllocDefault));
    device->staging = staging;
    for (size_t f = 0; f < SPEY_FETCHES_MAX; f++)
        SPEY_TRY(open_slot(device, --n, &device->fetches[f]));
    for (int w = 0; w < SPEY_CUDA_COPY_WORKERS; w++)
        for (int s = 0; s < SPEY_CUDA_SLOTS; s++)
            SPEY_TRY(open_slot(device, --n, &device->slots[w][s]));
    return SPEY_OK;
}

void spey_cuda_staging_close(spey_device *device)
{
    for (int f = 0; f < SPEY_FETCHES_MAX; f++)
        if (device->fetches[f].done) cudaEventDestroy(device->fetches[f].done);
    for (int w = 0; w < SPEY_CUDA_COPY_WORKERS; w++)
        for (int s = 0; s < SPEY_CUDA_SLOTS; s++)
            if (device->slots[w][s].done) cudaEventDestroy(device->slots[w][s].done);
    if (device->staging) cudaFreeHost(device->staging);
}
