/* CTAs of one cluster (sm_90), which read each other's shared memory. On older cards a CTA is alone. */
#ifndef SPEY_KERNELS_CUDA_CLUSTER_CUH
#define SPEY_KERNELS_CUDA_CLUSTER_CUH

#include <stdint.h>

static __device__ __forceinline__ int cluster_rank()
{
    uint32_t rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return static_cast<int>(rank);
}

static __device__ __forceinline__ int cluster_size()
{
    uint32_t n = 1;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
#endif
    return static_cast<int>(n);
}

/* The two halves of cluster_sync, for what need not wait yet. */
static __device__ __forceinline__ void cluster_arrive()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

static __device__ __forceinline__ void cluster_wait()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

/* All threads of all CTAs have come here, and see what the others wrote before. */
static __device__ __forceinline__ void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}

/* What lies at this CTA's `address` of shared memory, of the CTA of that rank. */
static __device__ __forceinline__ uint32_t cluster_address(uint32_t address, int rank)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
#else
    return address;
#endif
}

static __device__ __forceinline__ float cluster_load(uint32_t address)
{
    float x = 0.0f;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(address) : "memory");
#endif
    return x;
}

static __device__ __forceinline__ float4 cluster_load4(uint32_t address)
{
    float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address)
                 : "memory");
#endif
    return x;
}

#endif
