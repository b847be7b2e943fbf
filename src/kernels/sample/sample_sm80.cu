/* sample on sm_80 and later.
 *
 * who       One CTA of 1024 threads per row. First it changes the row where the rule says so, in place, and keeps what was
 *           there. Then it finds the best logit; with top_k or top_p, the last token that stays, by the digits of the keys:
 *           a histogram of the first 10 bits over the row, then finer ones over that bin alone; then what each warp's piece of
 *           the row weighs without the tokens that are out; and the token in its piece.
 * order     Masses are whole numbers: threads may add them in any order. Of tokens with the last key the first ones stay:
 *           each piece counts its own, and a sum over the pieces before it says how many.
 * moves     x once for BEST; twice for DRAW; with top_k or top_p once more and once for each of them, twice for those whose bin
 *           does not fit the list. A log-probability reads it once more, twice when it changes. Of many rows at once about half
 *           comes out of the L2 cache from the second time on.
 * likeliest A kernel of its own, before, reads x twice: for the largest of each thread, the nth of which is a floor that few
 *           tokens reach, and for those. In one kernel with the rest there were not enough registers.
 * bound by  memory, and adding up in shared memory while there is a histogram. */
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/order.cuh"
#include "kernels/sample/sample.h"
#include "kernels/sample/sample_weight.h"

enum { THREADS = 1024, WARPS = THREADS / 32, PACKS = 4, LIST_MAX = 4096, LIKELY_MAX = 4096 };
enum { DIGITS = 3, DIGIT_BITS = SPEY_SAMPLE_KEY_BITS / DIGITS, BINS = 1 << DIGIT_BITS };
static_assert(DIGITS * DIGIT_BITS == SPEY_SAMPLE_KEY_BITS, "all of a key");
static_assert(1 << DIGIT_BITS == 1024 && THREADS == 1024,
              "a thread for each bin, a lane for each warp");

/* Tokens and their mass by digit; masses in halves, as shared memory adds 32 bits at once. */
struct histogram {
    uint32_t counts[BINS], low[BINS], high[BINS];
};

/* Where the order of keys ends: tokens before `key` stay, and the first n_ties of those that have it. */
struct last_token {
    uint32_t key, n_ties;
    uint64_t mass; /* of what stays */
};

/* The bin in which a goal is reached. */
struct crossing {
    uint32_t bin, n_before;
    uint64_t mass_before;
};

struct shared_state {
    histogram first, finer;  /* by the first digit, and within a bin by the next one */
    uint32_t list[LIST_MAX]; /* keys of one bin of `first` */
    uint32_t n_listed;
    uint64_t sums[WARPS];
    uint32_t counts[WARPS];
    crossing crossed;
    int32_t chosen;
};

/* The row as this CTA sees it. */
struct view {
    float *x;
    const uint32_t *mask; /* NULL: all are allowed */
    uint32_t cols;
    float best, slope;
};

/* ---- over the threads of the CTA ---- */

template <typename T> static __device__ __forceinline__ T warp_total(T x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* The sum over the threads before this one. */
template <typename T> static __device__ __forceinline__ T sum_before(T x, T *shared)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T inclusive = x;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const T other = __shfl_up_sync(0xffffffffu, inclusive, offset);
        if (lane >= offset) inclusive += other;
    }
    __syncthreads(); /* who reads `shared` from before is done */
    if (lane == 31) shared[warp] = inclusive;
    __syncthreads();
    T before = lane < warp ? shared[lane] : T(0);
    return warp_total(before) + inclusive - x;
}

