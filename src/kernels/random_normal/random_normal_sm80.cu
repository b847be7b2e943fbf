/* random_normal on sm_80 and later.
 *
 * who       Threads take words in turn, as many CTAs as keep every SM busy.
 * bound by  memory, with E4M3 arithmetic: two random words for each of out. */
#include "base/splitmix.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/round_e4m3.cuh"
#include "kernels/random_normal/random_normal.h"

enum { THREADS = 256 };
static const int64_t grid_max = 1 << 16;

/* Of 16 bits. `unit` is scale / 512. */
static __device__ __forceinline__ float normal16(uint32_t bits, float unit)
{
    const int ones = __popc(bits & 0xff00u), low = static_cast<int>(bits & 0xffu);
    return __fmul_rn(__int2float_rn(512 * ones + 2 * low + 1 - 9 * 256), unit);
}

/* Of 32 bits. `unit` is scale / 2^25. */
static __device__ __forceinline__ float normal32(uint32_t bits, float unit)
{
    const int ones = __popc(bits & 0xff000000u), low = static_cast<int>(bits & 0xffffffu);
    return __fmul_rn(__int2float_rn((ones << 25) + 2 * low + 1 - (9 << 24)), unit);
}

/* Four elements of one random word. */
static __device__ __forceinline__ void fill4(uint64_t word, float unit, float *out)
{
#pragma unroll
    for (int j = 0; j < 4; j++)
        out[j] = normal16(static_cast<uint32_t>(word >> 16 * j) & 0xffffu, unit);
}

static __device__ __forceinline__ uint2 fill_word(const spey_random_normal_args &a, uint64_t i)
{
    float x[4];
    if (a.dtype == SPEY_F32) {
        const uint64_t word = spey_splitmix(a.seed + i);
        const float unit = a.scale * 0x1p-25f;
        return make_uint2(__float_as_uint(normal32(static_cast<uint32_t>(word), unit)),
                          __float_as_uint(normal32(static_cast<uint32_t>(word >> 32), unit)));
    }
    const float unit = a.scale * 0x1p-9f;
    if (a.dtype != SPEY_E4M3) {
        fill4(spey_splitmix(a.seed + i), unit, x);
        return make_uint2(narrow_pair(x[0], x[1], a.dtype), narrow_pair(x[2], x[3], a.dtype));
    }
    uint32_t half[2];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        fill4(spey_splitmix(a.seed + 2 * i + j), unit, x);
        half[j] = round_pair(x[0], x[1]) | round_pair(x[2], x[3]) << 16;
    }
    return make_uint2(half[0], half[1]);
}

static __global__ void __launch_bounds__(THREADS) fill_normal(const spey_random_normal_args a)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < a.rows;
         i += step)
        static_cast<uint2 *>(a.out)[i] = fill_word(a, static_cast<uint64_t>(i));
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_random_normal_args *a = static_cast<const spey_random_normal_args *>(args);
    if (a->rows == 0) return;
    const int64_t ctas = (a->rows + THREADS - 1) / THREADS;
    fill_normal<<<static_cast<unsigned>(ctas < grid_max ? ctas : grid_max), THREADS, 0,
                  spey_cuda_stream(lane)>>>(*a);
}

static bool supports(const void *args)
{
    const spey_dtype dtype = static_cast<const spey_random_normal_args *>(args)->dtype;
    return is_float_16_or_32(dtype) || dtype == SPEY_E4M3;
}

extern "C" const spey_kernel spey_random_normal_sm80;
const spey_kernel spey_random_normal_sm80 = {
    "random_normal/sm80", 0, supports, nullptr, run, false
};
