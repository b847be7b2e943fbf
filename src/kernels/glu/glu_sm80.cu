/* glu on sm_80 and later, for F32, F16 and BF16.
 *
 * who       A thread takes 8 columns of a row: two loads in flight, one store. Out of E4M3: a CTA, on Hopper a cluster, takes
 *           a row and keeps it in registers until it knows the largest magnitude; longer rows are read twice.
 * bound by  memory. */
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/round_e4m3.cuh"
#include "kernels/glu/gated.cuh"

/* Columns [c, c + 8) of a row as far as they exist, zeros behind them (and PACKED where there is nothing left). */
template <bool PACKED>
static __device__ __forceinline__ void load_gated(const spey_glu_args &a, int64_t row, int64_t c,
                                                  float *out)
{
    const int64_t left = a.cols - c;
    float up[8];
    if constexpr (PACKED) {
        const raw8 raw_gate = load_raw8(a.gate, a.dtype, row * a.gate_pitch + c, left > 0);
        const raw8 raw_up = load_raw8(a.up, a.dtype, row * a.up_pitch + c, left > 0);
        widen8(raw_gate, a.dtype, out);
        widen8(raw_up, a.dtype, up);
    } else {
        load8<false>(a.gate, a.dtype, row * a.gate_pitch + c, left, out);
        load8<false>(a.up, a.dtype, row * a.up_pitch + c, left, up);
    }
#pragma unroll
    for (int j = 0; j < 8; j++)
        out[j] = gated(out[j], up[j], a);
}

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS) glu_rows(const spey_glu_args a)
{
    const int64_t c = my_unit() * 8, left = a.cols - c;
    begin_early();
    if (left <= 0) return;
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        float out[8];
        load_gated<PACKED>(a, r, c, out);
        store_some8<PACKED>(a.out, a.dtype, r * a.out_pitch + c, left, out);
    }
}

/* The largest of what CTAS CTAs of a cluster found, each in all its threads; `mine` is a float in shared memory. They may
 * leave after cluster_wait. */
template <int CTAS> static __device__ __forceinline__ float cluster_max(float x, float *mine)
{
    if (threadIdx.x == 0) *mine = x;
    cluster_sync();
    const uint32_t at = shared_address(mine);
#pragma unroll
    for (int rank = 0; rank < CTAS; rank++)
        x = fmaxf(x, cluster_load(cluster_address(at, rank)));
    cluster_arrive();
    return x;
}

template <int THREADS, int CTAS>
static __device__ __forceinline__ float find_inverse(const spey_glu_args &a, float largest)
{
    __shared__ float shared[THREADS / 32], mine;
    if (a.out_quant == SPEY_INPUT_STATIC) return e4m3_static_scale(a.out_scale).inverse;
    largest = thread_max<THREADS>(largest, shared);
    if constexpr (CTAS > 1) largest = cluster_max<CTAS>(largest, &mine);
    const spey_e4m3_scale scale = e4m3_scale_of(largest);
    if (threadIdx.x == 0 && blockIdx.x % CTAS == 0) a.out_scale[blockIdx.x / CTAS] = scale.scale;
    if constexpr (CTAS > 1) cluster_wait();
    return scale.inverse;
}

/* Of 16 bits, in aligned packs, PACKS of the row in the registers of each thread of CTAS CTAs, so that several rows are on
 * an SM. All loads come first. PLAIN: SwiGLU without limit and offset, which then costs no branches. */
template <int THREADS, int PACKS, int CTAS, bool PLAIN>
static __global__ void __launch_bounds__(THREADS, 1024 / THREADS) glu_held(const spey_glu_args a)
{
    const int64_t row = blockIdx.x / CTAS;
    const int first = static_cast<int>(blockIdx.x % CTAS * THREADS + threadIdx.x) * 8;
    uint8_t *out = static_cast<uint8_t *>(a.out) + row * a.out_pitch;
    raw8 gate[PACKS], up[PACKS];
    float kept[PACKS][8], largest = 0.0f;
    begin_early();
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * CTAS * THREADS * 8 + first;
        gate[i] = load_raw8(a.gate, SPEY_BF16, row * a.gate_pitch + c, c < a.cols);
        up[i] = load_raw8(a.up, SPEY_BF16, row * a.up_pitch + c, c < a.cols);
    }
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        float by[8];
        widen8(gate[i], a.dtype, kept[i]);
        widen8(up[i], a.dtype, by);