template <typename T> static __device__ __forceinline__ T cta_total(T x, T *shared)
{
    x = warp_total(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_total(shared[threadIdx.x % 32]);
}

/* ---- over the row ---- */

/* Bit j: token c + j is allowed; as many as lie in the word. */
static __device__ __forceinline__ uint32_t allowed_from(const view &v, uint32_t c)
{
    return v.mask ? v.mask[c / 32] >> c % 32 : ~0u;
}

/* f(c, x[c]) for packs of the row: first, first + step, … below end. The row changes while the kernel runs: loads go to the
 * L2 cache, where atomics work. */
template <bool PACKED, typename F>
static __device__ __forceinline__ void each(const view &v, uint32_t first, uint32_t step,
                                            uint32_t end, F f)
{
    constexpr int N = PACKED ? 4 : 1;
#pragma unroll 1
    for (uint32_t c = first; c < end; c += PACKS * step) {
        float values[PACKS][N] = {};
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            if (c + i * step >= end) continue;
            if constexpr (PACKED) {
                const float4 four = __ldcg(reinterpret_cast<const float4 *>(v.x + c + i * step));
                values[i][0] = four.x;
                values[i][1] = four.y;
                values[i][2] = four.z;
                values[i][3] = four.w;
            } else {
                values[i][0] = __ldcg(v.x + c + i * step);
            }
        }
#pragma unroll
        for (int i = 0; i < PACKS; i++) {
            if (c + i * step >= end) continue;
            const uint32_t bits = allowed_from(v, c + i * step);
#pragma unroll
            for (int j = 0; j < N; j++) {
                f(c + i * step + j, bits >> j & 1 ? values[i][j] : -INFINITY);
            }
        }
    }
}

/* All of it, by all threads. */
template <bool PACKED, typename F> static __device__ __forceinline__ void each(const view &v, F f)
{
    constexpr uint32_t N = PACKED ? 4 : 1;
    each<PACKED>(v, threadIdx.x * N, THREADS * N, v.cols, f);
}

static __device__ __forceinline__ uint64_t cta_largest(uint64_t x, uint64_t *shared)
{
    x = warp_largest(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_largest(shared[threadIdx.x % 32]);
}

template <bool PACKED>
static __device__ __forceinline__ uint64_t find_best(const view &v, uint64_t *shared)
{
    float largest = -INFINITY;
    uint32_t place = 0,
             size = 0; /* the largest bits but for the sign: a NaN's are above infinity's */
    each<PACKED>(v, [&](uint32_t c, float x) {
        size = max(size, __float_as_uint(x) & 0x7fffffffu);
        place = x > largest ? c : place;
        largest = fmaxf(largest, x);
    });
    return cta_largest(order_of(size > 0x7f800000u ? NAN : largest, place), shared);
}

/* ---- changes ---- */

/* A row's part of the ids, and where it keeps what they were about. */
struct changes {
    const int32_t *history, *bias, *values, *banned;
    float *old_history, *old_bias, *old_banned;
    int32_t *counts;
    int32_t newest, n_history, n_prompt, n_bias, n_banned, n_pairs;
};

static __device__ __forceinline__ changes changes_of(const spey_sample_args &a,
                                                     const spey_sample_rule &rule,
                                                     const int32_t *step_ids,
                                                     const int32_t *output_rows)
{
    changes c;
    float *old = static_cast<float *>(a.workspace) + rule.ids;
    c.history = a.ids + rule.ids;
    c.bias = c.history + rule.n_history;
    c.values = c.bias + rule.n_bias;
    c.banned = c.values + rule.n_bias;
    c.old_history = old;
    c.old_bias = old + rule.n_history;
    c.old_banned = c.old_bias + 2 * rule.n_bias;
    c.counts = static_cast<int32_t *>(a.workspace) + a.n_ids + rule.ids;
    c.newest = rule.n_history + rule.n_pairs ? step_ids[output_rows[blockIdx.x]] : -1;
    c.n_history = rule.n_history;
    c.n_prompt = rule.n_prompt;
    c.n_bias = rule.n_bias;
    c.n_banned = rule.n_banned;
    c.n_pairs = rule.n_pairs;
    return c;
}

/* f(i, id) for the ids that are banned, be it by a pair. */
template <typename F> static __device__ __forceinline__ void each_banned(const changes &c, F f)
{
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < c.n_banned + c.n_pairs; i += THREADS) {
        const int32_t *pair = c.banned + 2 * i - c.n_banned;
        if (i < c.n_banned)
            f(i, c.banned[i]);
        else if (pair[0] == c.newest)
            f(i, pair[1]);
    }
}

/* f(i, id) for the history's tokens from `begin` on that have a logit. */
template <typename F>
static __device__ __forceinline__ void each_known(const changes &c, uint32_t cols, int32_t begin,
                                                  int32_t end, F f)
{
#pragma unroll 1
    for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < end; i += THREADS) {
        const int32_t id = i + 1 < c.n_history ? c.history[i] : c.newest;
        if (id >= 0 && static_cast<uint32_t>(id) < cols) f(i, id);
    }
}

