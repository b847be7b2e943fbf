/* Sums and maxima over the threads of a warp or CTA, in an order that depends on THREADS alone. */
#ifndef SPEY_KERNELS_CUDA_REDUCE_CUH
#define SPEY_KERNELS_CUDA_REDUCE_CUH

static __device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

static __device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

/* Every one of the THREADS threads gets the sum. More than a warp: all threads of the CTA call it, `shared` has THREADS
 * / 32 floats that nothing else uses before the CTA's next barrier. */
template <int THREADS> static __device__ __forceinline__ float thread_sum(float x, float *shared)
{
    x = warp_sum(x);
    if (THREADS == 32) return x;
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % 32 < THREADS / 32 ? shared[threadIdx.x % 32] : 0.0f);
}

/* The same with the largest of numbers that are not negative. */
template <int THREADS> static __device__ __forceinline__ float thread_max(float x, float *shared)
{
    x = warp_max(x);
    if (THREADS == 32) return x;
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(threadIdx.x % 32 < THREADS / 32 ? shared[threadIdx.x % 32] : 0.0f);
}

#endif
