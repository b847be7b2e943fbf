/* Products of up to 8 rows of x with weights of 16 or 8 bits on Hopper, where they are bound by reading the weights alone.
 *
 * who       Two CTAs on each SM take tiles of 16 outputs. A CTA's warps divide their k, 256 bytes of each output at a time,
 *           which come through a ring of the warp's own. Weights are the 16 rows of mma.sync, rows of x its 8 columns,
 *           both widened to F16 when they are E4M3. At the tile's end the warps' sums are put together.
 * x         Lies in shared memory in the type of w. E4M3: each CTA rounds it for itself unless it came so.
 * glu       A tile is 8 gates and the 8 that they gate.
 * moves     w once; x from L2 once for each CTA.
 * early     The rings fill before the kernel before this one has ended: weights depend on nothing.
 * bound by  memory. Tried: bulk copies of 1 KiB, of which a warp issues one in 50 ns, too slow for an SM's share; one CTA
 *           on each SM, whose warps are too few to hide each other's latency (3.2 of 4.4 TB/s).
 * bits      Depend on k alone. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/round_e4m3.cuh"
#include "kernels/gemm/gemm_finish.h"
#include "kernels/glu/gated.cuh"

enum {
    WARPS = 8,
    THREADS = WARPS * 32,
    TILE = 16,
    ROWS_MAX = 8,
    STRIP = 256, /* bytes of an output's weights that a warp takes at once */
    STRIP_BYTES = TILE * STRIP,
    ROUND = WARPS * STRIP, /* of all warps */
    SHARED_HALF = 110 << 10,
    SHARED_WHOLE = 220 << 10,
    PIECE = 4, /* packs of x that a thread has in flight */
};

struct few_rows_plan {
    int64_t row_step;  /* bytes from an output's weights to the next */
    int row_bytes;     /* of an output's weights */
    int tiles, rounds; /* of n, of k */
    int slots;         /* of a ring: 3 or 2 */
    int ctas;          /* on an SM */
    int x_pitch;  /* bytes: whole rounds, and what lets lanes of other rows load from other banks */
    int x_warps;  /* that bring a row of x */
    bool gates;   /* glu belongs to it */
    int step;     /* outputs from a tile to the next */
    int64_t last; /* first output of the last tile */
    int64_t apart; /* bytes between the weights of a tile's halves */
};

/* The last tile begins early rather than to have fewer outputs: some are computed twice, with the same result. */
static __device__ __forceinline__ int64_t first_output(const few_rows_plan &plan, int tile)
{
    return min(int64_t{ tile } * plan.step, plan.last);
}

/* ---- weights ---- */

/* What comes next through a warp's ring: round after round of a tile, tile after tile. A lane copies 16 bytes of every second
 * output. */
struct weight_stream {
    const uint8_t *from;
    int k; /* this lane's bytes of it */
    int tile;
};

static __device__ __forceinline__ weight_stream stream_at(const spey_gemm_args &a,
                                                          const few_rows_plan &plan, int tile)
{
    const int lane = threadIdx.x % 32;
    weight_stream stream;
    stream.k = static_cast<int>(threadIdx.x) / 32 * STRIP + lane % 16 * 16;
    stream.from = static_cast<const uint8_t *>(a.w) + stream.k +
                  (first_output(plan, tile) + lane / 16) * plan.row_step;
    stream.tile = tile;
    return stream;
}

/* Odd outputs have neighbouring stretches of 64 bytes exchanged: what 8 lanes load for a product lies in all banks. */
static __device__ __forceinline__ int place_in_strip(int output, int chunk)
{
    return output * STRIP + (chunk ^ (output & 1) << 2) * 16;
}

/* Copy a strip, or nothing behind the last. Zeros behind the end of k. With the last one on its way the next kernel may begin
 * and read ahead, too; earlier it would only take this one's bandwidth. */
