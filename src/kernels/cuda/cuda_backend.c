/* The CUDA backend: one device, one stream; rows launch on it in the order of the steps. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/gemm/gemm_plans.h"

const spey_backend_host *spey_cuda_host;

/* major * 10 + minor: BF16 and 16-byte asynchronous copies; the card that sm_90a code is for. */
enum { CAPABILITY_MIN = 80, CAPABILITY_HOPPER = 90 };

/* Errors that a context never recovers from: every later call of this process gets them again. */
static bool is_lost(cudaError_t error)
{
    static const cudaError_t errors[] = {
        cudaErrorIllegalAddress,      cudaErrorLaunchTimeout,       cudaErrorAssert,
        cudaErrorHardwareStackError,  cudaErrorIllegalInstruction,  cudaErrorMisalignedAddress,
        cudaErrorInvalidAddressSpace, cudaErrorInvalidPc,           cudaErrorLaunchFailure,
        cudaErrorECCUncorrectable,    cudaErrorNvlinkUncorrectable,
    };
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (error == errors[i]) return true;
    return false;
}

spey_status spey_cuda_failed(cudaError_t error, const char *call)
{
    cudaGetLastError();
    const int length = (int)strcspn(call, "(");
    if (is_lost(error))
        return spey_cuda_host->fail(SPEY_DEVICE,
                                    "cuda: the device is lost until this process ends (%.*s: %s)",
                                    length, call, cudaGetErrorString(error));
    spey_status status = error == cudaErrorMemoryAllocation ? SPEY_NOMEM : SPEY_DEVICE;
    return spey_cuda_host->fail(status, "cuda: %.*s: %s", length, call, cudaGetErrorString(error));
}

void spey_cuda_note(spey_device *device, spey_status status, const char *format, ...)
{
    if (device->failed != SPEY_OK) return;
    device->failed = status;
    va_list args;
    va_start(args, format);
    vsnprintf(device->failure, sizeof device->failure, format, args);
    va_end(args);
}

/* ---- devices ---- */

static int device_count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    cudaGetLastError();
    return 0;
}

static void device_close(spey_device *device)
{
    if (!device) return;
    cudaSetDevice(device->index);
    if (device->stream) cudaStreamSynchronize(device->stream);
    spey_cublaslt_close(device);
    spey_cuda_staging_close(device);
    if (device->stream) cudaStreamDestroy(device->stream);
    cudaGetLastError(); /* a device that broke before cannot be closed without errors */
    spey_free(device);
}

static spey_status get_capability(int index, int *out)
{
    int major = 0, minor = 0;
    SPEY_CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
    SPEY_CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index));
    *out = major * 10 + minor;
    if (*out >= CAPABILITY_MIN) return SPEY_OK;
    return spey_cuda_host->fail(
        SPEY_UNSUPPORTED, "cuda: device %d has compute capability %d.%d, at least 8.0 is needed",
        index, major, minor);
}

static spey_status open_parts(spey_device *device, int capability)
{
    device->overlaps = capability == CAPABILITY_HOPPER;
    SPEY_CUDA_TRY(
        cudaDeviceGetAttribute(&device->sms, cudaDevAttrMultiProcessorCount, device->index));
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    SPEY_CUDA_TRY(cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking));
    SPEY_TRY(spey_cuda_staging_open(device));
    SPEY_TRY(spey_cublaslt_open(device));
    return SPEY_OK;
}

static spey_status device_open(int index, const spey_device_options *options, spey_device **out)
{
    (void)options;
    int n = device_count();
    if (index < 0 || index >= n)
        return spey_cuda_host->fail(SPEY_NOT_FOUND, "cuda: no device %d, there are %d", index, n);
    int capability = 0;
    SPEY_TRY(get_capability(index, &capability));
    spey_device *device = spey_new(SPEY_PURPOSE_RUNTIME, spey_device);
    if (!device) return spey_cuda_host->fail(SPEY_NOMEM, "cuda: out of host memory");
    device->index = index;
    spey_status status = open_parts(device, capability);
    if (status != SPEY_OK) {
        device_close(device);
        return status;
    }
    *out = device;
    return SPEY_OK;
}

