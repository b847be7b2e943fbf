/* The producer of attention on Hopper's tensor cores: what it and the consumers share, items, and copies.
 * attention_wgmma_sm90.cu explains it. */
#ifndef SPEY_KERNELS_ATTENTION_ATTENTION_WGMMA_PRODUCE_CUH
#define SPEY_KERNELS_ATTENTION_ATTENTION_WGMMA_PRODUCE_CUH

#include "kernels/attention/attention_prefill.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/sm90.cuh"
#include "kernels/cuda/wgmma.cuh"

enum {
    CONSUMERS = 2, /* warpgroups, of 64 rows each */
    CONSUMER_ROWS = 64,
    WGMMA_ROWS = CONSUMERS * CONSUMER_ROWS,
    WGMMA_THREADS = (1 + CONSUMERS) * WARPGROUP_THREADS,
    CONSUMER_WARPS = CONSUMERS * WARPGROUP_THREADS / 32,
    ITEM_SLOTS = 4,
    PRODUCER_BARRIER = 1, /* of the CTA's numbered ones */
    PRODUCER_REGISTERS = 88,
    CONSUMER_REGISTERS = 208
};

/* T: of the products, and of q, K and V, unless the cache is of E4M3 (WIDENS), which F16 holds exactly. D: largest head
 * size. Shared memory: Q, stages of K, then of V, all in panels, tiles as the cache has them (WIDENS), barriers. */
template <typename T_, int D_, bool WIDENS_> struct wgmma_traits {
    using T = T_;
    static constexpr bool WIDENS = WIDENS_;
    static constexpr int D = D_, TOKENS = D <= 128 ? 128 : 64, STAGES = 2, CHUNKS = D / 8;
    static constexpr int Q_STAGES = D <= 128 ? 2 : 1;
    static constexpr bool BUNDLES = WIDENS && Q_STAGES > 1; /* items take a tile together */
    static constexpr int PARTS = D <= 128 ? 1 : 2; /* of the output, as wide as an instruction */
    static constexpr int S_TILES = TOKENS / 8, O_TILES = D / 8 / PARTS;
    static constexpr int Q = WGMMA_ROWS * D * 2, TILE = TOKENS * D * 2, RAW = TOKENS * D;
    static constexpr int RAWS = Q_STAGES * Q + 2 * STAGES * TILE;
    static constexpr int BARRIERS = RAWS + (WIDENS ? 2 * RAW : 0);
    static constexpr int N_BARRIERS = 4 * STAGES + 2 * Q_STAGES;
    static constexpr int BYTES =
        BARRIERS + N_BARRIERS * 8 + 1024; /* to begin at a multiple of 1024 */
};

/* Where things lie. Barriers: a tile of K or V, or an item's Q, has come (`full`) or is no longer read (`empty`). */
template <typename X> struct wgmma_shared {
    uint32_t base;

    __device__ __forceinline__ uint32_t q(uint32_t item) const
    {
        return base + item % X::Q_STAGES * X::Q;
    }
    __device__ __forceinline__ uint32_t tile(bool is_v, uint32_t n) const
    {
        return base + X::Q_STAGES * X::Q + ((is_v ? X::STAGES : 0) + n % X::STAGES) * X::TILE;
    }
    __device__ __forceinline__ uint32_t raw(uint32_t n) const
    {
        return base + X::RAWS + n % 2 * X::RAW;
    }
    __device__ __forceinline__ uint32_t full(bool is_v, uint32_t n) const
    {
        return base + X::BARRIERS + ((is_v ? X::STAGES : 0) + n % X::STAGES) * 8;
    }
    __device__ __forceinline__ uint32_t empty(bool is_v, uint32_t n) const
    {
        return full(is_v, n) + 2 * X::STAGES * 8;
    }
    __device__ __forceinline__ uint32_t q_full(uint32_t item) const
    {
        return base + X::BARRIERS + (4 * X::STAGES + item % X::Q_STAGES) * 8;
    }
    __device__ __forceinline__ uint32_t q_empty(uint32_t item) const
    {
        return q_full(item) + X::Q_STAGES * 8;
    }
    /* Arrivals that end a phase of the nth barrier: all producers (and the one that wrote the item), or consumers' warps. */
    static __device__ __forceinline__ int arrivals(int n)
    {
        if (n < 2 * X::STAGES) return WARPGROUP_THREADS;
        const bool q = n >= 4 * X::STAGES && n < 4 * X::STAGES + X::Q_STAGES;
        return q ? WARPGROUP_THREADS + 1 : int{ CONSUMER_WARPS };
    }
    /* As operands of wgmma. */
    __device__ __forceinline__ uint64_t queries(int consumer, uint32_t item) const
    {
        return panel_descriptor(q(item) + consumer * CONSUMER_ROWS * PANEL_ROW_BYTES, WGMMA_ROWS);
    }
    __device__ __forceinline__ uint64_t panels(bool is_v, uint32_t n) const
    {
        return panel_descriptor(tile(is_v, n), X::TOKENS);
    }
    /* Of the barriers of the nth tile, of those of an item. */
    static __device__ __forceinline__ uint32_t phase(uint32_t n)
    {
        return n / X::STAGES % 2;
    }
    static __device__ __forceinline__ uint32_t q_phase(uint32_t item)
    {
        return item / X::Q_STAGES % 2;
    }
};

