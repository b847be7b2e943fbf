/* rope_append on sm_80 and later: rows of F32, F16 or BF16, caches of these, E4M3 or I8.
 *
 * who       Rows of 16 bits in whole packs: rope_slices.cuh. Of others a thread takes 8 pairs (or one) of a head of Q or K,
 *           or 8 elements (or one) that are only copied (V, and what does not rotate).
 *           I8: a warp has a head of K or V, for the scale is its largest element; Q goes as above, in its own launch.
 * moves     The fused row in once, queries and the cache's slots out once; tables come from L2.
 * bound by  memory; for a few tokens, by its launch: the chain token → sequence → block → slot comes before the wait for
 *           others. */
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/paged.cuh"
#include "kernels/kv_append/kv_append_i8.cuh"
#include "kernels/rope/rope_rotate.cuh"
#include "kernels/rope/rope_slices.cuh"

/* How heads are cut: units of a head that may rotate and of a V head, and how many of the former rotate. */
struct head_cut {
    int32_t units, v_units, rotated;
};

template <bool PACKED>
static __global__ void __launch_bounds__(UNIT_THREADS)
    rope_append_rows(const spey_rope_append_args a, const spey_ragged batch, const head_cut cut)
{
    const int32_t unit = static_cast<int32_t>(my_unit());
    const int32_t turned = static_cast<int32_t>(a.n_heads + a.n_kv_heads) * cut.units;
    if (unit >= turned + static_cast<int32_t>(a.n_kv_heads) * cut.v_units) return;
    const bool is_v = unit >= turned;
    const int32_t head = is_v ? (unit - turned) / cut.v_units : unit / cut.units;
    const int32_t u = is_v ? (unit - turned) % cut.v_units : unit % cut.units;
    const bool is_q = !is_v && head < a.n_heads;
    const int64_t heads_before = is_v ? a.n_heads + a.n_kv_heads + head : head;
    let_next_begin();
    for (int64_t r = first_row(); r < a.rows; r += rows_step()) {
        head_ends h = { a.qkv,   r * a.qkv_pitch + heads_before * a.head_dim, a.dtype,
                        a.q_out, r * a.q_pitch + head * a.head_dim,           a.dtype,
                        1.0f };
        if (!is_q) {
            const kv_slot slot = slot_of(a.kv, batch, place_of_token(batch, r));
            h.out = is_v ? slot_v(a.kv, slot, head) : slot_k(a.kv, slot, head - a.n_heads);
            h.out_at = 0;
            h.out_dtype = a.kv.dtype;
            h.inverse = is_v ? inverse_scale(a.kv.v_scale, head)
                             : inverse_scale(a.kv.k_scale, head - a.n_heads);
        }
        wait_for_others();
        if (is_v)
            copy_unit<PACKED>(h, static_cast<int64_t>(u) * unit_pairs<PACKED>());
        else
            turn_unit<PACKED>(h, a.pairing, a.table + r * a.rotary_dim, a.rotary_dim, cut.rotated,
                              u);
    }
}

template <bool PACKED> static void launch(const spey_rope_append_args *a, const spey_device *device)
{
    const head_cut cut = { units_of<PACKED>(a->head_dim, a->rotary_dim),
                           units_of<PACKED>(a->head_dim, 0), rotated_units<PACKED>(a->rotary_dim) };
    const int64_t units = (a->n_heads + a->n_kv_heads) * cut.units + a->n_kv_heads * cut.v_units;
    const unit_grid g = grid_of_units(a->rows, units);
    launch_early(device, shape_of(g), rope_append_rows<PACKED>, *a, *a->batch, cut);
}