static void device_info(const spey_device *device, spey_device_info *out)
{
    *out = (spey_device_info){ .host_memory = false };
    struct cudaDeviceProp properties;
    size_t available = 0, total = 0;
    cudaSetDevice(device->index);
    if (cudaGetDeviceProperties(&properties, device->index) == cudaSuccess) {
        snprintf(out->name, sizeof out->name, "%.127s", properties.name);
        out->compute_units = properties.multiProcessorCount;
    }
    cudaMemGetInfo(&available, &total);
    out->memory_bytes = total;
    out->memory_free_bytes = available;
    cudaGetLastError();
}

/* ---- running ---- */

/* What is wrong with the device when a library, which has words of its own for it, failed. */
static cudaError_t error_behind(spey_device *device)
{
    cudaError_t error = cudaGetLastError();
    if (error == cudaSuccess && !device->capturing) error = cudaStreamQuery(device->stream);
    cudaGetLastError();
    return error;
}

/* What this step left behind: a row's own refusal, or a launch that the runtime refused. */
static spey_status check_step(spey_device *device, const spey_step *step)
{
    spey_status failed = device->failed;
    if (failed != SPEY_OK) {
        device->failed = SPEY_OK;
        cudaError_t behind = error_behind(device);
        if (is_lost(behind)) return spey_cuda_failed(behind, step->kernel->name);
        return spey_cuda_host->fail(failed, "cuda: %s: %s", step->kernel->name, device->failure);
    }
    cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? SPEY_OK : spey_cuda_failed(error, step->kernel->name);
}

static spey_status run(spey_device *device, const spey_step *steps, int n_steps)
{
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    const spey_lane lane = { .index = 0, .count = 1, .stream = device };
    for (int i = 0; i < n_steps; i++) {
        device->follows = i > 0;
        steps[i].kernel->run(steps[i].args, &lane);
        SPEY_TRY(check_step(device, &steps[i]));
    }
    return SPEY_OK;
}

static spey_status sync_device(spey_device *device)
{
    SPEY_CUDA_TRY(cudaStreamSynchronize(device->stream));
    return SPEY_OK;
}

/* ---- graphs ---- */

static spey_status capture_begin(spey_device *device)
{
    if (device->capturing)
        return spey_cuda_host->fail(SPEY_INVALID, "cuda: a graph is being captured already");
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    /* Relaxed: loading a kernel at its first use must not break the capture. */
    SPEY_CUDA_TRY(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeRelaxed));
    device->capturing = true;
    return SPEY_OK;
}

static spey_status capture_end(spey_device *device, void **out_graph)
{
    if (!device->capturing)
        return spey_cuda_host->fail(SPEY_INVALID, "cuda: no graph is being captured");
    device->capturing = false;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    SPEY_CUDA_TRY(cudaStreamEndCapture(device->stream, &graph));
    cudaError_t error = cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    if (error != cudaSuccess) return spey_cuda_failed(error, "cudaGraphInstantiate");
    error = cudaGraphUpload(exec, device->stream);
    if (error != cudaSuccess) {
        cudaGraphExecDestroy(exec);
        return spey_cuda_failed(error, "cudaGraphUpload");
    }
    *out_graph = exec;
    return SPEY_OK;
}

static spey_status replay(spey_device *device, void *graph)
{
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    SPEY_CUDA_TRY(cudaGraphLaunch(graph, device->stream));
    return SPEY_OK;
}

static void graph_free(spey_device *device, void *graph)
{
    if (!graph) return;
    cudaSetDevice(device->index);
    cudaGraphExecDestroy(graph);
}

/* ---- events ---- */

static spey_status event_new(spey_device *device, void **out)
{
    cudaEvent_t event;
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    SPEY_CUDA_TRY(cudaEventCreate(&event));
    *out = event;
    return SPEY_OK;
}

static void event_free(spey_device *device, void *event)
{
    (void)device;
    if (event) cudaEventDestroy(event);
}

static spey_status event_record(spey_device *device, void *event)
{
    SPEY_CUDA_TRY(cudaEventRecord(event, device->stream));
    return SPEY_OK;
}