static __device__ __forceinline__ void copy_strip(weight_stream &stream, const spey_gemm_args &a,
                                                  const few_rows_plan &plan, uint32_t slot)
{
    const int lane = threadIdx.x % 32;
    if (stream.tile < plan.tiles) {
        const uint32_t to = slot + place_in_strip(lane / 16, lane % 16);
#pragma unroll
        for (int i = 0; i < TILE / 2; i++)
            copy_async16(to + 2 * i * STRIP,
                         stream.from + 2 * i * plan.row_step + (i < TILE / 4 ? 0 : plan.apart),
                         stream.k < plan.row_bytes);
        stream.k += ROUND;
        stream.from += ROUND;
        if (stream.k >= plan.rounds * ROUND)
            stream = stream_at(a, plan, stream.tile + static_cast<int>(gridDim.x));
        if (stream.tile >= plan.tiles) let_next_begin();
    }
    copy_commit();
}

/* ---- x ---- */

/* The warps that share a row of x, and this thread's place among their lanes. */
struct x_share {
    int row, at, threads;
    bool exists;
};

static __device__ __forceinline__ x_share share_of_x(const spey_gemm_args &a,
                                                     const few_rows_plan &plan)
{
    const int row = static_cast<int>(threadIdx.x) / 32 / plan.x_warps;
    return { row, static_cast<int>(threadIdx.x) % (plan.x_warps * 32), plan.x_warps * 32,
             row < a.rows };
}

/* x has w's type already. */
static __device__ __forceinline__ void copy_x(const spey_gemm_args &a, const few_rows_plan &plan,
                                              const x_share &share, int element, uint8_t *to)
{
    const uint8_t *from = static_cast<const uint8_t *>(a.x) + share.row * a.x_pitch * element;
    for (int first = share.at * 16; first < plan.rounds * ROUND;
         first += PIECE * share.threads * 16) {
        uint4 packs[PIECE];
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            const int at = first + i * share.threads * 16;
            packs[i] = at < plan.row_bytes ? *reinterpret_cast<const uint4 *>(from + at)
                                           : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            const int at = first + i * share.threads * 16;
            if (at < plan.rounds * ROUND) *reinterpret_cast<uint4 *>(to + at) = packs[i];
        }
    }
}

struct x_piece {
    raw8 packs[PIECE];
};

template <spey_dtype X>
static __device__ __forceinline__ x_piece load_piece(const spey_gemm_args &a, const x_share &share,
                                                     int first)
{
    x_piece piece;
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        const int c = first + i * share.threads * 8;
        piece.packs[i] = load_raw8(a.x, X, share.row * a.x_pitch + c, c < a.k);
    }
    return piece;
}

template <spey_dtype X>
static __device__ __forceinline__ float largest_of(const x_piece &piece, float largest)
{
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        float v[8];
        widen8(piece.packs[i], X, v);
        largest = largest_of8(v, largest);
    }
    return largest;
}

/* The largest of the share's row. All threads of the CTA call it. */
static __device__ __forceinline__ float largest_of_row(float largest, const x_share &share,
                                                       float *shared)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = largest;
    __syncthreads();
    const int warps = share.threads / 32;
#pragma unroll 1
    for (int w = 0; w < warps; w++)
        largest = fmaxf(largest, shared[share.row * warps + w]);
    return largest;
}

template <spey_dtype W, spey_dtype X>
static __device__ __forceinline__ void put_piece(const few_rows_plan &plan, const x_share &share,
                                                 int first, const x_piece &piece, float inverse,
                                                 uint8_t *to)
{
    constexpr int BYTES = W == SPEY_E4M3 ? 1 : 2;
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        const int at = (first + i * share.threads * 8) * BYTES;
        float v[8];
        widen8(piece.packs[i], X, v);
        if (at >= plan.rounds * ROUND) continue;
        if (W == SPEY_E4M3)
            *reinterpret_cast<uint2 *>(to + at) = round8(v, inverse);
        else
            store8(to + at, W, 0, v);
    }
}

template <spey_dtype W, spey_dtype X>
static __device__ __forceinline__ void convert_x(const spey_gemm_args &a, const few_rows_plan &plan,
                                                 const x_share &share, float inverse,
                                                 const x_piece &begin, uint8_t *to)
{
    const int cols = plan.rounds * ROUND / (W == SPEY_E4M3 ? 1 : 2);
    const int step = PIECE * share.threads * 8;
    put_piece<W, X>(plan, share, share.at * 8, begin, inverse, to);
    for (int c = share.at * 8 + step; c < cols; c += step)
        put_piece<W, X>(plan, share, c, load_piece<X>(a, share, c), inverse, to);
}

