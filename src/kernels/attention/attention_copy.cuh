/* How attention on tensor cores brings the cache and q to shared memory, and how elements lie there.
 *
 *   strips of 16 tokens: token t's row has D elements in chunks of 16 bytes, chunk c at place c ^ (t & 7), so that the 8
 *   rows which ldmatrix reads at once lie in different banks
 *   scales (I8): 16 floats for each strip, in a place of their own */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_COPY_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_COPY_CUH

#include "kernels/attention/attention.cuh"
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/mma.cuh"

enum { TILE_TOKENS = 64, STRIP_TOKENS = 16, TILE_STRIPS = TILE_TOKENS / STRIP_TOKENS };

/* T: type of the products. D: largest head size, a power of two. KV: elements of the cache; those of 8 bits are widened to
 * T, which holds them exactly, in registers. */
template <typename T_, int D_, spey_dtype KV_> struct tile_traits {
    using T = T_;
    static constexpr int D = D_;
    static constexpr spey_dtype KV = KV_;
    static constexpr bool SCALED = KV == SPEY_I8; /* each token has scales of its own */
    static constexpr int BYTES = KV == SPEY_E4M3 || SCALED ? 1 : 2;
    static constexpr int SCALES = SCALED ? STRIP_TOKENS * 4 : 0;
    static constexpr int PITCH = D * BYTES, CHUNKS = PITCH / 16, STRIP = STRIP_TOKENS * PITCH;
    using Q = tile_traits<T, D, SPEY_BF16>; /* rows of q: always of 16 bits */
};

/* Byte of chunk `chunk` of row `row` in an array of rows. */
template <typename X> static __host__ __device__ constexpr int chunk_at(int row, int chunk)
{
    return row * X::PITCH + (chunk ^ (row & 7)) * 16;
}

/* ---- copies ---- */

/* What a kernel reads of the cache: tokens [begin, end) of one sequence and KV head; others become zeros. */
struct cache_range {
    int seq, kv_head;
    int begin, end;
};

/* A block of the pool, and a token's place in it. */
struct token_slot {
    int64_t block;
    int inside;
};

static __device__ __forceinline__ token_slot find_slot(const attention_problem &p,
                                                       const cache_range &range, int token)
{
    const int nth = p.block_shift >= 0 ? token >> p.block_shift : token / p.a.kv.block_tokens;
    return { p.blocks[range.seq * p.table_pitch + nth], token - nth * p.a.kv.block_tokens };
}

/* Where a head of K or V lies in a block. */
static __device__ __forceinline__ int64_t head_offset(const spey_kv_view &kv, int kv_head,
                                                      bool is_v)
{
    return is_v ? kv.v_offset + kv_head * kv.v_head_bytes : kv.k_offset + kv_head * kv.k_head_bytes;
}

/* Where cache index `first` lies in the pool, K or V. */
static __device__ __forceinline__ const uint8_t *
find_token(const attention_problem &p, const cache_range &range, int first, bool is_v)
{
    const spey_kv_view &kv = p.a.kv;
    const token_slot slot = find_slot(p, range, first);
    return kv.base + slot.block * kv.block_bytes +
           (is_v ? kv.v_offset + range.kv_head * kv.v_head_bytes + slot.inside * kv.v_token_bytes
                 : kv.k_offset + range.kv_head * kv.k_head_bytes + slot.inside * kv.k_token_bytes);
}

/* Where the scale of K or V of cache index `token` lies (I8). */
static __device__ __forceinline__ const float *
find_scale(const attention_problem &p, const cache_range &range, int token, bool is_v)
{
    const spey_kv_view &kv = p.a.kv;
    const token_slot slot = find_slot(p, range, token);
    return kv.token_scales + (is_v ? kv.v_scales : kv.k_scales) +
           int64_t{ range.kv_head } * kv.block_tokens + slot.block * kv.scale_block + slot.inside;
}

/* The scale of one token; 0 for one outside of the range. */
static __device__ __forceinline__ void copy_scale(uint32_t to, const attention_problem &p,
                                                  const cache_range &range, int token, bool is_v)
{
    const bool there = token >= range.begin && token < range.end;
    copy_async4(to, there ? find_scale(p, range, token, is_v) : p.a.kv.token_scales, there);
}

/* TOKENS tokens from cache index `first` on, all in one block, by THREADS threads: thread t takes chunk t % CHUNKS of every
 * PASS'th token. EDGE: not all of them may be read. */
template <typename X, int THREADS, int TOKENS, bool EDGE>
static __device__ __forceinline__ void
copy_tokens(uint32_t to, const uint8_t *from, const attention_problem &p, const cache_range &range,
            int first, bool is_v, int thread)
{
    constexpr int PASS = THREADS / X::CHUNKS;
    const int token_bytes = static_cast<int>(is_v ? p.a.kv.v_token_bytes : p.a.kv.k_token_bytes);
    const int row = thread / X::CHUNKS, chunk = thread % X::CHUNKS;
    const bool mine = chunk < static_cast<int>(is_v ? p.a.v_dim : p.a.k_dim) * X::BYTES / 16;
    from += row * token_bytes + chunk * 16;
    to += chunk_at<X>(row, chunk);
#pragma unroll 4
    for (int i = 0; i < TOKENS; i += PASS) {
        const int token = first + row + i;
        const bool there = mine && (!EDGE || (token >= range.begin && token < range.end));
        /* chunk_at(row + i, chunk), since row and i have no bits in common */
        copy_async16((to ^ (i % 8 * 16)) + i * X::PITCH, from, there);
        from += PASS * token_bytes;
    }
}