/* The logits of the output's ids serve as their counters: the old ones are kept. */
static __device__ __forceinline__ void count_output(const changes &c, const view &v)
{
    int32_t *counters = reinterpret_cast<int32_t *>(v.x);
    each_known(c, v.cols, c.n_prompt, c.n_history, [&](int32_t, int32_t id) { counters[id] = 0; });
    __syncthreads();
    each_known(c, v.cols, c.n_prompt, c.n_history,
               [&](int32_t, int32_t id) { atomicAdd(&counters[id], 1); });
    __syncthreads();
    each_known(c, v.cols, c.n_prompt, c.n_history,
               [&](int32_t i, int32_t id) { c.counts[i] = __ldcg(&counters[id]); });
    __syncthreads();
}

/* An id that is there several times gets the same value from each. Those of the output come last: theirs is the full one. */
static __device__ __forceinline__ void penalize(const changes &c, const spey_sample_rule &rule,
                                                const view &v)
{
    const bool counts = rule.presence != 0.0 || rule.frequency != 0.0;
    each_known(c, v.cols, 0, c.n_history,
               [&](int32_t i, int32_t id) { c.old_history[i] = __ldcg(&v.x[id]); });
    __syncthreads();
    if (counts) count_output(c, v);
    auto repeated = [&](int32_t i) {
        const float x = c.old_history[i];
        return x < 0.0f ? __fmul_rn(x, rule.repetition) : __fdiv_rn(x, rule.repetition);
    };
    each_known(c, v.cols, 0, counts ? c.n_prompt : c.n_history,
               [&](int32_t i, int32_t id) { v.x[id] = repeated(i); });
    __syncthreads();
    if (!counts) return;
    each_known(c, v.cols, c.n_prompt, c.n_history, [&](int32_t i, int32_t id) {
        const double loss = __dadd_rn(rule.presence, __dmul_rn(rule.frequency, c.counts[i]));
        v.x[id] = __fsub_rn(repeated(i), static_cast<float>(loss));
    });
    __syncthreads();
}

static __device__ __forceinline__ void change(const changes &c, const spey_sample_rule &rule,
                                              const view &v)
{
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < c.n_bias; i += THREADS)
        c.old_bias[i] = __ldcg(&v.x[c.bias[i]]);
    each_banned(c, [&](int32_t i, int32_t id) { c.old_banned[i] = __ldcg(&v.x[id]); });
    __syncthreads();
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < c.n_bias; i += THREADS)
        v.x[c.bias[i]] = c.old_bias[i] + __int_as_float(c.values[i]);
    __syncthreads();
    if (c.n_history) penalize(c, rule, v);
    each_banned(c, [&](int32_t, int32_t id) { v.x[id] = -INFINITY; });
    __syncthreads();
}

/* Backwards: what the history kept has the bias. */
static __device__ __forceinline__ void restore(const changes &c, const view &v)
{
    __syncthreads();
    each_known(c, v.cols, 0, c.n_history,
               [&](int32_t i, int32_t id) { v.x[id] = c.old_history[i]; });
    __syncthreads();
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < c.n_bias; i += THREADS)
        v.x[c.bias[i]] = c.old_bias[i];
    each_banned(c, [&](int32_t i, int32_t id) { v.x[id] = c.old_banned[i]; });
    __syncthreads();
}

/* ---- the last token that stays ---- */

static __device__ __forceinline__ uint32_t key_of(const view &v, float x)
{
    return spey_sample_key(v.best, x, v.slope);
}

static __device__ __forceinline__ void clear(histogram &h)
{
    __syncthreads();
    h.counts[threadIdx.x] = h.low[threadIdx.x] = h.high[threadIdx.x] = 0;
    __syncthreads();
}

static __device__ __forceinline__ void add(histogram &h, uint32_t bin, uint64_t weight)
{
    const uint32_t low = static_cast<uint32_t>(weight);
    const uint32_t before = atomicAdd(&h.low[bin], low);
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before);
    atomicAdd(&h.counts[bin], 1u);
    if (high) atomicAdd(&h.high[bin], high);
}

static __device__ __forceinline__ uint64_t mass_of(const histogram &h, uint32_t bin)
{
    return static_cast<uint64_t>(h.high[bin]) << 32 | h.low[bin];
}