static spey_status event_elapsed_ns(spey_device *device, void *begin, void *end, uint64_t *out)
{
    (void)device;
    float ms = 0;
    SPEY_CUDA_TRY(cudaEventSynchronize(end));
    SPEY_CUDA_TRY(cudaEventElapsedTime(&ms, begin, end));
    *out = (uint64_t)((double)ms * 1e6);
    return SPEY_OK;
}

/* ---- tuning ---- */

static spey_status tune(spey_device *device, const spey_step *steps, int n_steps)
{
    SPEY_CUDA_TRY(cudaSetDevice(device->index));
    return spey_gemm_tune(device, steps, n_steps);
}

static void tactics_subject(const spey_device *device, char out[SPEY_TACTICS_SUBJECT_BYTES])
{
    spey_device_info info;
    device_info(device, &info);
    snprintf(out, SPEY_TACTICS_SUBJECT_BYTES, "%s, %d SMs, cuBLASLt %zu", info.name,
             info.compute_units, device->cublaslt->GetVersion());
}

/* ---- the plug-in ---- */

#define X(symbol) extern const spey_kernel spey_##symbol;
#include "kernels/cuda/cuda_rows.def"
#undef X

static const spey_kernel *const *kernels(int *n)
{
    static const spey_kernel *const rows[] = {
#define X(symbol) &spey_##symbol,
#include "kernels/cuda/cuda_rows.def"
#undef X
    };
    *n = sizeof rows / sizeof *rows;
    return rows;
}

static const spey_backend backend = {
    .abi = SPEY_BACKEND_ABI,
    .name = "cuda",
    .device_count = device_count,
    .device_open = device_open,
    .device_close = device_close,
    .device_info = device_info,
    .memory_new = spey_cuda_memory_new,
    .memory_free = spey_cuda_memory_free,
    .upload = spey_cuda_upload,
    .download = spey_cuda_download,
    .fetch_begin = spey_cuda_fetch_begin,
    .fetch_end = spey_cuda_fetch_end,
    .copy = spey_cuda_copy,
    .run = run,
    .sync = sync_device,
    .capture_begin = capture_begin,
    .capture_end = capture_end,
    .replay = replay,
    .graph_free = graph_free,
    .event_new = event_new,
    .event_free = event_free,
    .event_record = event_record,
    .event_elapsed_ns = event_elapsed_ns,
    .tune = tune,
    .tactics_read = spey_gemm_tactics_read,
    .tactics_write = spey_gemm_tactics_write,
    .tactics_subject = tactics_subject,
    .kernels = kernels,
};

/* A driver that is present, new enough, and has a device. */
static spey_status check_driver(void)
{
    int driver = 0, n = 0;
    cudaDriverGetVersion(&driver);
    if (driver == 0)
        return spey_cuda_host->fail(SPEY_NOT_FOUND,
                                    "cuda: no NVIDIA driver (libcuda.so.1) on this machine");
    cudaError_t error = cudaGetDeviceCount(&n);
    cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        return spey_cuda_host->fail(SPEY_NOT_FOUND,
                                    "cuda: the driver is for CUDA %d.%d, at least %d.0 is needed",
                                    driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && n == 0))
        return spey_cuda_host->fail(SPEY_NOT_FOUND, "cuda: a driver but no device is present");
    if (error != cudaSuccess) return spey_cuda_failed(error, "cudaGetDeviceCount");
    return SPEY_OK;
}

/* The one exported symbol; device/backend.h describes it. */
__attribute__((visibility("default"))) const spey_backend *
spey_backend_plugin(const spey_backend_host *host);

const spey_backend *spey_backend_plugin(const spey_backend_host *host)
{
    if (host->abi != SPEY_BACKEND_ABI) {
        host->fail(SPEY_UNSUPPORTED, "cuda: the plug-in has ABI %d, spey has %u", SPEY_BACKEND_ABI,
                   host->abi);
        return NULL;
    }
    spey_cuda_host = host;
    return check_driver() == SPEY_OK ? &backend : NULL;
}