#pragma unroll
        for (int j = 0; j < 8; j++)
            kept[i][j] = PLAIN ? silu_f32(kept[i][j]) * by[j] : gated(kept[i][j], by[j], a);
        if (i * CTAS * THREADS * 8 + first < a.cols) largest = largest_of8(kept[i], largest);
    }
    const float inverse = find_inverse<THREADS, CTAS>(a, largest);
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
        const int c = i * CTAS * THREADS * 8 + first;
        if (c < a.cols) *reinterpret_cast<uint2 *>(out + c) = round8(kept[i], inverse);
    }
}

/* Anything else: the row is read and computed twice. No hot model shape goes there. */
static __global__ void __launch_bounds__(UNIT_THREADS) glu_twice(const spey_glu_args a)
{
    const int64_t row = blockIdx.x;
    uint8_t *out = static_cast<uint8_t *>(a.out) + row * a.out_pitch;
    float v[8], largest = 0.0f;
    begin_early();
    for (int64_t c = threadIdx.x * 8; c < a.cols; c += UNIT_THREADS * 8) {
        load_gated<false>(a, row, c, v);
        largest = largest_of8(v, largest);
    }
    const float inverse = find_inverse<UNIT_THREADS, 1>(a, largest);
    for (int64_t c = threadIdx.x * 8; c < a.cols; c += UNIT_THREADS * 8) {
        load_gated<false>(a, row, c, v);
        *reinterpret_cast<uint2 *>(out + c) = round8(v, inverse);
    }
}

template <int THREADS, int PACKS, int CTAS>
static void launch_held(const spey_glu_args *a, const spey_device *device)
{
    const bool plain = a->activation == SPEY_ACT_SILU && !(a->limit > 0.0f) && a->up_offset == 0.0f;
    const launch_shape shape = { dim3(static_cast<unsigned>(a->rows * CTAS)), dim3(THREADS), 0 };
    launch_clusters(
        device, shape, CTAS,
        plain ? glu_held<THREADS, PACKS, CTAS, true> : glu_held<THREADS, PACKS, CTAS, false>, *a);
}

static void launch_e4m3(const spey_glu_args *a, bool packed, const spey_device *device)
{
    const bool clusters = device->overlaps; /* both are code for sm_90 */
    if (!packed || a->dtype == SPEY_F32 || a->cols > 1024 * 8 * 4)
        launch_early(device, { dim3(static_cast<unsigned>(a->rows)), dim3(UNIT_THREADS), 0 },
                     glu_twice, *a);
    else if (a->cols <= 256 * 8 * 2)
        launch_held<256, 2, 1>(a, device);
    else if (clusters && a->cols <= 224 * 8 * 4 * 2)
        launch_held<224, 4, 2>(a, device);
    else if (clusters && a->cols <= 224 * 8 * 4 * 4)
        launch_held<224, 4, 4>(a, device);
    else if (a->cols <= 512 * 8 * 4)
        launch_held<512, 4, 1>(a, device);
    else
        launch_held<1024, 4, 1>(a, device);
}

static bool supports(const void *args)
{
    const auto *a = static_cast<const spey_glu_args *>(args);
    const bool rounds = a->out_dtype == SPEY_E4M3 && a->cols % 8 == 0 && a->rows <= INT32_MAX / 4 &&
                        is_packed_e4m3(a->out, a->out_pitch);
    return is_float_16_or_32(a->dtype) && (rounds || a->out_dtype == a->dtype);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_glu_args *a = static_cast<const spey_glu_args *>(args);
    if (a->rows == 0 || a->cols == 0) return;
    const bool packed = a->cols % 8 == 0 && is_packed8(a->gate, a->dtype, a->gate_pitch) &&
                        is_packed8(a->up, a->dtype, a->up_pitch);
    const unit_grid g = grid_of_units(a->rows, (a->cols + 7) / 8);
    const bool all_packed = packed && is_packed8(a->out, a->dtype, a->out_pitch);
    if (a->out_dtype == SPEY_E4M3)
        launch_e4m3(a, packed, spey_cuda_device(lane));
    else
        launch_early(spey_cuda_device(lane), shape_of(g),
                     all_packed ? glu_rows<true> : glu_rows<false>, *a);
}

extern "C" const spey_kernel spey_glu_sm80;
const spey_kernel spey_glu_sm80 = { "glu/sm80", 0, supports, nullptr, run, false };