/* The bin in which the goal, of tokens or of mass, is reached; it is. */
static __device__ __forceinline__ crossing find_crossing(shared_state &s, const histogram &h,
                                                         const crossing &from, uint64_t goal,
                                                         bool by_count)
{
    const uint32_t n = h.counts[threadIdx.x];
    const uint64_t mass = mass_of(h, threadIdx.x);
    crossing c;
    c.bin = threadIdx.x;
    c.n_before = from.n_before + sum_before(n, s.counts);
    c.mass_before = from.mass_before + sum_before(mass, s.sums);
    const uint64_t before = by_count ? c.n_before : c.mass_before;
    if (before < goal && goal <= before + (by_count ? n : mass)) s.crossed = c;
    __syncthreads();
    return s.crossed;
}

/* Fill h with the tokens whose keys begin with `prefix`, by their next digit. The second digit makes the list, if it fits; the
 * third one reads it. */
template <bool PACKED>
static __device__ __forceinline__ void count_digit(shared_state &s, histogram &h, const view &v,
                                                   int digit, uint32_t prefix, bool fits)
{
    const int shift = (DIGITS - 1 - digit) * DIGIT_BITS;
    if (threadIdx.x == 0 && digit == 1) s.n_listed = 0;
    clear(h);
    if (digit == 2 && fits) {
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < s.n_listed; i += THREADS)
            if (s.list[i] >> DIGIT_BITS == prefix)
                add(h, s.list[i] % BINS, spey_sample_weight(s.list[i]));
    } else {
        each<PACKED>(v, [&](uint32_t, float x) {
            const uint32_t key = key_of(v, x);
            if (key >> shift >> DIGIT_BITS != prefix) return;
            const uint64_t weight = spey_sample_weight(key);
            if (!weight) return;
            add(h, (key >> shift) % BINS, weight);
            if (digit == 1 && fits) s.list[atomicAdd(&s.n_listed, 1u)] = key;
        });
    }
    __syncthreads();
}

/* What top_k and then top_p leave. */
template <bool PACKED>
static __device__ __forceinline__ last_token cut(shared_state &s, const view &v,
                                                 const spey_sample_rule &rule)
{
    last_token last = { UINT32_MAX, 0, 0 };
    const bool has_k = rule.top_k > 0, has_p = rule.top_p < 1.0;
    if (!has_k && !has_p) return last;
    count_digit<PACKED>(s, s.first, v, 0, 0, false);
    const uint32_t n = cta_total(s.first.counts[threadIdx.x], s.counts);
    last.mass = cta_total(mass_of(s.first, threadIdx.x), s.sums);
    const bool k_cuts = has_k && static_cast<uint32_t>(rule.top_k) < n;
#pragma unroll 1
    for (int by_count = k_cuts; by_count >= !has_p; by_count--) {
        const uint64_t goal = by_count ? rule.top_k : spey_sample_goal(rule.top_p, last.mass);
        crossing c = find_crossing(s, s.first, crossing{}, goal, by_count);
        uint32_t key = c.bin;
        const bool fits = s.first.counts[key] <= LIST_MAX;
#pragma unroll 1
        for (int digit = 1; digit < DIGITS; digit++) {
            count_digit<PACKED>(s, s.finer, v, digit, key, fits);
            c = find_crossing(s, s.finer, c, goal, by_count);
            key = key << DIGIT_BITS | c.bin;
        }
        const uint64_t weight = spey_sample_weight(key);
        const uint64_t left =
            by_count ? goal - c.n_before : (goal - c.mass_before + weight - 1) / weight;
        last.key = key;
        last.n_ties = static_cast<uint32_t>(left);
        last.mass = c.mass_before + left * weight;
    }
    return last;
}

/* ---- the draw ---- */

/* What a token weighs when those that are out weigh nothing; of ties it is not known yet: they are counted. */
static __device__ __forceinline__ uint64_t weight_before(const view &v, const last_token &last,
                                                         uint64_t least, float x, uint32_t *n_ties)
{
    const uint32_t key = key_of(v, x);
    *n_ties += key == last.key;
    if (key >= last.key) return 0;
    const uint64_t weight = spey_sample_weight(key);
    return weight < least ? 0 : weight;
}

