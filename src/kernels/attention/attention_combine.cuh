/* The kernel of attention on tensor cores that puts the splits of decoded rows together. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_COMBINE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_COMBINE_CUH

#include "kernels/attention/attention_rows.cuh"
#include "kernels/attention/attention_tile.cuh"
#include "kernels/cuda/launch.cuh"

enum { COMBINE_THREADS = 64 };

/* One CTA per decoded row, PAIRS pairs of columns a thread; those that were cut into splits are put together here, in the order of the splits. */
template <int PAIRS>
static __global__ void __launch_bounds__(COMBINE_THREADS)
    combine(const attention_problem p, const attention_plan plan)
{
    __shared__ float weights[COMBINE_THREADS];
    const int64_t slot = blockIdx.x, head = blockIdx.y;
    const int t = threadIdx.x, v_dim = static_cast<int>(p.a.v_dim);
    const int64_t seq = plan.all_decode ? p.token_seq[slot] : slot;
    const int first = p.seq_start[seq];
    const int64_t r = plan.all_decode ? slot : first;
    const bool decoded = plan.all_decode || p.seq_start[seq + 1] - first == 1;
    const int n = decoded ? view_token(p, plan, seq, static_cast<int>(r)).n_splits : 0;
    let_next_begin();
    wait_for_others();
    if (n <= 1) return;
    const int64_t at = (slot * p.a.n_heads + head) * plan.splits_max;
    float max = -INFINITY, sum = 0.0f, low[PAIRS] = {}, high[PAIRS] = {};
    for (int i = 0; i < n; i++)
        max = fmaxf(max, plan.partial_max[at + i]);
    for (int begin = 0; begin < n; begin += COMBINE_THREADS) {
        const int end = min(n, begin + COMBINE_THREADS);
        __syncthreads();
        if (begin + t < end) weights[t] = exp2_fast(plan.partial_max[at + begin + t] - max);
        __syncthreads();
        for (int i = begin; i < end; i++) {
            sum = fmaf(plan.partial_sum[at + i], weights[i - begin], sum);
#pragma unroll
            for (int k = 0; k < PAIRS; k++) {
                const int d = 2 * t + k * 2 * COMBINE_THREADS;
                if (d >= v_dim) continue;
                const float2 o =
                    *reinterpret_cast<const float2 *>(plan.partial + (at + i) * v_dim + d);
                low[k] = fmaf(o.x, weights[i - begin], low[k]);
                high[k] = fmaf(o.y, weights[i - begin], high[k]);
            }
        }
    }
    const float scale = finish_row(p.a, head, max, sum);
#pragma unroll
    for (int k = 0; k < PAIRS; k++) {
        const int d = 2 * t + k * 2 * COMBINE_THREADS;
        if (d < v_dim)
            store2(p.a, r * p.a.out_pitch + head * v_dim + d, low[k] * scale, high[k] * scale);
    }
}

/* v_dim is at most 2 · PAIRS · COMBINE_THREADS. */
template <int PAIRS>
static void launch_combine(const spey_attention_args *a, const attention_plan &plan,
                           const spey_lane *lane)
{
    if (a->kv_len_max <= plan.split_tokens) return;
    const dim3 grid(static_cast<unsigned>(plan.all_decode ? a->rows : a->batch->n_seqs),
                    static_cast<unsigned>(a->n_heads));
    launch_early(spey_cuda_device(lane), { grid, dim3(COMBINE_THREADS), 0 }, combine<PAIRS>,
                 attention_problem_of(a), plan);
}

#endif