/* ---- items ---- */

/* The rows of an item and the tiles that they see (one, if there is nothing to see), the last one first. The producer finds it and puts it into shared memory,
 * where consumers read it when they need it: their registers are full. */
struct wgmma_item {
    prefill_item rows;
    int cache_len;
    cache_range range;
    int tile, tiles; /* the last tile, and how many; -1: there are no more items */
    bool fresh,
        kept; /* its tiles are not those of the item before; and are those of the next one */
    struct {
        int begin, end;
    } all[CONSUMERS]; /* what all rows of a consumer see */
};

static __device__ __forceinline__ int row_index(const prefill_item &item, int group, int row)
{
    return item.past + min(item.row + row, item.n_rows - 1) / group;
}

/* How many items of a sequence and a KV head are taken together: those that see one tile have the same one. */
template <typename X>
static __device__ __forceinline__ int bundle_of(const attention_problem &p, int bundle, int seq)
{
    const int len = p.cache_len[seq];
    const bool one = len <= X::TOKENS && (p.a.window == 0 || len <= p.a.window);
    return one ? bundle : 1;
}

/* What the rows of an item see; its sequence, KV head, rows and cache_len are there. */
template <typename X>
static __device__ __forceinline__ void find_range(const attention_problem &p,
                                                  const attention_plan &plan, wgmma_item *item)
{
    int begin = 0, end = 0;
#pragma unroll
    for (int i = 0; i < CONSUMERS; i++) {
        const warp_view view = view_of(
            p, row_index(item->rows, plan.group, i * CONSUMER_ROWS),
            row_index(item->rows, plan.group, (i + 1) * CONSUMER_ROWS - 1), item->cache_len);
        item->all[i] = { view.all_begin, view.all_end };
        if (i == 0) begin = view.some_begin;
        end = view.some_end;
    }
    item->range = { item->rows.seq, item->rows.kv_head, begin, end };
    item->tile = end > begin ? (end - 1) / X::TOKENS : 0;
    item->tiles = end > begin ? item->tile - begin / X::TOKENS + 1 : 1;
}

/* CTAs take bundles by turns, in every other round from the other end: the long ones come first. *left: items of the
 * bundle behind this one. */
template <typename X>
static __device__ __forceinline__ wgmma_item first_item(const attention_problem &p,
                                                        const attention_plan &plan, int bundle,
                                                        item_cursor *cursor, int *round, int *left)
{
    const int ctas = static_cast<int>(gridDim.x), cta = static_cast<int>(blockIdx.x);
    const int nth = *round * ctas + (*round % 2 ? ctas - 1 - cta : cta);
    const int kv_heads = static_cast<int>(p.a.n_kv_heads);
    const auto count = [&](int seq) {
        const int items = prefill_items<WGMMA_ROWS>(p, plan, seq);
        if (!X::BUNDLES || items == 0) return items;
        const int each = bundle_of<X>(p, bundle, seq);
        return (items / kv_heads + each - 1) / each * kv_heads;
    };
    int seq, inside;
    wgmma_item item;
    item.tiles = -1;
    *round += 1;
    if (!find_item<PREFILL_SEQS_EACH>(cursor, p.n_seqs, nth, count, &seq, &inside)) return item;
    int each = 1;
    if constexpr (X::BUNDLES) {
        const int nth_each = inside / kv_heads;
        each = bundle_of<X>(p, bundle, seq);
        inside += nth_each * (each - 1) * kv_heads;
    }
    item.rows = prefill_item_at<WGMMA_ROWS>(p, plan, seq, inside);
    item.cache_len = p.cache_len[seq];
    find_range<X>(p, plan, &item);
    *left = min(each - 1, item.rows.row / WGMMA_ROWS);
    item.fresh = true;
    item.kept = *left > 0;
    return item;
}