/* Of the piece [begin, end): ties before it were n_before, and the point is `point` behind its begin. */
struct piece {
    uint32_t begin, end, n_before;
    uint64_t point, tie_weight;
};

static __device__ __forceinline__ uint32_t stay(uint32_t n_ties, uint32_t n, uint32_t n_before)
{
    const uint32_t left = n_ties > n_before ? n_ties - n_before : 0;
    return n < left ? n : left;
}

/* The warps' pieces: what each weighs, and which has the point. */
template <bool PACKED>
static __device__ __forceinline__ piece find_piece(shared_state &s, const view &v,
                                                   const last_token &last, uint64_t least,
                                                   const spey_sample_rule &rule)
{
    constexpr uint32_t N = PACKED ? 4 : 1;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t size = (v.cols + 128 * WARPS - 1) / (128 * WARPS) * 128;
    const uint32_t begin = warp * size < v.cols ? warp * size : v.cols;
    const uint32_t end = begin + size < v.cols ? begin + size : v.cols;
    uint64_t mass = 0;
    uint32_t n_ties = 0;
    each<PACKED>(v, begin + lane * N, 32 * N, end,
                 [&](uint32_t, float x) { mass += weight_before(v, last, least, x, &n_ties); });
    mass = warp_total(mass);
    n_ties = warp_total(n_ties);
    __syncthreads();
    if (lane == 0) {
        s.sums[warp] = mass;
        s.counts[warp] = n_ties;
    }
    __syncthreads();
    piece p = {};
    if (last.n_ties) p.tie_weight = spey_sample_weight(last.key);
    if (p.tie_weight < least) p.tie_weight = 0;
    uint64_t total = 0;
#pragma unroll 1
    for (uint32_t w = 0, n = 0; w < WARPS; n += s.counts[w++])
        total += s.sums[w] + stay(last.n_ties, s.counts[w], n) * p.tie_weight;
    p.point = spey_sample_point(rule.seed, rule.index, total);
#pragma unroll 1
    for (uint32_t w = 0;; p.n_before += s.counts[w++]) {
        const uint64_t own = s.sums[w] + stay(last.n_ties, s.counts[w], p.n_before) * p.tie_weight;
        p.begin = w * size;
        p.end = p.begin + size < v.cols ? p.begin + size : v.cols;
        if (p.point < own || w + 1 == WARPS) break;
        p.point -= own;
    }
    return p;
}

/* The token of the piece in which the point falls: each thread has neighbours of it. */
static __device__ __forceinline__ int32_t find_token(shared_state &s, const view &v,
                                                     const last_token &last, uint64_t least,
                                                     const piece &p)
{
    const uint32_t each_has = (p.end - p.begin + THREADS - 1) / THREADS;
    const uint32_t begin = p.begin + threadIdx.x * each_has;
    const uint32_t end = begin + each_has < p.end ? begin + each_has : p.end;
    auto weigh = [&](uint32_t c, uint32_t *n_ties) {
        const float x = allowed_from(v, c) & 1 ? __ldcg(&v.x[c]) : -INFINITY;
        return weight_before(v, last, least, x, n_ties);
    };
    uint32_t n = 0;
    uint64_t mass = 0;
#pragma unroll 1
    for (uint32_t c = begin; c < end; c++)
        mass += weigh(c, &n);
    uint32_t n_before = p.n_before + sum_before(n, s.counts);
    mass += stay(last.n_ties, n, n_before) * p.tie_weight;
    uint64_t before = sum_before(mass, s.sums);
    if (before <= p.point && p.point < before + mass) {
#pragma unroll 1
        for (uint32_t c = begin; c < end; c++) {
            uint32_t is_tie = 0;
            before += weigh(c, &is_tie);
            before += stay(last.n_ties, is_tie, n_before) * p.tie_weight;
            n_before += is_tie;
            if (p.point >= before) continue;
            s.chosen = static_cast<int32_t>(c);
            break;
        }
    }
    __syncthreads();
    return s.chosen;
}

template <bool PACKED>
static __device__ __forceinline__ int32_t draw(shared_state &s, const view &v,
                                               const spey_sample_rule &rule)
{
    const uint64_t least = spey_sample_least(rule.min_p);
    const last_token last = cut<PACKED>(s, v, rule);
    return find_token(s, v, last, least, find_piece<PACKED>(s, v, last, least, rule));
}

