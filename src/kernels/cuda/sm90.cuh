/* What Hopper adds for threads that work as producers and consumers: barriers in shared memory, registers that warpgroups
 * give to each other, and the order between ordinary writes and those who read beside them (wgmma). */
#ifndef SPEY_KERNELS_CUDA_SM90_CUH
#define SPEY_KERNELS_CUDA_SM90_CUH

#include <stdint.h>

enum { WARPGROUP_THREADS = 128 };

/* ---- barriers: 8 bytes of shared memory; phases 0, 1, 0, … end after `count` arrivals ---- */

static __device__ __forceinline__ void barrier_init(uint32_t barrier, int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

/* Behind it others, in any proxy, may use barriers that this thread has initialized. */
static __device__ __forceinline__ void barrier_init_done()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* One arrival, when all asynchronous copies that this thread has begun are there. */
static __device__ __forceinline__ void barrier_arrive_copied(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

static __device__ __forceinline__ bool barrier_try_wait(uint32_t barrier, uint32_t phase)
{
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(done)
                 : "r"(barrier), "r"(phase)
                 : "memory");
    return done;
}

/* Until the phase of that parity has ended. A new barrier behaves as if a phase of parity 1 had. */
static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t phase)
{
    while (!barrier_try_wait(barrier, phase)) {
    }
}

/* ---- the CTA's numbered barriers, 1 … 15 ---- */

static __device__ __forceinline__ void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- the rest ---- */

/* Registers of each thread of a warpgroup from here on; the CTA's are together at most what the launch gave. */
template <int N> static __device__ __forceinline__ void fewer_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void more_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* Ordinary writes to shared memory that this thread has seen or made come before what wgmma reads behind it. */
static __device__ __forceinline__ void fence_for_wgmma()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

#endif
