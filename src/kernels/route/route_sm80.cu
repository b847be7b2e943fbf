/* route on sm_80 and later, logits of F32, F16 or BF16.
 *
 * who       A warp per token; lane l has experts l, l + 32, …, whose choices lie in shared memory and whose "out" flags are
 *           the bits of one register.
 * bound by  latency: top_k searches, one after the other, of n_experts / 32 steps and five shuffles each. */
#include "base/limits.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/route/route.h"

static_assert(SPEY_EXPERTS_MAX <= 32 * 32, "a bit for each expert of a lane");

enum { NONE = -1 };

/* Is value v of number e before value w of number f? The larger first, of equal ones the lower number, NaN last. */
static __device__ __forceinline__ bool comes_before(float v, int e, float w, int f)
{
    if (f == NONE || e == NONE) return e != NONE;
    if (v > w || w > v) return v > w;
    if (isnan(v) != isnan(w)) return isnan(w);
    return e < f;
}

/* The first of values [begin, end) that is not out, for all lanes; there is one. */
static __device__ __forceinline__ int best_of(const float *values, uint32_t out, int begin, int end)
{
    const int lane = threadIdx.x;
    int best = NONE;
    float value = 0.0f;
    for (int i = begin / 32; i * 32 < end; i++) {
        const int e = i * 32 + lane;
        if (e < begin || e >= end || out >> i & 1) continue;
        if (comes_before(values[e], e, value, best)) {
            value = values[e];
            best = e;
        }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, value, offset);
        const int number = __shfl_xor_sync(0xffffffffu, best, offset);
        if (comes_before(other, number, value, best)) {
            value = other;
            best = number;
        }
    }
    return best;
}

/* The bit of expert e, in its lane. */
static __device__ __forceinline__ uint32_t bit_of(int e)
{
    return e % 32 == static_cast<int>(threadIdx.x) ? 1u << e / 32 : 0u;
}

static __device__ __forceinline__ void score(const spey_route_args &a, int64_t row, float *scores,
                                             float *choices)
{
    const int n = static_cast<int>(a.n_experts);
    float max = -INFINITY, sum = 0.0f;
    for (int e = threadIdx.x; e < n; e += 32) {
        scores[e] = load_any(a.logits, a.dtype, row * a.pitch + e);
        max = fmaxf(max, scores[e]);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, offset));
    const bool sigmoid = a.scoring == SPEY_SCORING_SIGMOID;
    for (int e = threadIdx.x; e < n; e += 32) {
        scores[e] = sigmoid ? 1.0f / (1.0f + expf(-scores[e])) : expf(scores[e] - max);
        sum += scores[e];
    }
    sum = warp_sum(sum);
    for (int e = threadIdx.x; e < n; e += 32) {
        if (!sigmoid) scores[e] /= sum;
        choices[e] = scores[e] + (a.correction ? a.correction[e] : 0.0f);
    }
    __syncwarp();
}

/* The experts of this lane that are not in the best groups. `sums` is scratch for the groups' scores. */
static __device__ __forceinline__ uint32_t outside_groups(const spey_route_args &a,
                                                          const float *choices, float *sums)
{
    const int groups = static_cast<int>(a.n_groups), size = static_cast<int>(a.n_experts) / groups;
    for (int g = 0; g < groups; g++) {
        const int first = best_of(choices, 0, g * size, (g + 1) * size);
        float sum = choices[first];
        if (a.group_best > 1)
            sum += choices[best_of(choices, bit_of(first), g * size, (g + 1) * size)];
        if (threadIdx.x == 0) sums[g] = sum;
    }
    __syncwarp();
    uint32_t taken = 0, inside = 0;
    for (int64_t i = 0; i < a.top_groups; i++) {
        const int g = best_of(sums, taken, 0, groups);
        taken |= bit_of(g);
        for (int e = threadIdx.x; e < static_cast<int>(a.n_experts); e += 32)
            if (e / size == g) inside |= 1u << e / 32;
    }
    return ~inside;
}

static __global__ void __launch_bounds__(32) route_rows(const spey_route_args a)
{
    __shared__ float scores[SPEY_EXPERTS_MAX], choices[SPEY_EXPERTS_MAX], sums[SPEY_EXPERTS_MAX];
    const int64_t row = blockIdx.x;
    float *weights = a.out + row * 2 * a.top_k, *ids = weights + a.top_k;
    begin_early();
    score(a, row, scores, choices);
    uint32_t out = a.top_groups < a.n_groups ? outside_groups(a, choices, sums) : 0;
    float sum = 0.0f;
    for (int64_t i = 0; i < a.top_k; i++) {
        const int e = best_of(choices, out, 0, static_cast<int>(a.n_experts));
        out |= bit_of(e);
        sum += scores[e];
        if (threadIdx.x == 0) ids[i] = static_cast<float>(e);
    }
    __syncwarp();
    for (int64_t i = threadIdx.x; i < a.top_k; i += 32) {
        const float weight = scores[static_cast<int>(ids[i])];
        weights[i] = (a.normalise ? weight / (sum + 1e-20f) : weight) * a.scale;
    }
}

static bool supports(const void *args)
{
    const spey_route_args *a = static_cast<const spey_route_args *>(args);
    return is_float_16_or_32(a->dtype) && a->n_experts <= SPEY_EXPERTS_MAX && a->rows <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_route_args *a = static_cast<const spey_route_args *>(args);
    if (a->rows == 0) return;
    launch_early(spey_cuda_device(lane), { dim3(static_cast<unsigned>(a->rows)), dim3(32), 0 },
                 route_rows, *a);
}

extern "C" const spey_kernel spey_route_sm80;
const spey_kernel spey_route_sm80 = { "route/sm80", 0, supports, nullptr, run, false };