/* ---- log-probabilities ---- */

static __device__ __forceinline__ double log_of_sum(float best, uint64_t mass)
{
    return best + log(static_cast<double>(mass) * 0x1p-40);
}

/* log(sum(exp(x))) over the row, in FP64 behind an exact sum of rounded weights; `best` is its best. */
template <bool PACKED>
static __device__ __forceinline__ double log_sum_exp(shared_state &s, view v, uint64_t best)
{
    if (place_of(best) < 0) return NAN;
    v.best = float_of(best);
    v.slope = spey_sample_slope(1.0);
    uint64_t mass = 0;
    each<PACKED>(v, [&](uint32_t, float x) { mass += spey_sample_weight(key_of(v, x)); });
    return log_of_sum(v.best, cta_total(mass, s.sums));
}

/* ---- the likeliest ---- */

struct top_state {
    uint64_t likely[LIKELY_MAX]; /* orders */
    uint32_t n_likely;
    uint64_t sums[WARPS];
};

/* The best token, and a floor that at least n tokens reach, or all do: the nth of the threads' largest. */
template <bool PACKED>
static __device__ __forceinline__ uint64_t find_floor(top_state &s, const view &v, int32_t n,
                                                      uint64_t *best)
{
    uint64_t own = 0, floor = 0;
    each<PACKED>(v, [&](uint32_t c, float x) { own = larger(own, order_of(x, c)); });
#pragma unroll 1
    for (int32_t i = 0; i < n; i++) {
        floor = cta_largest(own, s.sums);
        if (i == 0) *best = floor;
        if (own == floor) own = 0;
    }
    return floor;
}

/* List what reaches the floor, and what the row weighs. Returns its log_sum_exp. */
template <bool PACKED>
static __device__ __forceinline__ double list_likely(top_state &s, const view &v, uint64_t floor)
{
    uint64_t mass = 0;
    if (threadIdx.x == 0) s.n_likely = 0;
    __syncthreads();
    each<PACKED>(v, [&](uint32_t c, float x) {
        const uint64_t order = order_of(x, c);
        mass += spey_sample_weight(key_of(v, x));
        if (order < floor) return;
        const uint32_t i = atomicAdd(&s.n_likely, 1u);
        if (i < LIKELY_MAX) s.likely[i] = order;
    });
    return log_of_sum(v.best, cta_total(mass, s.sums));
}

/* f(rank, order) for the first n. Each token of the list has as many before it as there are larger ones. If they do not fit,
 * which takes a row made for it, the tokens are found one after the other. */
template <bool PACKED, typename F>
static __device__ __forceinline__ void rank_likely(top_state &s, const view &v, int32_t n, F f)
{
    const uint32_t n_likely = s.n_likely;
    if (n_likely <= LIKELY_MAX) {
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < n_likely; i += THREADS) {
            int32_t rank = 0;
#pragma unroll 1
            for (uint32_t k = 0; k < n_likely; k++)
                rank += s.likely[k] > s.likely[i];
            if (rank < n) f(rank, s.likely[i]);
        }
        return;
    }
    uint64_t last = UINT64_MAX;
#pragma unroll 1
    for (int32_t rank = 0; rank < n; rank++) {
        uint64_t own = 0;
        each<PACKED>(v, [&](uint32_t c, float x) {
            const uint64_t order = order_of(x, c);
            if (order < last) own = larger(own, order);
        });
        last = cta_largest(own, s.sums);
        if (threadIdx.x == 0) f(rank, last);
    }
}

/* One CTA per row, as above; the row as it is. */
template <bool PACKED>
static __global__ void __launch_bounds__(THREADS) list_tops(const spey_sample_args a)
{
    __shared__ top_state s;
    const spey_sample_rule &rule = a.rules[blockIdx.x];
    if (rule.kind == SPEY_SAMPLE_NOTHING || !rule.n_top) return;
    int32_t *ids = a.top_ids + rule.tops;
    float *logprobs = a.top_logprobs + rule.tops;
    view v = {};
    v.x = a.x + blockIdx.x * a.x_pitch;
    v.cols = static_cast<uint32_t>(a.cols);
    v.slope = spey_sample_slope(1.0);
    uint64_t best = 0;
    const uint64_t floor = find_floor<PACKED>(s, v, rule.n_top, &best);
    const uint32_t n_there = place_of(best) < 0 ? 0 : v.cols;
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < rule.n_top; i += THREADS) {
        if (static_cast<uint32_t>(i) < n_there) continue;
        ids[i] = -1;
        logprobs[i] = NAN;
    }
    if (!n_there) return;
    v.best = float_of(best);
    const double scale = list_likely<PACKED>(s, v, floor);
    rank_likely<PACKED>(s, v, rule.n_top, [&](int32_t rank, uint64_t order) {
        ids[rank] = ~static_cast<int32_t>(order);
        logprobs[rank] = static_cast<float>(float_of(order) - scale);
    });
}

