/* selective_scan on sm_80 and later, for F32, F16 and BF16.
 *
 * who       LANES threads per column of a sequence, one for each state (held in a register), or a warp that goes over more
 *           states than lanes, in memory. Tokens go by one after the other.
 * moves     x, dt and out once; b and c once per column, from L1 and L2.
 * bound by  arithmetic and latency in prefill (an exp for each token, column and state), memory in decode.
 * bits      Depend on `states` alone. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/paged.cuh"
#include "kernels/selective_scan/selective_scan.h"

enum { THREADS = 128 };

static __device__ __forceinline__ float softplus(float x)
{
    return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
}

template <int LANES> static __device__ __forceinline__ float lane_sum(float x)
{
    const uint32_t group = LANES == 32 ? 0xffffffffu : 0xffffu << (threadIdx.x & 16);
#pragma unroll
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(group, x, offset);
    return x;
}

/* What a token gives to a column. */
struct token_input {
    float x, delta;
};

static __device__ __forceinline__ token_input read_token(const spey_selective_scan_args &a,
                                                         int64_t t, int64_t c)
{
    token_input in;
    in.x = load_any(a.x, a.dtype, t * a.x_pitch + c);
    in.delta = softplus(load_any(a.dt, a.dtype, t * a.dt_pitch + c));
    return in;
}

/* The next state n, from h and the token. */
static __device__ __forceinline__ float next_state(const spey_selective_scan_args &a,
                                                   const token_input &in, int64_t t, int64_t n,
                                                   float rate, float h)
{
    const float b = load_any(a.b, a.dtype, t * a.b_pitch + n);
    return fmaf(expf(-in.delta * rate), h, in.delta * in.x * b);
}

/* HELD: states <= LANES. */
template <int LANES, bool HELD>
static __global__ void __launch_bounds__(THREADS)
    selective_scan_columns(const spey_selective_scan_args a, const spey_ragged batch)
{
    const int lane = threadIdx.x % LANES;
    const int64_t index =
        static_cast<int64_t>(blockIdx.x) * (THREADS / LANES) + threadIdx.x / LANES;
    if (index >= batch.n_seqs * a.cols) return; /* all lanes of a column together */
    const int64_t s = index / a.cols, c = index % a.cols;
    const int64_t begin = batch.seq_start[s], end = batch.seq_start[s + 1];
    if (begin == end) return;
    const bool begins = batch.kv_len[s] == end - begin;
    float *state = state_of(a.state, batch, s) + c * a.states;
    const float *a_log = a.a_log + c * a.states;
    const bool mine = lane < a.states;
    const int held =
        mine ? lane : 0; /* the others compute along, for nothing: no branch in the loop */
    const float rate = HELD ? expf(a_log[held]) : 0.0f;
    float h = HELD && !begins ? state[held] : 0.0f;
    for (int64_t t = begin; t < end; t++) {
        const token_input in = read_token(a, t, c);
        float sum = 0.0f;
        if constexpr (HELD) {
            h = next_state(a, in, t, held, rate, h);
            sum = mine ? load_any(a.c, a.dtype, t * a.c_pitch + held) * h : 0.0f;
        } else {
            for (int64_t n = lane; n < a.states; n += LANES) {
                const float before = begins && t == begin ? 0.0f : state[n];
                const float after = next_state(a, in, t, n, expf(a_log[n]), before);
                state[n] = after;
                sum = fmaf(load_any(a.c, a.dtype, t * a.c_pitch + n), after, sum);
            }
        }
        sum = fmaf(a.d[c], in.x, lane_sum<LANES>(sum));
        if (lane == 0) store_any(a.out, a.dtype, t * a.out_pitch + c, sum);
    }
    if (HELD && mine) state[lane] = h;
}

template <int LANES, bool HELD>
static void launch(const spey_selective_scan_args *a, cudaStream_t stream)
{
    const int64_t columns = a->batch->n_seqs * a->cols, per_cta = THREADS / LANES;
    const unsigned grid = static_cast<unsigned>((columns + per_cta - 1) / per_cta);
    selective_scan_columns<LANES, HELD><<<grid, THREADS, 0, stream>>>(*a, *a->batch);
}

static bool supports(const void *args)
{
    const spey_selective_scan_args *a = static_cast<const spey_selective_scan_args *>(args);
    return is_float_16_or_32(a->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_selective_scan_args *a = static_cast<const spey_selective_scan_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    if (a->states <= 16)
        launch<16, true>(a, spey_cuda_stream(lane));
    else if (a->states <= 32)
        launch<32, true>(a, spey_cuda_stream(lane));
    else
        launch<32, false>(a, spey_cuda_stream(lane));
}

extern "C" const spey_kernel spey_selective_scan_sm80;
const spey_kernel spey_selective_scan_sm80 = {
    "selective_scan/sm80", 0, supports, nullptr, run, false
};