/* As above; tokens outside of the range become zeros, and if all are, no block may be there. */
template <typename X, int THREADS, int TOKENS>
static __device__ __forceinline__ void copy_stretch(uint32_t to, const attention_problem &p,
                                                    const cache_range &range, int first, bool is_v,
                                                    int thread)
{
    if (first >= range.begin && first + TOKENS <= range.end) {
        copy_tokens<X, THREADS, TOKENS, false>(to, find_token(p, range, first, is_v), p, range,
                                               first, is_v, thread);
    } else {
        const bool some = first + TOKENS > range.begin && first < range.end;
        copy_tokens<X, THREADS, TOKENS, true>(
            to, some ? find_token(p, range, first, is_v) : p.a.kv.base, p, range, first, is_v,
            thread);
    }
}

/* What a lane adds to the address of rows for ldmatrix: of K, both halves of a strip at one step of 16 elements; of Q and
 * of V, 16 rows at one step. Step k flips bits: chunk_at(row, 2k + c) == chunk_at(row, c) ^ 32k, since rows are aligned to
 * their pitch. */
template <typename X> static __device__ __forceinline__ uint32_t lane_of_k(int lane)
{
    return chunk_at<X>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

template <typename X> static __device__ __forceinline__ uint32_t lane_of_rows(int lane)
{
    return chunk_at<X>(lane % 16, lane / 16);
}

/* ---- elements of 8 bits ---- */

static __device__ __forceinline__ uint32_t pack2(float low, float high, __half)
{
    const __half2 x = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&x);
}

static __device__ __forceinline__ uint32_t pack2(float low, float high, __nv_bfloat16)
{
    const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&x);
}

/* Where element d of a row of q is put. With 8 bits a lane's four neighbouring elements of K are two pairs of a fragment; q
 * takes the same order, which the product does not see. */
template <typename X> static __host__ __device__ constexpr int q_place(int d)
{
    return X::BYTES == 2 ? d : (d & ~15) | (d & 2) << 2 | (d & 12) >> 1 | (d & 1);
}

/* Likewise of the output: where the pair that a lane holds in tile n of 8 elements lies in the row. */
template <typename X> static __host__ __device__ constexpr int output_place(int n, int lane)
{
    return X::BYTES == 2 ? n * 8 + lane % 4 * 2 : n / 2 * 16 + lane % 4 * 4 + n % 2 * 2;
}

/* The pair itself, of row half · 8 + g. */
template <typename X>
static __device__ __forceinline__ float2 output_pair(const float o[X::D / 8][4], int n, int half)
{
    if (X::BYTES == 2) return make_float2(o[n][2 * half], o[n][2 * half + 1]);
    return make_float2(o[n & ~1][2 * half + n % 2], o[n | 1][2 * half + n % 2]);
}

/* Two elements of q from F16 or BF16, as T. Those that F16 cannot hold become its largest. */
static __device__ __forceinline__ uint32_t convert_pair(uint32_t pair, spey_dtype dtype, __half)
{
    if (dtype == SPEY_F16) return pair;
    const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
    return pack2(fminf(fmaxf(low, -65504.0f), 65504.0f), fminf(fmaxf(high, -65504.0f), 65504.0f),
                 __half());
}

static __device__ __forceinline__ uint32_t convert_pair(uint32_t pair, spey_dtype dtype,
                                                        __nv_bfloat16)
{
    if (dtype == SPEY_BF16) return pair;
    const float2 two = __half22float2(*reinterpret_cast<const __half2 *>(&pair));
    return pack2(two.x, two.y, __nv_bfloat16());
}

/* Two of four bytes, chosen by two digits of a selector of PRMT, as numbers of the products' type, which holds them
 * exactly. I8 in BF16: with exponent 7 the low seven bits are that much over 128, and the sign is 128 to be taken off. */
template <typename X>
static __device__ __forceinline__ uint32_t widen(uint32_t four, uint32_t selector)
{
    if constexpr (!X::SCALED) return widen_e4m3(four, selector);
    const uint32_t two =
        __byte_perm(four, 0x43, (selector & 0xfu) | (selector & 0xf0u) << 4 | 0x4040u);
    const uint32_t low = two & 0xff7fff7fu, sign = two & 0xff80ff80u;
    const __nv_bfloat162 x = __hsub2(*reinterpret_cast<const __nv_bfloat162 *>(&low),
                                     *reinterpret_cast<const __nv_bfloat162 *>(&sign));
    return *reinterpret_cast<const uint32_t *>(&x);
}

/* Chunk `chunk` of row `row` of q, 8 elements of the activations' type; zeros when not there. */
template <typename X>
static __device__ __forceinline__ void copy_q(uint32_t rows, int row, int chunk, const void *from,
                                              spey_dtype dtype, bool there)
{
    using Q = typename X::Q;
    if constexpr (X::BYTES == 2) {
        copy_async16(rows + chunk_at<Q>(row, chunk), from, there);
        return;
    }
    const uint4 eight = there ? *static_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
    const uint32_t pairs[4] = { eight.x, eight.y, eight.z, eight.w };
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int place = q_place<X>(chunk * 8 + i * 2);
        store_shared(rows + chunk_at<Q>(row, place / 8) + place % 8 * 2,
                     convert_pair(pairs[i], dtype, typename X::T()));
    }
}

#endif