/* Its scale for E4M3, by which the piece that is in registers already and the rest will be rounded. */
template <spey_dtype X>
static __device__ __forceinline__ spey_e4m3_scale find_scale(const spey_gemm_args &a,
                                                             const x_share &share,
                                                             const x_piece &begin, float *shared)
{
    if (a.x_quant == SPEY_INPUT_STATIC) return e4m3_static_scale(a.x_scale);
    const int step = PIECE * share.threads * 8;
    float largest = share.exists ? largest_of<X>(begin, 0.0f) : 0.0f;
    for (int c = share.at * 8 + step; share.exists && c < a.k; c += step)
        largest = largest_of<X>(load_piece<X>(a, share, c), largest);
    return e4m3_scale_of(largest_of_row(largest, share, shared));
}

/* x's rows into shared memory, zeros behind them to the end of the last round. `scales`, of E4M3: what to multiply sums with. */
template <spey_dtype W, spey_dtype X>
static __device__ __forceinline__ void bring_x(const spey_gemm_args &a, const few_rows_plan &plan,
                                               uint8_t *x, float *scales, float *shared)
{
    x_share share = share_of_x(a, plan);
    uint8_t *to = x + share.row * plan.x_pitch;
    if constexpr (W == X) {
        if (!share.exists) return;
        copy_x(a, plan, share, W == SPEY_E4M3 ? 1 : 2, to);
        if (W == SPEY_E4M3 && share.at == 0)
            scales[share.row] = a.x_scale[a.x_quant == SPEY_INPUT_TOKEN ? share.row : 0];
    } else {
        x_piece begin = {};
        if (share.exists) begin = load_piece<X>(a, share, share.at * 8);
        spey_e4m3_scale scale = { 1.0f, 1.0f };
        if (W == SPEY_E4M3) scale = find_scale<X>(a, share, begin, shared);
        if (!share.exists) return;
        convert_x<W, X>(a, plan, share, scale.inverse, begin, to);
        if (share.at == 0) scales[share.row] = scale.scale;
    }
}

/* ---- products ---- */

struct sixteen_bytes {
    uint32_t at[4];
};

static __device__ __forceinline__ sixteen_bytes load16(const uint8_t *p)
{
    const uint4 x = *reinterpret_cast<const uint4 *>(p);
    return { { x.x, x.y, x.z, x.w } };
}

/* Four numbers of E4M3 as F16, two and two. */
static __device__ __forceinline__ void widen4(uint32_t four, uint32_t &low, uint32_t &high)
{
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.rn.f16x2.e4m3x2 %0, a; "
        "cvt.rn.f16x2.e4m3x2 %1, b; }"
        : "=r"(low), "=r"(high)
        : "r"(four));
}

/* The k of a product may come in any order: what a lane holds of it are 16 neighbouring bytes, of x as of w. `sums` is two
 * sets, so that products wait less for each other. */
template <spey_dtype W>
static __device__ __forceinline__ void multiply(const sixteen_bytes &low, const sixteen_bytes &high,
                                                const sixteen_bytes &x, float (&sums)[2][4])
{
    if constexpr (W == SPEY_E4M3) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t w[4], b[2];
            widen4(low.at[i], w[0], w[2]);
            widen4(high.at[i], w[1], w[3]);
            widen4(x.at[i], b[0], b[1]);
            mma16816<__half>(sums[i % 2], w, b[0], b[1]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint32_t w[4] = { low.at[2 * i], high.at[2 * i], low.at[2 * i + 1],
                                    high.at[2 * i + 1] };
            if (W == SPEY_F16)
                mma16816<__half>(sums[i], w, x.at[2 * i], x.at[2 * i + 1]);
            else
                mma16816<__nv_bfloat16>(sums[i], w, x.at[2 * i], x.at[2 * i + 1]);
        }
    }
}