/* Element i of a head that begins at element `at` of the fused row, the first rotary_dim of them rotated. */
static __device__ __forceinline__ float rotated_element(const spey_rope_append_args &a, int64_t r,
                                                        int64_t at, int rotary_dim, int i)
{
    if (i >= rotary_dim) return load_any(a.qkv, a.dtype, at + i);
    const bool apart = a.pairing == SPEY_ROPE_HALF;
    const int half = rotary_dim / 2, pair = apart ? i % half : i / 2;
    const bool second = apart ? i >= half : i % 2 == 1;
    const int other = apart ? (second ? i - half : i + half) : i ^ 1;
    const float *table = a.table + r * a.rotary_dim;
    const float x = load_any(a.qkv, a.dtype, at + i), y = load_any(a.qkv, a.dtype, at + other);
    const float cosine = table[pair], sine = table[half + pair];
    return fmaf(x, cosine, second ? y * sine : -(y * sine));
}

static __global__ void __launch_bounds__(I8_WARPS * 32)
    rope_append_i8_heads(const spey_rope_append_args a, const spey_ragged batch)
{
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * I8_WARPS + threadIdx.x / 32;
    const bool is_v = unit >= a.n_kv_heads;
    const int64_t head = is_v ? unit - a.n_kv_heads : unit;
    if (head >= a.n_kv_heads) return;
    for (int64_t r = blockIdx.y; r < a.rows; r += gridDim.y) {
        const token_place place = place_of_token(batch, r);
        const kv_slot slot = slot_of(a.kv, batch, place);
        const int64_t at = r * a.qkv_pitch + (a.n_heads + unit) * a.head_dim;
        const int rotary_dim = is_v ? 0 : static_cast<int>(a.rotary_dim);
        const auto value = [&](int i) { return rotated_element(a, r, at, rotary_dim, i); };
        store_i8_head(
            static_cast<int8_t *>(is_v ? slot_v(a.kv, slot, head) : slot_k(a.kv, slot, head)),
            token_scale(a.kv, batch, place, is_v ? a.kv.v_scales : a.kv.k_scales, head),
            static_cast<int>(a.head_dim), value);
    }
}

/* K and V; what is left to do is Q. */
static spey_rope_append_args append_i8(const spey_rope_append_args *a, cudaStream_t stream)
{
    rope_append_i8_heads<<<i8_grid(a->rows, a->n_kv_heads), I8_WARPS * 32, 0, stream>>>(*a,
                                                                                        *a->batch);
    spey_rope_append_args queries = *a;
    queries.n_kv_heads = 0;
    return queries;
}

static bool supports(const void *args)
{
    const spey_rope_append_args *a = static_cast<const spey_rope_append_args *>(args);
    return is_float_16_or_32(a->dtype) &&
           (is_cache_element(a->kv.dtype) || a->kv.dtype == SPEY_I8) &&
           (a->n_heads + 2 * a->n_kv_heads) * a->head_dim <= INT32_MAX;
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_rope_append_args *a = static_cast<const spey_rope_append_args *>(args);
    if (a->rows == 0) return;
    const bool packed = is_packed_head(a->head_dim, a->rotary_dim) && is_aligned16(a->table) &&
                        is_aligned16(&a->kv) && is_packed8(a->qkv, a->dtype, a->qkv_pitch) &&
                        is_packed8(a->q_out, a->dtype, a->q_pitch);
    spey_rope_append_args queries;
    if (a->kv.dtype == SPEY_I8) {
        queries = append_i8(a, spey_cuda_stream(lane));
        a = &queries;
    }
    if (packed && is_sliced(a))
        return a->dtype == SPEY_F16 ? launch_sliced<SPEY_F16>(a, spey_cuda_device(lane))
                                    : launch_sliced<SPEY_BF16>(a, spey_cuda_device(lane));
    if (packed)
        launch<true>(a, spey_cuda_device(lane));
    else
        launch<false>(a, spey_cuda_device(lane));
}

extern "C" const spey_kernel spey_rope_append_sm80;
const spey_kernel spey_rope_append_sm80 = { "rope_append/sm80", 0, supports, nullptr, run, false };