/* ---- a row ---- */

template <bool PACKED>
static __global__ void __launch_bounds__(THREADS)
    sample_rows(const spey_sample_args a, const int32_t *step_ids, const int32_t *output_rows)
{
    __shared__ shared_state s;
    const spey_sample_rule &rule = a.rules[blockIdx.x];
    if (rule.kind == SPEY_SAMPLE_NOTHING) return;
    view v = {};
    v.x = a.x + blockIdx.x * a.x_pitch;
    v.cols = static_cast<uint32_t>(a.cols);
    v.slope = rule.slope;
    const changes c = changes_of(a, rule, step_ids, output_rows);
    const bool changed = c.n_history + c.n_bias + c.n_banned + c.n_pairs > 0;
    const bool masked = rule.mask >= 0, forced = rule.kind == SPEY_SAMPLE_FORCED;
    uint64_t best = 0;
    double scale = 0.0;
#pragma unroll 1
    for (int turn = !rule.wants_logprob; turn < 2 - forced;
         turn++) { /* the row as it is, and as it is to be */
        if (turn && changed) change(c, rule, v);
        if (turn && masked) v.mask = a.masks + rule.mask * a.mask_pitch;
        if (!turn || changed || masked || !rule.wants_logprob) best = find_best<PACKED>(v, s.sums);
        if (!turn) scale = log_sum_exp<PACKED>(s, v, best);
    }
    int32_t id = forced ? rule.ids : place_of(best);
    if (rule.kind == SPEY_SAMPLE_DRAW && id >= 0) {
        v.best = float_of(best);
        id = v.best == INFINITY ? -1 : draw<PACKED>(s, v, rule);
    }
    if (changed) restore(c, v);
    if (threadIdx.x > 0) return;
    const bool scored = rule.wants_logprob && id >= 0;
    a.out[blockIdx.x] = id;
    a.logprobs[blockIdx.x] = scored ? static_cast<float>(__ldcg(&v.x[id]) - scale) : NAN;
}

static bool supports(const void *args)
{
    const spey_sample_args *a = static_cast<const spey_sample_args *>(args);
    return a->cols <= SPEY_VOCAB_MAX && a->rows <= INT32_MAX;
}

/* Old logits, and counts, of every id that rules point to. */
static size_t workspace(const void *args)
{
    const spey_sample_args *a = static_cast<const spey_sample_args *>(args);
    return static_cast<size_t>(a->n_ids) * 2 * sizeof(int32_t);
}

static void run(const void *args, const spey_lane *lane)
{
    const spey_sample_args *a = static_cast<const spey_sample_args *>(args);
    if (a->rows == 0) return;
    const unsigned rows = static_cast<unsigned>(a->rows);
    const bool packed = is_aligned16(a->x) && a->x_pitch % 4 == 0 && a->cols % 4 == 0;
    if (a->n_tops && packed)
        list_tops<true><<<rows, THREADS, 0, spey_cuda_stream(lane)>>>(*a);
    else if (a->n_tops)
        list_tops<false><<<rows, THREADS, 0, spey_cuda_stream(lane)>>>(*a);
    if (packed)
        sample_rows<true><<<rows, THREADS, 0, spey_cuda_stream(lane)>>>(*a, a->batch->ids,
                                                                        a->batch->output_rows);
    else
        sample_rows<false><<<rows, THREADS, 0, spey_cuda_stream(lane)>>>(*a, a->batch->ids,
                                                                         a->batch->output_rows);
}

extern "C" const spey_kernel spey_sample_sm80;
const spey_kernel spey_sample_sm80 = { "sample/sm80", 0, supports, workspace, run, false };