/* A strip of this warp. `x` is this lane's place in it. */
template <spey_dtype W>
static __device__ __forceinline__ void multiply_strip(const uint8_t *strip, const uint8_t *x,
                                                      float (&sums)[2][4])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < STRIP / 64; i++) {
        const uint8_t *w = strip + place_in_strip(lane / 4, i * 4 + lane % 4);
        multiply<W>(load16(w), load16(w + 8 * STRIP), load16(x + i * 64), sums);
    }
}

/* ---- the end of a tile ---- */

/* The warp's sums, as [row of x][output]. */
static __device__ __forceinline__ void put_sums(float *to, int rows, const float (&sums)[2][4])
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = lane % 4 * 2 + i % 2, output = lane / 4 + i / 2 * 8;
        if (row < rows) to[row * TILE + output] = sums[0][i] + sums[1][i];
    }
}

/* What belongs to one output of a tile. */
struct output_parts {
    float scale, bias;
};

static __device__ __forceinline__ output_parts parts_of(const spey_gemm_args &a, int64_t n)
{
    return { a.w_scale ? a.w_scale[n * a.w_scale_step] : 0.0f, a.bias ? a.bias[n] : 0.0f };
}

/* One number of a tile's result, and what it is made of. */
struct result {
    bool exists;
    int row, at; /* `at` among the tile's [row][output] */
    int64_t n;
    output_parts own, up; /* up: of what it gates */
    float inverse;        /* of the scale of E4M3 */
};

/* The threads that finish a tile are others for each tile. What it needs beside the sums is asked for early. */
static __device__ __forceinline__ result result_of(const spey_gemm_args &a,
                                                   const few_rows_plan &plan, int tile, int turn)
{
    result out = {};
    out.at = (threadIdx.x + turn * 32) % THREADS;
    out.row = out.at / TILE;
    out.n = first_output(plan, tile) + out.at % TILE;
    out.exists = out.row < a.rows && out.at % TILE < plan.step;
    if (!out.exists) return out;
    out.own = parts_of(a, out.n);
    if (!plan.gates) return out;
    out.up = parts_of(a, a.n / 2 + out.n);
    if (a.glu.out_dtype == SPEY_E4M3) out.inverse = e4m3_static_scale(a.glu.out_scale).inverse;
    return out;
}

template <spey_dtype W>
static __device__ __forceinline__ float whole_sum(const spey_gemm_args &a, const float *sums,
                                                  float x_scale, const output_parts &parts)
{
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        sum += sums[w * a.rows * TILE];
    if (W == SPEY_E4M3) sum *= x_scale * parts.scale;
    return sum + parts.bias;
}

static __device__ __forceinline__ void store_gated(const spey_glu_args &glu, const result &r,
                                                   float x)
{
    const int64_t at = r.row * glu.out_pitch + r.n;
    if (glu.out_dtype == SPEY_E4M3)
        static_cast<uint8_t *>(glu.out)[at] =
            static_cast<uint8_t>(round_pair(__fmul_rn(x, r.inverse), 0.0f));
    else
        store_any(glu.out, glu.out_dtype, at, x);
}

template <spey_dtype W>
static __device__ __forceinline__ void finish(const spey_gemm_args &a, const few_rows_plan &plan,
                                              const result &r, const float *sums,
                                              const float *x_scales)
{
    if (!r.exists) return;
    const float x_scale = W == SPEY_E4M3 ? x_scales[r.row] : 1.0f;
    const float sum = whole_sum<W>(a, sums + r.at, x_scale, r.own);
    if (!plan.gates) {
        store_any(a.y, a.y_dtype, r.row * a.y_pitch + r.n, activate(sum, a.activation));
        return;
    }
    const float up = whole_sum<W>(a, sums + r.at + TILE / 2, x_scale, r.up);
    store_gated(a.glu, r, gated(sum, up, a.glu));
}

/* Columns of the product beyond x's rows are computed from its first row, and forgotten. */
static __device__ __forceinline__ const uint8_t *place_in_x(const few_rows_plan &plan,
                                                            const uint8_t *x, int rows)
{
    const int lane = threadIdx.x % 32, row = lane / 4 < rows ? lane / 4 : 0;
    return x + row * plan.x_pitch + threadIdx.x / 32 * STRIP + lane % 4 * 16;
}