/* The rows before those of `item`, which it keeps its tile for. */
template <typename X>
static __device__ __forceinline__ wgmma_item item_behind(const attention_problem &p,
                                                         const attention_plan &plan,
                                                         wgmma_item item, bool kept)
{
    item.rows.row -= WGMMA_ROWS;
    find_range<X>(p, plan, &item);
    item.fresh = false;
    item.kept = kept;
    return item;
}

/* ---- the producer ---- */

/* Where the strips of a tile are, one a lane. */
struct strip_places {
    int block, inside;
};

template <typename X>
static __device__ __forceinline__ strip_places find_strips(const attention_problem &p,
                                                           const cache_range &range, int tile)
{
    const int lane = threadIdx.x % 32, first = tile * X::TOKENS + lane * STRIP_TOKENS;
    const int nth = p.block_shift >= 0 ? first >> p.block_shift : first / p.a.kv.block_tokens;
    const bool some =
        lane < X::TOKENS / STRIP_TOKENS && first + STRIP_TOKENS > range.begin && first < range.end;
    return { some ? p.blocks[range.seq * p.table_pitch + nth] : 0,
             first - nth * p.a.kv.block_tokens };
}

/* A tile of K or V; tokens outside of the range become zeros, unread. */
template <typename X>
static __device__ __forceinline__ void copy_panels(uint32_t to, const attention_problem &p,
                                                   const cache_range &range, int tile,
                                                   const strip_places &places, bool is_v)
{
    constexpr int PASS = WARPGROUP_THREADS / X::CHUNKS; /* tokens at once */
    const spey_kv_view &kv = p.a.kv;
    const int thread = threadIdx.x % WARPGROUP_THREADS;
    const int row = thread / X::CHUNKS, chunk = thread % X::CHUNKS;
    const int token_bytes = static_cast<int>(is_v ? kv.v_token_bytes : kv.k_token_bytes);
    const bool mine = chunk < static_cast<int>(is_v ? p.a.v_dim : p.a.k_dim) / 8;
    const uint8_t *head =
        kv.base + row * token_bytes + chunk * 16 + head_offset(kv, range.kv_head, is_v);
#pragma unroll
    for (int s = 0; s < X::TOKENS / STRIP_TOKENS; s++) {
        const int64_t block = __shfl_sync(0xffffffffu, places.block, s);
        const int inside = __shfl_sync(0xffffffffu, places.inside, s);
        const uint8_t *from = head + block * kv.block_bytes + inside * token_bytes;
#pragma unroll
        for (int i = 0; i < STRIP_TOKENS; i += PASS) {
            const int token = tile * X::TOKENS + s * STRIP_TOKENS + i + row;
            copy_async16(to + panel_place(X::TOKENS, s * STRIP_TOKENS + i + row, chunk),
                         from + i * token_bytes, mine && token >= range.begin && token < range.end);
        }
    }
}

/* Where a row of an item has its query. */
static __device__ __forceinline__ const uint16_t *
query_at(const attention_problem &p, const attention_plan &plan, const prefill_item &item, int at)
{
    const int token = at / plan.group, head = item.kv_head * plan.group + at - token * plan.group;
    return static_cast<const uint16_t *>(p.a.q) + (item.first_token + token) * p.a.q_pitch +
           head * p.a.k_dim;
}

