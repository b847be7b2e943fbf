/* For checkfaults alone: what breaks a device, or fills its memory, in the process that calls. It uses the same context as
 * the plug-in: both have the device's primary one. */
#include <cuda_runtime_api.h>
#include <stddef.h>

static __global__ void trap_if(int fires)
{
    if (fires) __trap();
}

enum { PIECES_MAX = 512 };
static void *pieces[PIECES_MAX];
static int n_pieces;

/* A kernel that traps, unless it is only to be loaded. Returns the runtime's error. */
extern "C" __attribute__((visibility("default"))) int spey_fault_trap(int fires)
{
    void *args[] = { &fires };
    cudaLaunchKernel((const void *)trap_if, dim3(1), dim3(1), args, 0, nullptr);
    cudaError_t error = cudaDeviceSynchronize();
    cudaGetLastError();
    return (int)error;
}

/* Take all memory but `leave` bytes, and some MiB. */
extern "C" __attribute__((visibility("default"))) void spey_fault_fill(size_t leave)
{
    for (size_t bytes = (size_t)16 << 30; bytes >= (size_t)1 << 20; bytes /= 2) {
        size_t available = 0, total = 0;
        while (n_pieces < PIECES_MAX && cudaMemGetInfo(&available, &total) == cudaSuccess &&
               available >= leave + bytes && cudaMalloc(&pieces[n_pieces], bytes) == cudaSuccess)
            n_pieces++;
    }
    cudaGetLastError();
}

extern "C" __attribute__((visibility("default"))) void spey_fault_release(void)
{
    while (n_pieces > 0)
        cudaFree(pieces[--n_pieces]);
    cudaGetLastError();
}