template <spey_dtype W, int SLOTS>
static __device__ __forceinline__ void
take_tiles(const spey_gemm_args &a, const few_rows_plan &plan, weight_stream &stream,
           const uint8_t *ring, const uint8_t *x, float *sums, const float *x_scales)
{
    const int rows = static_cast<int>(a.rows), warp_sums = rows * TILE;
    const uint8_t *my_x = place_in_x(plan, x, rows);
    const uint32_t ring_address = shared_address(ring);
    int slot = 0, free_slot = (SLOTS - 1) * STRIP_BYTES, turn = 0;
    for (int tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x, turn++) {
        const result mine = result_of(a, plan, tile, turn);
        float own[2][4] = {};
        for (int r = 0; r < plan.rounds; r++) {
            copy_wait<SLOTS - 2>(); /* the oldest strip has arrived */
            __syncwarp();           /* and the one before it has been read */
            copy_strip(stream, a, plan, ring_address + free_slot);
            multiply_strip<W>(ring + slot, my_x + r * ROUND, own);
            free_slot = slot;
            slot = slot + STRIP_BYTES == SLOTS * STRIP_BYTES ? 0 : slot + STRIP_BYTES;
        }
        float *shared_sums = sums + turn % 2 * WARPS * warp_sums; /* the last tile's are read */
        put_sums(shared_sums + threadIdx.x / 32 * warp_sums, rows, own);
        __syncthreads();
        finish<W>(a, plan, mine, shared_sums, x_scales);
    }
}

/* Dynamic shared memory: the rings, x, two sets of the warps' sums. */
template <spey_dtype W, spey_dtype X, int SLOTS>
static __global__ void __launch_bounds__(THREADS, 2)
    few_rows(const spey_gemm_args a, const few_rows_plan plan)
{
    extern __shared__ __align__(128) uint8_t rings[];
    __shared__ float largest[WARPS], x_scales[ROWS_MAX];
    const uint8_t *ring = rings + threadIdx.x / 32 * (SLOTS * STRIP_BYTES);
    uint8_t *x = rings + WARPS * SLOTS * STRIP_BYTES;
    float *sums = reinterpret_cast<float *>(x + a.rows * plan.x_pitch);
    weight_stream stream = stream_at(a, plan, static_cast<int>(blockIdx.x));
#pragma unroll 1
    for (int i = 0; i < SLOTS - 1; i++)
        copy_strip(stream, a, plan, shared_address(ring + i * STRIP_BYTES));
    wait_for_others();
    bring_x<W, X>(a, plan, x, x_scales, largest);
    __syncthreads();
    take_tiles<W, SLOTS>(a, plan, stream, ring, x, sums, x_scales);
    copy_wait<0>();
}

/* ---- host ---- */

static int64_t element_bytes(spey_dtype dtype)
{
    return dtype == SPEY_E4M3 ? 1 : dtype == SPEY_F32 ? 4 : 2;
}

/* Bytes of shared memory: the rings, x, and sums. */
static int64_t shared_bytes(const spey_gemm_args *a, const few_rows_plan *plan)
{
    return int64_t{ WARPS } * plan->slots * STRIP_BYTES +
           a->rows * (plan->x_pitch + 2 * WARPS * TILE * static_cast<int64_t>(sizeof(float)));
}

static void fit(const spey_gemm_args *a, few_rows_plan *plan)
{
    static const struct {
        int slots, ctas, bytes;
    } choices[] = {
        { 3, 2, SHARED_HALF }, { 2, 2, SHARED_HALF }, { 3, 1, SHARED_WHOLE }, { 2, 1, SHARED_WHOLE }
    };
    for (int i = 0; i < 4; i++) {
        plan->slots = choices[i].slots;
        plan->ctas = choices[i].ctas;
        if (shared_bytes(a, plan) <= choices[i].bytes) return;
    }
    plan->ctas = 0;
}

/* Rounding by token takes the whole row's largest: another kernel's work. */
static bool gates(const spey_gemm_args *a)
{
    return a->glu.out && a->glu.out_quant != SPEY_INPUT_TOKEN && a->n >= TILE;
}

