/* How attention on tensor cores is cut into items, on the device, from the lengths that lie there.
 *
 *   decode    sequences with one token in the step: an item is a KV head, up to 8 or 16 of its query heads, and a split of the
 *             cache: a stretch of split_tokens at multiples of it. Splits of a row meet in the combine kernel
 *   prefill   the others: an item is a KV head and ROWS rows, a row being a pair of token and query head, all heads of
 *             a token beside each other
 *
 * Items are numbered sequence by sequence; warps take them from a fixed grid, each stepping over the sequences once. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_WORK_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_WORK_CUH

#include "kernels/attention/attention.cuh"

struct attention_plan {
    int split_tokens, splits_max;
    int group;              /* query heads of a KV head */
    int item_heads, chunks; /* how many of them a decode item has, and its number of items */
    bool few_items;         /* decode's CTAs share the strips of an item out to all warps */
    int cluster;            /* of so many CTAs; 1: none */
    bool all_decode;        /* no prefill kernel runs: decode takes every token */
    bool no_decode;         /* no decode kernel runs */
    float *partial;         /* [token][head][split][v_dim] */
    float *partial_max, *partial_sum;
};

/* Splits are as short as keeps a GPU busy with the sequences that can come, and longer when the room for their results
 * would grow beyond bounds. They follow from the limits of a context, not from a batch. */
static __host__ __device__ inline int split_tokens_of(int64_t seqs_max, int64_t n_heads,
                                                      int64_t n_kv_heads, int64_t v_dim,
                                                      int64_t kv_len_max)
{
    const int64_t items = seqs_max * n_kv_heads, room = int64_t{ 64 } << 20;
    int64_t split = items >= 256 ? 1024 : items >= 64 ? 512 : items >= 16 ? 256 : 64;
    while (split < kv_len_max &&
           seqs_max * n_heads * (kv_len_max / split + 1) * (v_dim + 2) * 4 > room)
        split *= 2;
    return static_cast<int>(split);
}

/* What the token at cache index `index` sees, and the splits that it lies in: [first, first + n). */
struct token_view {
    int index, begin, end;
    int first_split, n_splits;
};

static __device__ __forceinline__ token_view view_token(const attention_problem &p,
                                                        const attention_plan &plan, int64_t seq,
                                                        int token)
{
    token_view v;
    v.index = p.kv_len[seq] - p.seq_start[seq + 1] + token;
    v.begin = first_visible(p.a, v.index);
    v.end = end_visible(p.a, v.index, p.cache_len[seq]);
    v.first_split = v.begin / plan.split_tokens;
    v.n_splits = v.end > v.begin ? (v.end - 1) / plan.split_tokens - v.first_split + 1 : 0;
    return v;
}

static __device__ __forceinline__ bool is_decoded(const attention_plan &plan, int n_tokens)
{
    return (n_tokens == 1 || plan.all_decode) && !plan.no_decode;
}

/* A warp's place in the list of items: 32 lanes' sequences, whose items end at `ends` (one a lane) of `before`. */
struct item_cursor {
    int base, before, ends, total;
};

/* The sum of n over the lanes up to this one. */
static __device__ __forceinline__ int sum_to_lane(int n)
{
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const int lower = __shfl_up_sync(0xffffffffu, n, offset);
        if (static_cast<int>(threadIdx.x) % 32 >= offset) n += lower;
    }
    return n;
}

/* Of `ends` (as sum_to_lane gives them) the first beyond `at`, which is made to count from there. */
static __device__ __forceinline__ int first_beyond(int ends, int *at)
{
    const unsigned behind = __ballot_sync(0xffffffffu, *at < ends);
    const int nth = __ffs(static_cast<int>(behind)) - 1;
    const int begin = __shfl_sync(0xffffffffu, ends, nth > 0 ? nth - 1 : 0);
    *at -= nth > 0 ? begin : 0;
    return nth;
}

/* COUNT(seq): items of that sequence. Moves to the sequences that hold `item`, EACH a lane (many, where most have none:
 * a step costs a trip to memory); false: there are fewer items. Returns the sequence and the number of the item in it.
 * The whole warp calls it, with growing items. */
template <int EACH = 1, typename COUNT>
static __device__ __forceinline__ bool find_item(item_cursor *at, int n_seqs, int item, COUNT count,
                                                 int *seq, int *inside)
{
    const int lane = threadIdx.x % 32;
    while (at->base < 0 || item >= at->before + at->total) {
        at->before += at->total;
        at->base = at->base < 0 ? 0 : at->base + 32 * EACH;
        if (at->base >= n_seqs) return false;
        int n = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int s = at->base + lane * EACH + i;
            if (s < n_seqs) n += count(s);
        }
        at->ends = sum_to_lane(n);
        at->total = __shfl_sync(0xffffffffu, at->ends, 31);
    }
    *inside = item - at->before;
    *seq = at->base + EACH * first_beyond(at->ends, inside);
    if constexpr (EACH > 1) {
        const bool mine = lane < EACH && *seq + lane < n_seqs;
        *seq += first_beyond(sum_to_lane(mine ? count(*seq + lane) : 0), inside);
    }
    return true;
}

static __device__ __forceinline__ item_cursor no_items()
{
    return { -1, 0, 0, 0 };
}

#endif
