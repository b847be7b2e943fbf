/* causal_conv on sm_80 and later, for F32, F16 and BF16.
 *
 * who       First a thread per token and column, which reads its `width` inputs (neighbours' from L1) and, near the step's
 *           first token, the state; then a thread per sequence and column, which moves the state on.
 * bound by  memory. */
#include "base/limits.h"
#include "kernels/causal_conv/causal_conv.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/paged.cuh"

/* Column c of token t of the step's part of a sequence, t < 0: of its state. */
struct conv_input {
    int64_t first; /* row of the sequence's first token */
    bool begins;
    const float *state;
};

static __device__ __forceinline__ conv_input input_of(const spey_causal_conv_args &a,
                                                      const spey_ragged &batch, int32_t seq)
{
    const int32_t first = batch.seq_start[seq], n = batch.seq_start[seq + 1] - first;
    return { first, batch.kv_len[seq] == n, state_of(a.state, batch, seq) };
}

static __device__ __forceinline__ float input_at(const spey_causal_conv_args &a,
                                                 const conv_input &in, int64_t t, int64_t c)
{
    if (t >= 0) return load_any(a.x, a.dtype, (in.first + t) * a.x_pitch + c);
    return in.begins ? 0.0f : in.state[(t + a.width - 1) * a.cols + c];
}

static __global__ void __launch_bounds__(UNIT_THREADS)
    causal_conv_rows(const spey_causal_conv_args a, const spey_ragged batch)
{
    const int64_t c = my_unit();
    if (c >= a.cols) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        const conv_input in = input_of(a, batch, batch.token_seq[r]);
        const int64_t t = r - in.first - (a.width - 1);
        float sum = a.bias ? a.bias[c] : 0.0f;
        for (int64_t k = 0; k < a.width; k++)
            sum = fmaf(a.weight[c * a.width + k], input_at(a, in, t + k, c), sum);
        store_any(a.out, a.dtype, r * a.out_pitch + c, sum);
    }
}

/* Rows go up: a row of the state is read before it is written. */
static __global__ void __launch_bounds__(UNIT_THREADS)
    causal_conv_state(const spey_causal_conv_args a, const spey_ragged batch)
{
    const int64_t c = my_unit();
    if (c >= a.cols) return;
    for (int64_t s = first_row(); s < batch.n_seqs; s += rows_step()) {
        const conv_input in = input_of(a, batch, static_cast<int32_t>(s));
        const int64_t n = batch.seq_start[s + 1] - in.first;
        float *state = state_of(a.state, batch, s);
        for (int64_t i = 0; i < a.width - 1 && n > 0; i++)
            state[i * a.cols + c] = input_at(a, in, n - (a.width - 1) + i, c);
    }
}

static bool supports(const void *args)
{
    const spey_causal_conv_args *a = static_cast<const spey_causal_conv_args *>(args);
    return is_float_16_or_32(a->dtype) && a->width >= 2 && a->width <= SPEY_CONV_WIDTH_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_causal_conv_args *a = static_cast<const spey_causal_conv_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const unit_grid tokens = grid_of_units(a->rows, a->cols);
    const unit_grid seqs = grid_of_units(a->batch->n_seqs, a->cols);
    cudaStream_t stream = spey_cuda_stream(lane);
    causal_conv_rows<<<tokens.grid, tokens.block, 0, stream>>>(*a, *a->batch);
    causal_conv_state<<<seqs.grid, seqs.block, 0, stream>>>(*a, *a->batch);
}

extern "C" const spey_kernel spey_causal_conv_sm80;
const spey_kernel spey_causal_conv_sm80 = { "causal_conv/sm80", 0, supports, nullptr, run, false };