/* ctas == 0: x is too large. */
static few_rows_plan plan_of(const spey_gemm_args *a)
{
    const int64_t bytes = a->k * element_bytes(a->w_dtype);
    few_rows_plan plan = {};
    plan.row_bytes = static_cast<int>(bytes);
    plan.row_step = a->w_pitch * element_bytes(a->w_dtype);
    plan.gates = gates(a);
    plan.step = plan.gates ? TILE / 2 : TILE;
    const int64_t outputs = plan.gates ? a->n / 2 : a->n;
    plan.tiles = static_cast<int>((outputs + plan.step - 1) / plan.step);
    plan.last = outputs - plan.step;
    plan.apart = plan.gates ? plan.last * plan.row_step : 0;
    plan.rounds = static_cast<int>((bytes + ROUND - 1) / ROUND);
    plan.x_pitch = plan.rounds * ROUND + 64;
    plan.x_warps = a->rows <= 1 ? WARPS : a->rows <= 2 ? WARPS / 2 : a->rows <= 4 ? WARPS / 4 : 1;
    fit(a, &plan);
    return plan;
}

template <spey_dtype W, spey_dtype X, int SLOTS>
static void launch_slots(const spey_device *device, const spey_gemm_args *a,
                         const few_rows_plan &plan)
{
    cudaFuncSetAttribute(few_rows<W, X, SLOTS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         SHARED_WHOLE);
    const int most = device->sms * plan.ctas;
    const unsigned grid = static_cast<unsigned>(plan.tiles < most ? plan.tiles : most);
    const launch_shape shape = { dim3(grid), dim3(THREADS),
                                 static_cast<size_t>(shared_bytes(a, &plan)) };
    launch_early(device, shape, few_rows<W, X, SLOTS>, *a, plan);
}

template <spey_dtype W, spey_dtype X>
static void launch(const spey_device *device, const spey_gemm_args *a)
{
    const few_rows_plan plan = plan_of(a);
    if (plan.slots == 3)
        launch_slots<W, X, 3>(device, a, plan);
    else
        launch_slots<W, X, 2>(device, a, plan);
}

static bool is_packed(const void *p, spey_dtype dtype, int64_t pitch)
{
    return is_aligned16(p) && pitch * element_bytes(dtype) % 16 == 0;
}

bool spey_few_rows_takes(const spey_device *device, const spey_gemm_args *a)
{
    if (!device->overlaps || a->rows > ROWS_MAX || a->n < TILE || a->k == 0) return false;
    if (a->w_dtype != SPEY_E4M3 && a->w_dtype != SPEY_F16 && a->w_dtype != SPEY_BF16) return false;
    const int64_t bytes = a->k * element_bytes(a->w_dtype);
    return bytes % 16 == 0 && bytes <= SHARED_WHOLE && is_packed(a->w, a->w_dtype, a->w_pitch) &&
           is_packed(a->x, a->x_dtype, a->x_pitch) && plan_of(a).ctas > 0;
}

bool spey_few_rows_gates(const spey_device *device, const spey_gemm_args *a)
{
    return gates(a) && spey_few_rows_takes(device, a);
}

void spey_few_rows_launch(const spey_device *device, const spey_gemm_args *a)
{
    if (a->w_dtype == SPEY_F16 && a->x_dtype == SPEY_F16) launch<SPEY_F16, SPEY_F16>(device, a);
    if (a->w_dtype == SPEY_F16 && a->x_dtype == SPEY_F32) launch<SPEY_F16, SPEY_F32>(device, a);
    if (a->w_dtype == SPEY_BF16 && a->x_dtype == SPEY_BF16) launch<SPEY_BF16, SPEY_BF16>(device, a);
    if (a->w_dtype == SPEY_BF16 && a->x_dtype == SPEY_F32) launch<SPEY_BF16, SPEY_F32>(device, a);
    if (a->w_dtype != SPEY_E4M3) return;
    if (a->x_dtype == SPEY_F32) launch<SPEY_E4M3, SPEY_F32>(device, a);
    if (a->x_dtype == SPEY_F16) launch<SPEY_E4M3, SPEY_F16>(device, a);
    if (a->x_dtype == SPEY_BF16) launch<SPEY_E4M3, SPEY_BF16>(device, a);
    if (a->x_dtype == SPEY_E4M3) launch<SPEY_E4M3, SPEY_E4M3>(device, a);
}