template <typename X>
static __device__ __forceinline__ void copy_query_panels(uint32_t to, const attention_problem &p,
                                                         const attention_plan &plan,
                                                         const prefill_item &item)
{
    constexpr int PASS = WARPGROUP_THREADS / X::CHUNKS;
    const int thread = threadIdx.x % WARPGROUP_THREADS, chunk = thread % X::CHUNKS;
    const bool mine = chunk < static_cast<int>(p.a.k_dim) / 8;
#pragma unroll 4
    for (int row = thread / X::CHUNKS; row < WGMMA_ROWS; row += PASS) {
        const bool there = mine && item.row + row < item.n_rows;
        const uint16_t *q = query_at(p, plan, item, there ? item.row + row : 0) + chunk * 8;
        copy_async16(to + panel_place(WGMMA_ROWS, row, chunk), q, there);
    }
}

/* In the order in which consumers need them: K of the first tile, then of each tile before V of the one before. FIND, called
 * once all the same, finds the next item while the first tiles are on their way. */
template <typename X, typename FIND>
static __device__ __forceinline__ void produce_tiles(const attention_problem &p,
                                                     const wgmma_shared<X> &shared,
                                                     const wgmma_item &item, uint32_t n, FIND find)
{
    using S = wgmma_shared<X>;
    strip_places places = find_strips<X>(p, item.range, item.tile), before = places;
#pragma unroll 1
    for (int i = 0; i <= item.tiles; i++, n++) {
        if (i < item.tiles) {
            barrier_wait(shared.empty(false, n), S::phase(n) ^ 1);
            copy_panels<X>(shared.tile(false, n), p, item.range, item.tile - i, places, false);
            barrier_arrive_copied(shared.full(false, n));
        }
        if (i > 0) {
            barrier_wait(shared.empty(true, n - 1), S::phase(n - 1) ^ 1);
            copy_panels<X>(shared.tile(true, n - 1), p, item.range, item.tile - i + 1, before,
                           true);
            barrier_arrive_copied(shared.full(true, n - 1));
        }
        before = places;
        if (i + 1 < item.tiles) places = find_strips<X>(p, item.range, item.tile - i - 1);
        if (i == min(1, item.tiles)) find();
    }
}

/* Finds items, each into its slot. That is written when the Q of the item before it may be: then one more may still be
 * consumed, and results of another one be written. */
template <typename X> struct item_finder {
    int bundle; /* most items that are taken together */
    item_cursor cursor;
    uint32_t found;
    int round, left; /* left: of the bundle */

    __device__ __forceinline__ void find(const attention_problem &p, const attention_plan &plan,
                                         wgmma_item slots[ITEM_SLOTS])
    {
        wgmma_item item;
        if (X::BUNDLES && left > 0)
            item = item_behind<X>(p, plan, slots[(found - 1) % ITEM_SLOTS], --left > 0);
        else
            item = first_item<X>(p, plan, bundle, &cursor, &round, &left);
        if (threadIdx.x == 0) slots[found % ITEM_SLOTS] = item;
        named_sync(PRODUCER_BARRIER, WARPGROUP_THREADS);
        found++;
    }
};

template <typename X> static __device__ __forceinline__ item_finder<X> no_items_found(int bundle)
{
    return { bundle, no_items(), 0, 0, 0 };
}

template <typename X>
static __device__ __forceinline__ void
produce(const attention_problem &p, const attention_plan &plan, const wgmma_shared<X> &shared,
        wgmma_item slots[ITEM_SLOTS])
{
    using S = wgmma_shared<X>;
    item_finder<X> finder = no_items_found<X>(1);
    uint32_t n = 0;
    const auto find = [&]() { finder.find(p, plan, slots); };
    find();
    wait_for_others();
    for (uint32_t items = 0;; items++) {
        const wgmma_item item = slots[items % ITEM_SLOTS];
        barrier_wait(shared.q_empty(items), S::q_phase(items) ^ 1);
        if (item.tiles > 0) copy_query_panels<X>(shared.q(items), p, plan, item.rows);
        barrier_arrive_copied(shared.q_full(items));
        if (threadIdx.x == 0) barrier_arrive(shared.q_full(items)); /* it wrote the slot */
        if (item.tiles < 0) break;
        produce_tiles<X>(p, shared, item, n, find);
        n += item.tiles;
    }
    copy_wait<0>();
}

#endif
