/* Launches that overlap: a kernel may begin while the one before it in the stream still runs ("CUDA C++ Programming Guide",
 * Programmatic Dependent Launch; sm_90). What a launch costs, and what a kernel does before it needs others' results, is then
 * hidden behind its predecessor; graphs keep the overlap.
 *
 * A kernel that is launched so
 *   - calls wait_for_others in every CTA, in each thread that reads what other kernels of the step make or writes what they
 *     read. Before that it touches only what has lain in memory since the step began: weights and the batch's tables. A
 *     CTA without a wait would end before its predecessors, and who waits for it would not wait for them
 *   - calls let_next_begin when it no longer minds company: its successor's CTAs then take room on the SMs, though they
 *     wait. At the end of a CTA it happens by itself.
 * In other launches, and on older cards, both do nothing. The first kernel of a run is another launch: tables that a kernel has
 * written before the step lie still for all of its kernels. */
#ifndef SPEY_KERNELS_CUDA_LAUNCH_CUH
#define SPEY_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/cuda/cuda_device.h"

/* All kernels before this one have ended, and what they wrote is visible. */
static __device__ __forceinline__ void wait_for_others()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The kernel after this one may begin once every CTA has said so. */
static __device__ __forceinline__ void let_next_begin()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* What kernels begin with that read nothing before they wait. */
static __device__ __forceinline__ void begin_early()
{
    let_next_begin();
    wait_for_others();
}

/* Of memory that nobody writes: it comes to the L2 cache. */
static __device__ __forceinline__ void prefetch_line(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

struct launch_shape {
    dim3 grid, block;
    size_t shared_bytes;
};

/* kernel<<<shape>>>(args…) in clusters of so many CTAs (along x; sm_90), overlapping where the device can. Errors stay with
 * the runtime, as after <<<>>>. */
template <typename... P, typename... A>
static inline void launch_clusters(const spey_device *device, launch_shape shape, unsigned cluster,
                                   void (*kernel)(P...), const A &...args)
{
    cudaLaunchAttribute wishes[2] = {};
    unsigned n = 0;
    if (device->overlaps && device->follows) {
        wishes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        wishes[n++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        wishes[n].id = cudaLaunchAttributeClusterDimension;
        wishes[n].val.clusterDim.x = cluster;
        wishes[n].val.clusterDim.y = wishes[n].val.clusterDim.z = 1;
        n++;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = device->stream;
    config.attrs = wishes;
    config.numAttrs = n;
    cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
}

template <typename... P, typename... A>
static inline void launch_early(const spey_device *device, launch_shape shape, void (*kernel)(P...),
                                const A &...args)
{
    launch_clusters(device, shape, 1, kernel, args...);
}

#endif
